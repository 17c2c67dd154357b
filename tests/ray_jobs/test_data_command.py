import csv
import json
from pathlib import Path

import cv2
import pytest
from card_factory import card_rows, picture, write_card_shards

from ray_jobs import data
from ray_jobs.cli import main
from usfm.data.hash_list import read_hash_list


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_card_shards(tmp_path / "shards", card_rows())


def test_the_card_lies_beside_the_shards_or_where_it_is_asked_for(shards: Path, tmp_path: Path, capsys) -> None:
    assert main(["data", "card", str(shards), "card.images_per_organ=2"]) == 0
    assert json.loads((shards / "card" / "data_card.json").read_text())["rows"] == 24
    assert str(shards / "card" / "data_card.html") in capsys.readouterr().out
    assert main(["data", "card", str(shards), f"output={tmp_path / 'other'}", "card.images_per_organ=2"]) == 0
    assert (tmp_path / "other" / "data_card.html").read_text().startswith("<!doctype html>")


def test_a_dry_run_touches_nothing(shards: Path, capsys) -> None:
    before = sorted(shards.rglob("*"))
    assert main(["data", "card", "--dry-run", str(shards)]) == 0
    assert '"rows": 24' in capsys.readouterr().out
    assert main(["data", "hashes", "--dry-run", str(shards)]) == 0
    assert '"kind": "shards"' in capsys.readouterr().out
    assert sorted(shards.rglob("*")) == before


def test_a_list_of_held_out_rows_finds_no_training_row(shards: Path, tmp_path: Path, capsys) -> None:
    listed = tmp_path / "own.csv"
    assert main(["data", "hashes", str(shards), f"output={listed}", "split=test"]) == 0
    assert len(read_hash_list(listed).names) == 8
    assert main(["data", "contamination", str(shards), str(listed)]) == 0
    out = capsys.readouterr().out
    assert "8 of 8 images of the list are in 8 + 0 rows" in out
    assert "training rows" not in out


def test_training_rows_in_a_list_give_exit_status_1(shards: Path, tmp_path: Path, capsys) -> None:
    listed = tmp_path / "all.csv"
    main(["data", "hashes", str(shards), f"output={listed}"])
    assert main(["data", "contamination", str(shards), str(listed), "name=bench"]) == data.IN_LIST == 1
    out = capsys.readouterr().out
    assert "12 training rows are in bench" in out
    assert "heart" in out
    with (shards / "contamination" / "bench.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 24
    # the same with keys, and into another folder
    keys = [f"list={listed}", f"shards={shards}", f"output={tmp_path / 'out'}"]
    assert main(["data", "contamination", *keys]) == 1
    assert json.loads((tmp_path / "out" / "all.json").read_text())["train_rows"] == 12


def test_an_archive_is_hashed_without_shards(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "archive" / "heart"
    folder.mkdir(parents=True)
    for n in range(3):
        (folder / f"{n}.png").write_bytes(cv2.imencode(".png", picture(n, 90, 120))[1].tobytes())
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    assert main(["data", "hashes", str(tmp_path / "archive"), f"output={tmp_path / 'a.csv'}"]) == 0
    assert read_hash_list(tmp_path / "a.csv").known.tolist() == [True] * 3
    assert "refused: 1 x file" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["card", "{tmp}/nothing"], "run `usfm ingest` first"),
        (["contamination", "{shards}"], "no hash list is given"),
        (["contamination", "{shards}", "{tmp}/none.csv"], "no hash list at"),
        (["contamination", "{shards}", "{tmp}/none.csv", "name=a/b"], "name"),
        (["hashes", "{shards}", "output={tmp}/folder"], "ends in .csv"),
        (["hashes", "{tmp}/nothing"], "no input at"),
    ],
)
def test_what_cannot_be_done_is_said_with_exit_status_2(
    arguments: list[str], said: str, shards: Path, tmp_path: Path, capsys
) -> None:
    filled = [text.format(tmp=tmp_path, shards=shards) for text in arguments]
    assert main(["data", *filled]) == 2
    assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("verb", data.VERBS)
def test_every_verb_has_a_help(verb: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["data", verb, "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("usage:")


@pytest.mark.parametrize("arguments", [[], ["crad"]])
def test_an_unknown_verb_lists_the_known(arguments: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["data", *arguments])
    assert stop.value.code == 2
    assert "card" in capsys.readouterr().err
