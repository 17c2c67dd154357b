import xml.etree.ElementTree as ET

from usfm.report import figures
from usfm.report.numbers import OrganShare


def test_charts_take_the_pages_colours_and_escape_names() -> None:
    mix = [OrganShare("a<b> & $x$", 4, 0.5, 0.5, 8, 0.5, 2.0)]
    text = str(figures.organ_mix_chart(mix))
    root = ET.fromstring(text)
    assert "a<b> & $x$" in [element.text for element in root.iter("text")]
    assert "var(--c0)" in text
    assert "#0072b2" not in text
    assert "xmlns" not in text
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))


def test_ids_of_different_charts_do_not_clash() -> None:
    journal = [{"step": n, "loss": 1 / n, "lr": 1e-3} for n in range(1, 9)]
    charts = [figures.curve(journal, name, "title", "unit", 2) for name in ("loss", "lr")]
    first, second = ({e.get("id") for e in ET.fromstring(str(chart)).iter()} - {None} for chart in charts)
    assert first
    assert first.isdisjoint(second)
