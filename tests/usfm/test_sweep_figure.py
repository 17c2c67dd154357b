"""The picture of a sweep: two charts of a page in a file that stands alone."""

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from sweep_factory import write_sweep

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import sweep_figure  # noqa: E402

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("inits", [("dual", "scratch", "unet"), ("dual",)])
def test_curves_and_differences_in_one_picture(tmp_path: Path, inits: tuple[str, ...]) -> None:
    sweep = write_sweep(tmp_path / "sweep", fractions=(0.05, 1.0), seeds=range(3), items=20, inits=inits)
    out = tmp_path / "made" / "figure.svg"
    sweep_figure.main([str(sweep), "--task", "head", "--out", str(out)])
    root = ElementTree.parse(out).getroot()
    assert root.tag == f"{SVG}svg"
    background, *charts = root
    assert (background.tag, background.get("fill")) == (f"{SVG}rect", "#ffffff")
    assert [chart.get("aria-label") for chart in charts] == [
        "Dice over the share of the labels, head", "differences of Dice over the share of the labels, head"
    ][: 1 + (len(inits) > 1)]  # fmt: skip
    ends = [float(chart.get("x")) + float(chart.get("width")) for chart in charts]
    assert all(float(chart.get("x")) > end for chart, end in zip(charts[1:], ends[:-1], strict=True))
    assert ends[-1] < float(root.get("width").removesuffix("pt"))
    words = ["".join(text.itertext()).strip() for text in root.iter(f"{SVG}text")]
    assert set(inits) <= set(words)
    assert words.count("share of the training labels") == len(charts)
    assert words.count("dual − scratch") == ("scratch" in inits)
    # nothing of the page that the charts are made for, and ids that do not clash
    assert "var(" not in out.read_text(encoding="utf-8")
    ids = [name for element in root.iter() if (name := element.get("id"))]
    assert len(ids) == len(set(ids))


def test_a_task_without_scores_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = write_sweep(tmp_path, tasks=("view",), fractions=(1.0,), seeds=range(2), items=8)
    with pytest.raises(SystemExit):
        sweep_figure.main([str(sweep), "--task", "head", "--out", str(tmp_path / "figure.svg")])
    assert "has scores of view, not of head" in capsys.readouterr().err
    assert not (tmp_path / "figure.svg").exists()
