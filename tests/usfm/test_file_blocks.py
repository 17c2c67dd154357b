"""The script that groups files of unknown patients by blocks, for an upper bound."""

import csv
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import file_blocks  # noqa: E402

KEYS = ("path", "organ", "mask_path", "group", "source")


def test_consecutive_files_of_one_source_share_a_block(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus, folder = tmp_path / "corpus", tmp_path / "blocks"
    rows = [(f"a/images/{n:02d}.png", "nerve", f"a/masks/{n:02d}.png", "unknown", "a") for n in (4, 0, 3, 1, 2)]
    rows.append(("b/0.png", "heart", "", "p1", "b"))
    for path in [part for row in rows for part in (row[0], row[2]) if part]:
        (corpus / path).parent.mkdir(parents=True, exist_ok=True)
        (corpus / path).write_bytes(path.encode())
    with (corpus / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([KEYS, *rows])
    assert file_blocks.main([str(corpus), str(folder), "--source", "a", "--size", "2"]) == 0
    assert "5 rows in 3 blocks" in capsys.readouterr().out
    with (folder / "manifest.csv").open(newline="") as file:
        made = list(csv.DictReader(file))
    assert [(row["path"][-6:-4], row["group"]) for row in made] == [
        ("00", "block 0"), ("01", "block 0"), ("02", "block 1"), ("03", "block 1"), ("04", "block 2"),
    ]  # fmt: skip
    assert all(
        (folder / row[key]).read_bytes() == row[key].encode() for row in made for key in ("path", "mask_path")
    )
    assert not (folder / "b").exists()
    with pytest.raises(SystemExit):
        file_blocks.main([str(corpus), str(tmp_path / "none"), "--source", "c"])
