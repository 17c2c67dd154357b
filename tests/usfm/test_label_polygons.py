"""Masks that are polygons or tracings in JSON, XML and tables."""

from pathlib import Path

import numpy as np
import pytest
from mask_factory import files

from usfm.data.readers.label_masks import read_mask, read_masks
from usfm.errors import UnreadableFile

TRIANGLE = b"[[2, 2], [14, 2], [2, 14]]"
INNER = b"[[3, 3], [7, 3], [7, 7], [3, 7]]"


def test_json_polygons_are_layers() -> None:
    found = files(liver_json=TRIANGLE, mass_json=INNER)
    mask, names = read_masks("|".join(found), "polygons json: liver, mass", (16, 24), found.__getitem__)
    oracle = np.add.outer(np.arange(16), np.arange(24)) < 16
    oracle[:2] = oracle[:, :2] = False
    assert np.array_equal(mask > 0, oracle)
    assert np.argwhere(mask == 2).tolist() == [[y, x] for y in range(3, 7) for x in range(3, 7)]
    assert names == {1: "liver", 2: "mass"}
    liver = read_masks("/archive/liver.json|", "polygons json: liver, mass", (16, 24), found.__getitem__)
    assert np.array_equal(liver[0], oracle)
    assert liver[1] == {1: "liver"}


def test_ddti_polygons() -> None:
    points = "".join(f'{{"x": {x}, "y": {y}}},' for x, y in [(3, 3), (7, 3), (7, 7), (3, 7)]).rstrip(",")
    svg = f'[{{"points": [{points}], "annotation": null, "regionType": "freehand"}}]'
    xml = f"<case><mark><image>1</image><svg/></mark><mark><image>2</image><svg>{svg}</svg></mark></case>"
    mask, names = read_mask(xml.encode(), "polygons ddti-xml image=2: nodule", (16, 24))
    assert np.argwhere(mask == 1).tolist() == [[y, x] for y in range(3, 7) for x in range(3, 7)]
    assert names == {1: "nodule"}
    with pytest.raises(UnreadableFile, match="needs the size of the image"):
        read_mask(xml.encode(), "polygons ddti-xml image=2: nodule")
    with pytest.raises(UnreadableFile, match="no polygon for image 1"):
        read_mask(xml.encode(), "polygons ddti-xml image=1: nodule", (16, 24))


KIDNEYUS = """filename,region_shape_attributes,region_attributes
a b.png,"{""name"":""polygon"",""all_points_x"":[3,7,7,3],""all_points_y"":[3,3,7,7]}","{""Anatomy"":""Cortex""}"
a b.png,"{""name"":""polygon"",""all_points_x"":[1,12,12,1],""all_points_y"":[1,1,9,9]}","{""Anatomy"":""Capsule""}"
a b.png,"{""name"":""polygon"",""all_points_x"":[0,23,23,0],""all_points_y"":[0,0,15,15]}","{""Anatomy"":""Other""}"
"""


def test_kidneyus_regions_lie_in_the_order_of_the_kind() -> None:
    kind = 'polygons kidneyus-csv file="a b.png": capsule, cortex, medulla'
    mask, names = read_mask(KIDNEYUS.encode(), kind, (16, 24))
    oracle = np.zeros((16, 24), np.uint8)
    oracle[1:9, 1:12] = 1
    oracle[3:7, 3:7] = 2
    assert np.array_equal(mask, oracle)
    assert names == {1: "capsule", 2: "cortex", 3: "medulla"}
    with pytest.raises(UnreadableFile, match=r"no line for the image 'c.png'"):
        read_mask(KIDNEYUS.encode(), "polygons kidneyus-csv file=c.png: capsule", (16, 24))
    with pytest.raises(UnreadableFile, match="no polygon is drawn"):
        read_mask(KIDNEYUS.encode(), 'polygons kidneyus-csv file="a b.png": medulla', (16, 24))


TRACINGS = "FileName,X1,Y1,X2,Y2,Frame\nv.avi,6,0,6,15,4\nv.avi,3,2,9,2,4\nv.avi,3,12,9,12,4\n"


def test_echonet_tracing() -> None:
    mask, names = read_mask(TRACINGS.encode(), "polygons echonet-csv file=v.avi frame=4: left ventricle", (16, 24))
    assert np.argwhere(mask).tolist() == [[y, x] for y in range(2, 12) for x in range(3, 9)]
    assert names == {1: "left ventricle"}
    with pytest.raises(UnreadableFile, match=r"frame 5 of 'v.avi' has no tracing; traced: \[4\]"):
        read_mask(TRACINGS.encode(), "polygons echonet-csv file=v.avi frame=5: lv", (16, 24))


def test_a_table_is_read_once_until_it_changes(tmp_path: Path) -> None:
    table = tmp_path / "VolumeTracings.csv"
    table.write_text(TRACINGS)
    reads: list[str] = []

    def read(path: str) -> bytes:
        reads.append(path)
        return Path(path).read_bytes()

    kind = "polygons echonet-csv file=v.avi frame=4: left ventricle"
    masks = [read_masks(str(table), kind, (16, 24), read)[0] for _ in range(3)]
    assert len(reads) == 1
    assert all(np.array_equal(mask, masks[0]) for mask in masks)
    table.write_text(TRACINGS + "v.avi,3,14,9,14,4\n")
    assert read_masks(str(table), kind, (16, 24), read)[0].sum() == 6 * 12
    assert len(reads) == 2
