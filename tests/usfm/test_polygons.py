import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.path import Path

from usfm.data.readers.polygons import (
    ddti_polygons,
    echonet_tracings,
    fill,
    json_polygon,
    kidneyus_regions,
    tracing_outline,
)
from usfm.errors import UnreadableFile

Points = npt.NDArray[np.float64]
SIZE = (40, 50)
SQUARE = np.array([[5, 4], [20, 4], [20, 12], [5, 12]], np.float64)


def inside_by_crossings(points: Points, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Even-odd rule at pixel centres: how many edges a ray to the right crosses."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    crossings = np.zeros(size, int)
    for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y1 == y2:
            continue
        spans = (y >= min(y1, y2)) & (y < max(y1, y2))
        crossings += spans & (x1 + (y - y1) / (y2 - y1) * (x2 - x1) > x)
    return crossings % 2 == 1


def star(radii: Sequence[float], centre: tuple[float, float]) -> Points:
    angles = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    return np.stack([centre[0] + radii * np.cos(angles), centre[1] + radii * np.sin(angles)], axis=1)


@given(
    st.lists(st.floats(4, 30), min_size=3, max_size=12),
    st.tuples(st.floats(10, 40), st.floats(10, 30)),
)
def test_fill_is_the_even_odd_rule(radii: list[float], centre: tuple[float, float]) -> None:
    points = star(radii, centre)  # large ones reach outside the image and are cut
    mask = fill([(3, points)], SIZE)
    assert np.array_equal(mask == 3, inside_by_crossings(points, SIZE))
    assert set(np.unique(mask)) <= {0, 3}


def test_fill_agrees_with_matplotlib() -> None:
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0]))
    for corners in range(3, 13):
        points = star(rng.uniform(4, 30, corners), (float(rng.uniform(10, 40)), float(rng.uniform(10, 30))))
        inside = Path(points).contains_points(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(SIZE)
        assert np.array_equal(fill([(1, points)], SIZE) > 0, inside)


def test_areas_are_right() -> None:
    mask = fill([(2, SQUARE)], SIZE)
    assert np.array_equal(np.argwhere(mask).min(0), [4, 5])
    assert int((mask == 2).sum()) == 15 * 8
    slanted = SQUARE + np.array([0.3, -0.4])
    assert int(fill([(1, slanted)], SIZE).sum()) == 15 * 8


def test_what_lies_outside_is_cut_not_squeezed() -> None:
    triangle = np.array([[-20, 39], [20, -1], [60, 39]], np.float64)  # its sides fall by one px per px
    mask = fill([(1, triangle)], SIZE)
    assert mask[:, 20].tolist() == [1] * 39 + [0]
    assert mask[9].tolist() == [1 if 10 <= x < 30 else 0 for x in range(50)]
    assert mask[30].tolist() == [1] * 50
    assert fill([(1, np.array([[-1e300, -1e300], [1e300, -1e300], [0, 1e300]]))], SIZE).all()


def test_later_shapes_lie_over_earlier_ones_and_stray_clicks_are_passed_over() -> None:
    inner = np.array([[8, 6], [12, 6], [12, 9], [8, 9]], np.float64)
    mask = fill([(1, SQUARE), (2, inner), (2, np.array([[30.0, 30.0]]))], SIZE)
    assert mask[4:12, 5:20].all()
    assert np.array_equal(np.argwhere(mask == 2).min(0), [6, 8])
    assert np.array_equal(np.argwhere(mask == 2).max(0), [8, 11])
    assert mask[30, 30] == 0


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ([], "no polygon is drawn"),
        ([(1, SQUARE[:2]), (1, SQUARE[:0])], "the polygon has 2 corners; at least 3 are needed"),
        ([(1, SQUARE + 500)], "hold no pixel of the image, which has 50 x 40"),
        ([(1, SQUARE * np.nan)], "not a number"),
        ([(1, SQUARE + 1e300)], "hold no pixel"),
    ],
)
def test_bad_shapes_say_why(shapes: list[tuple[int, Points]], reason: str) -> None:
    with pytest.raises(UnreadableFile, match=reason):
        fill(shapes, SIZE)


def test_json_polygon() -> None:
    assert json_polygon(b"\xef\xbb\xbf[[1, 2.5], [3, 4], [5, 6]]").tolist() == [[1, 2.5], [3, 4], [5, 6]]
    assert json_polygon(b"[]").shape == (0, 2)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[[1, 2], [3]]", "not pairs of numbers"),
        (b"[1, 2, 3]", "not pairs of numbers"),
        (b'{"a": 1}', "not pairs of numbers"),
        (b'[["a", "b"]]', "not pairs of numbers"),
        (b"[[1, 2]", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_bad_json_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableFile, match=reason):
        json_polygon(data)


def ddti_case(*marks: tuple[int, list[Points]]) -> bytes:
    text = ""
    for image, polygons in marks:
        regions = [
            {
                "points": [{"x": x, "y": y} for x, y in polygon.tolist()],
                "annotation": None,
                "regionType": "freehand",
            }
            for polygon in polygons
        ]
        text += f"<mark>\n<image>{image}</image>\n<svg>{json.dumps(regions) if polygons else ''}</svg></mark>"
    return f'<?xml version="1.0"?><case><number>7</number><tirads>4a</tirads>{text}</case>'.encode()


def test_ddti_polygons_of_each_image() -> None:
    case = ddti_case((1, [SQUARE, SQUARE + 5]), (2, [SQUARE[:3]]), (2, [SQUARE + 1]), (3, []))
    assert [p.tolist() for p in ddti_polygons(case, 1)] == [SQUARE.tolist(), (SQUARE + 5).tolist()]
    assert [p.tolist() for p in ddti_polygons(case, 2)] == [SQUARE[:3].tolist(), (SQUARE + 1).tolist()]
    assert [p.tolist() for p in ddti_polygons(ddti_case((2, [SQUARE])), None)] == [SQUARE.tolist()]


@pytest.mark.parametrize(
    ("data", "image", "reason"),
    [
        (ddti_case((1, [SQUARE]), (2, [SQUARE])), None, r"marks the images \[1, 2\]; say which one"),
        (ddti_case((1, [SQUARE]), (3, [])), 3, r"marks no polygon for image 3; it has \[1, 3\]"),
        (ddti_case(), 1, "marks no polygon for image 1; it has none"),
        (b"<case><mark>", 1, "not XML"),
        (b"<case><mark><image>one</image></mark></case>", 1, "names the image 'one'"),
        (b"<case><mark><image>1</image><svg>[</svg></mark></case>", 1, "not JSON"),
        (b"<case><mark><image>1</image><svg>{}</svg></mark></case>", 1, "no list of regions"),
        (b'<case><mark><image>1</image><svg>[{"points": [{"x": 1}]}]</svg></mark></case>', 1, "no points"),
        (b'<!DOCTYPE c [<!ENTITY a "b">]><case>&undefined;</case>', 1, "not XML"),
    ],
)
def test_bad_ddti_says_why(data: bytes, image: int | None, reason: str) -> None:
    with pytest.raises(UnreadableFile, match=reason):
        ddti_polygons(data, image)


HEADER = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"


def kidneyus_line(file: str, shape: str, anatomy: str) -> str:
    quoted = (text.replace('"', '""') for text in ('{"View":"Transverse"}', shape, anatomy))
    attributes, shape, anatomy = (f'"{text}"' for text in quoted)
    return f"{file},1000,{attributes},1,0,{shape},{anatomy}\n"


def test_kidneyus_regions() -> None:
    square = '{"name":"polygon","all_points_x":[5,20,20,5],"all_points_y":[4,4,12,12]}'
    text = HEADER + kidneyus_line("1.png", square, '{"Anatomy":"Capsule"}')
    text += kidneyus_line("1.png", square, '{"Anatomy":"Central Echo Complex "}')
    text += kidneyus_line("2.png", "{}", "{}") + kidneyus_line("3.png", '{"name":"rect","x":1}', "{}")
    regions = kidneyus_regions(text.encode())
    assert {file: [name for name, _ in found] for file, found in regions.items()} == {
        "1.png": ["capsule", "central echo complex"],
        "2.png": [],
        "3.png": [],
    }
    assert all(np.array_equal(points, SQUARE) for _, points in regions["1.png"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("filename,region_attributes\n", "lacks the columns region_shape_attributes; it has filename, region_att"),
        (HEADER + kidneyus_line("1.png", '{"name":"polygon"', "{}"), "line 2 of the polygons' table"),
        (HEADER + kidneyus_line("1.png", '{"name":"polygon","all_points_x":[1]}', "{}"), "all_points_y"),
        (
            HEADER + kidneyus_line("1.png", '{"name":"polygon","all_points_x":[1,2],"all_points_y":[1]}', "{}"),
            "line 2",
        ),
        (HEADER + kidneyus_line("1.png", "[]", "{}"), "line 2"),
    ],
)
def test_bad_kidneyus_table_says_why(text: str, reason: str) -> None:
    with pytest.raises(UnreadableFile, match=reason):
        kidneyus_regions(text.encode())
    with pytest.raises(UnreadableFile, match="not a CSV text file in UTF-8"):
        kidneyus_regions(text.encode("utf-16"))


def test_echonet_tracings_keep_the_order_of_rows() -> None:
    lines = ["FileName,X1,Y1,X2,Y2,Frame"]
    lines += [
        "b.avi,10,5,12,30,7",
        "b.avi,8,10,14,10,7",
        "a.avi,1,1,1,9,0",
        "b.avi,7,20,15,20,7",
        "b.avi,9,9,9,9,3",
    ]
    found = echonet_tracings("\n".join(lines).encode())
    assert {name: list(frames) for name, frames in found.items()} == {"a.avi": [0], "b.avi": [3, 7]}
    assert found["b.avi"][7].tolist() == [[10, 5, 12, 30], [8, 10, 14, 10], [7, 20, 15, 20]]
    outline = tracing_outline(found["b.avi"][7])  # without the long axis: left ends down, right ends up
    assert outline.tolist() == [[8, 10], [7, 20], [15, 20], [14, 10]]
    assert echonet_tracings(lines[0].encode()) == {}
    with pytest.raises(UnreadableFile, match="has 0 chords; at least 2"):
        tracing_outline(found["a.avi"][0])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("FileName,X,Y,Frame\na.avi,1,2,3\n", "lacks the columns X1, Y1, X2, Y2; it has FileName, X, Y, Frame"),
        ("FileName,X1,Y1,X2,Y2,Frame\na.avi,1,2,3,4,No Systolic\n", "not a CSV file as expected"),
        ("FileName,X1,Y1,X2,Y2,Frame\na.avi,1,2\n", "not a CSV file as expected"),
        ("", "not a CSV file as expected"),
    ],
)
def test_bad_tracings_say_why(text: str, reason: str) -> None:
    with pytest.raises(UnreadableFile, match=reason):
        echonet_tracings(text.encode())


def test_tables_are_parsed_once() -> None:
    text = b"FileName,X1,Y1,X2,Y2,Frame\nonce.avi,1,2,3,4,5\n"
    assert echonet_tracings(text) is echonet_tracings(bytes(bytearray(text)))
