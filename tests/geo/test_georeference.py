"""Georeferences of files: reading, names of CRS, and conversion of points and boxes."""

from __future__ import annotations

import io
import re
import subprocess
import sys

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from rasterio.crs import CRS
from rasterio.warp import transform

from inference_server.errors import RequestError
from inference_server.geo import GeoRaster, GeoReference, across_antimeridian
from inference_server.geo.crs import turn_of
from tests.geo.files import PLACES, SIZE, UTM, on_map, reference, tiff

CODES = {
    "mercator": (3857, "urn:ogc:def:crs:EPSG::3857"),
    "degrees": (4326, "urn:ogc:def:crs:OGC:1.3:CRS84"),
    "utm": (32633, "urn:ogc:def:crs:EPSG::32633"),
}
PIXELS = np.array([[0.0, 0.0], [10.0, 8.0], [0.5, 7.25], [9.999, 3.0]])


@pytest.mark.parametrize("place", PLACES)
def test_a_file_is_read(place: str) -> None:
    crs, transform = PLACES[place]
    found = GeoRaster(tiff(crs, transform)).reference
    assert found is not None
    assert found.crs == crs
    assert found.transform.almost_equals(transform, 1e-9)
    assert found.size == SIZE
    if place in CODES:
        code, urn = CODES[place]
        assert found.authority == ("EPSG", str(code))
        assert (found.label, found.urn) == (f"EPSG:{code}", urn)


def test_a_crs_without_a_code_is_named_by_its_wkt() -> None:
    crs = CRS.from_proj4("+proj=aea +lat_1=11 +lat_2=52 +lon_0=3 +datum=WGS84 +units=m")
    found = GeoRaster(tiff(crs, Affine(10, 0, 7, 0, -10, 9))).reference
    assert found is not None
    assert found.authority is None
    assert found.label is not None
    assert found.urn == found.label
    assert found.label.startswith("PROJCS[")
    assert "Albers" in found.label


def test_a_transform_alone_is_a_reference() -> None:
    found = GeoRaster(tiff(None, Affine(2, 0, 7, 0, -2, 9))).reference
    assert found is not None
    assert (found.crs, found.authority, found.label, found.urn) == (None, None, None, None)
    np.testing.assert_array_equal(found.to_map(np.array([[3.0, 4.0]])), [[13, 1]])
    with pytest.raises(RequestError, match="this image has none"):
        found.to_pixels(np.array([[13.0, 1.0]]), "EPSG:4326")


def test_a_crs_alone_is_a_reference() -> None:
    found = GeoRaster(tiff(UTM, None)).reference
    assert found is not None
    assert (found.label, found.transform) == ("EPSG:32633", Affine.identity())


@pytest.mark.parametrize("form", ["TIFF", "PNG", "JPEG"])
def test_an_ordinary_image_has_no_georeference(form: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (10, 8)).save(file, form)
    assert GeoRaster(file.getvalue()).reference is None


def test_a_singular_transform_is_ignored() -> None:
    file = tiff(UTM, Affine(1, 0.5, 7, 0.25, -2, 9))
    assert GeoRaster(file).reference is not None
    flat = file.replace(np.array([1, 0.5]).tobytes(), np.array([0, 0.5]).tobytes())
    flat = flat.replace(np.array([0.25, -2]).tobytes(), np.array([0, -2]).tobytes())
    assert GeoRaster(flat).reference is None
    lost = file.replace(np.array([1, 0.5]).tobytes(), np.array([np.nan, 0.5]).tobytes())
    assert lost != file
    assert GeoRaster(lost).reference is None


def test_invalid_files_return_none_silently(capfd: pytest.CaptureFixture[str]) -> None:
    file = tiff(*PLACES["utm"])
    generator = np.random.default_rng(5)
    for data in [b"", b"II*\0", b"MM\0*" + b"x" * 400, b"II+\0" + bytes(60), b"<VRTDataset/>"]:
        assert GeoRaster(data).reference is None
    for length in range(4, len(file), 7):
        _ = GeoRaster(file[:length]).reference
    for _ in range(150):
        damaged = bytearray(file)
        for position in generator.integers(4, len(file), 4):
            damaged[position] = int(generator.integers(256))
        _ = GeoRaster(bytes(damaged)).reference
    assert capfd.readouterr() == ("", "")


def test_only_tiffs_import_rasterio() -> None:
    code = (
        "import io, sys, inference_server.geo as geo\n"
        "from PIL import Image\n"
        "assert geo.GeoRaster(b'\\x89PNG').reference is None\n"
        "assert 'rasterio' not in sys.modules\n"
        "assert geo.GeoRaster(b'II*\\0' + bytes(99)).reference is None\n"
        "assert 'rasterio' not in sys.modules\n"
        "file = io.BytesIO()\n"
        "Image.new('L', (2, 2)).save(file, 'TIFF')\n"
        "assert geo.GeoRaster(file.getvalue()).reference is None\n"
        "assert 'rasterio' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_wkt_in_a_file_opens_no_other_file() -> None:
    file = tiff(
        CRS.from_proj4("+proj=tmerc +lon_0=15 +k=0.9996 +x_0=500000 +ellps=WGS84 +units=m"),
        Affine(10, 0, 499000, 0, -10, 5539000),
        GEOTIFF_KEYS_FLAVOR="ESRI_PE",
    )
    match = re.search(rb"ESRI PE String = (PROJCS.*?)\|", file)
    assert match is not None
    forged = (
        b'PROJCS["x",GEOGCS["x",DATUM["x",SPHEROID["x",6378137,298]],PRIMEM["x",0],'
        b'UNIT["degree",0.017]],PROJECTION["Mercator_1SP"],UNIT["m",1],'
        b'EXTENSION["PROJ4","+proj=merc +nadgrids=/etc/passwd"]]'
    )
    assert GeoRaster(file).reference is not None
    assert len(forged) <= len(match[1])
    found = GeoRaster(file.replace(match[1], forged.ljust(len(match[1])))).reference
    assert found is not None  # the transform remains usable
    assert found.crs is None


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "OGC:CRS84", "its own"])
def test_pixels_to_the_map_and_back(place: str, crs: str) -> None:
    if crs == "its own":
        crs = f"EPSG:{PLACES[place][0].to_epsg()}"
    image = reference(place)
    points = image.to_map(PIXELS)
    for point, (column, row) in zip(points, PIXELS, strict=True):
        assert point.tolist() == pytest.approx(on_map(image.transform, column, row), rel=1e-15)
    asked = CRS.from_user_input(crs)
    given = np.array(transform(image.crs, asked, *points.T), np.float64).T
    found = image.to_pixels(given, crs)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, PIXELS, rtol=0, atol=1e-6)


def test_degrees_on_a_utm_raster() -> None:
    # On the central meridian, at the scale 0.9996: x is 500,000 m, 100 columns from the border.
    image = reference("utm", (200, 200))
    found = image.to_pixels(np.array([[15.0, 50.0]]), "EPSG:4326")
    np.testing.assert_allclose(found, [[100, (5539000 - 5538630.702867474) / 10]], atol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "EPSG:4326",
        "epsg:4326",
        " EPSG:4326 ",
        "OGC:CRS84",
        "urn:ogc:def:crs:OGC:1.3:CRS84",
        "urn:ogc:def:crs:EPSG::4326",
        "urn:ogc:def:crs:EPSG:9.8.15:4326",
    ],
)
def test_names_of_one_crs(name: str) -> None:
    image = reference("degrees")
    found = image.to_pixels(np.array([[14.97003, 50.01998]]), name)
    np.testing.assert_allclose(found, [[3, 2]], atol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "EPSG:99999",
        "EPSG:5773",  # vertical
        "EPSG:4978",  # geocentric
        "OGC:4326",
        "EPSG:CRS84",
        "",
        "EPSG:٤٣٢٦",
        "EPSG:4326\nEPSG:3857",
        "/etc/passwd",
        "@/etc/passwd",
        "file.prj",
        "http://example.com/crs",
        "https://spatialreference.org/ref/epsg/4326/",
        "+init=file:/etc/passwd:4326",
        "+init=epsg:4326",
        "+proj=longlat +nadgrids=/etc/passwd +type=crs",
        "ESRI::/etc/passwd",
        "IMPORT_FROM_FILE:/etc/passwd",
        CRS.from_epsg(4326).to_wkt(),
        "x" * 10_000_000,
    ],
)
def test_other_names_are_refused(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    image = reference("degrees")
    with pytest.raises(RequestError, match="not a known coordinate reference") as raised:
        image.to_pixels(np.array([[14.97003, 50.01998]]), name)
    assert raised.value.status == 400
    assert raised.value.message.startswith(f"point_crs {name[:60]!r}"[:-1])
    assert "such as 'EPSG:4326'" in raised.value.message
    assert len(raised.value.message) < 400
    assert capfd.readouterr().err == ""


def test_a_point_outside_is_named_with_what_the_image_spans() -> None:
    image = reference("degrees")
    points = np.array([[14.97003, 50.01998], [50.01998, 14.97003]])
    with pytest.raises(RequestError) as raised:
        image.to_pixels(points, "EPSG:4326")
    assert raised.value.message == (
        "Point 2 (50.01998, 14.97003) lies outside the image, which spans x 14.97 to 14.9701 and "
        "y 50.01992 to 50.02 in EPSG:4326. Check that the order is x, y (longitude, latitude)."
    )
    with pytest.raises(RequestError, match=r"Box 1 .* lies outside .* x 1666.* to .* in EPSG:3857"):
        image.boxes_to_pixels(np.array([[1.0, 2.0, 3.0, 4.0]]), "EPSG:3857")


def test_a_point_that_cannot_be_transformed_is_named() -> None:
    image = reference("utm")
    good = [14.99, 49.9995]
    for bad in ([500.0, 95.0], [np.nan, 1.0], [np.inf, 0.0], [1e300, 1e300]):
        with pytest.raises(RequestError, match=r"Point 2 .* cannot be .* EPSG:4326 .* EPSG:32633"):
            image.to_pixels(np.array([good, bad]), "EPSG:4326")
    with pytest.raises(RequestError, match=r"Box 1 .* cannot be transformed"):
        image.boxes_to_pixels(np.array([[0.0, 0.0, 500.0, 95.0]]), "EPSG:4326")


def test_empty_input_gives_empty_output() -> None:
    image = reference("utm")
    assert image.to_pixels(np.zeros((0, 2)), "EPSG:4326").shape == (0, 2)
    assert image.boxes_to_pixels(np.zeros((0, 4)), "EPSG:4326").shape == (0, 4)
    assert image.to_map(np.zeros((0, 2))).shape == (0, 2)


def test_a_box_is_enclosed_and_not_cut_off() -> None:
    """Boxes are cut at the border in one place, for every API: `segmentation.prompts`."""
    image = reference("utm")  # 499000 to 499100, 5538920 to 5539000, 10 m per pixel
    boxes = np.array(
        [
            [499020, 5538930, 499045, 5538990],
            [499045, 5538990, 499020, 5538930],  # the other two corners
            [498000, 5538000, 499050, 5540000],
        ],
        np.float64,
    )
    found = image.boxes_to_pixels(boxes, "EPSG:32633")
    expected = np.array([[2, 1, 4.5, 7], [2, 1, 4.5, 7], [-100, -100, 5, 100]])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_a_box_on_a_turned_image_holds_all_its_corners() -> None:
    image = reference("turned", (100, 100))
    corners = image.to_map(np.array([[50.0, 40.0], [60.0, 55.0]]))
    box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
    found = image.boxes_to_pixels(box[None], "EPSG:32633")[0]
    corners = np.array([[box[i], box[j]] for i in (0, 2) for j in (1, 3)])
    pixels = image.to_pixels(corners, "EPSG:32633")
    enclosing = np.concatenate([pixels.min(axis=0), pixels.max(axis=0)])
    np.testing.assert_allclose(found, enclosing, rtol=0, atol=1e-6)


def test_a_box_with_edges_that_bend() -> None:
    # In UTM, a parallel from 9 to 21 degrees east is closest to the equator at its middle.
    crs, size = CRS.from_epsg(32633), (1000, 1000)
    image = GeoReference(crs, Affine(1000, 0, 0, 0, -1000, 6000000), size)
    _, top, _, bottom = image.boxes_to_pixels(np.array([[9.0, 50.0, 21.0, 52.0]]), "EPSG:4326")[0]
    middle = image.to_pixels(np.array([[15.0, 50.0], [9.0, 50.0]]), "EPSG:4326")[:, 1]
    assert bottom == pytest.approx(middle[0], abs=1e-6)
    assert bottom - middle[1] > 5
    assert top < bottom


WORLD = 2 * np.pi * 6378137  # the width of Mercator's world in metres


@pytest.mark.parametrize(
    ("crs", "turn"),
    [
        ("EPSG:4326", 360),
        ("EPSG:4807", 400),  # in grads, from Paris
        ("EPSG:3857", WORLD),
        ("EPSG:3395", WORLD),
        ("EPSG:3832", WORLD),  # centred at 150 degrees east
        ("EPSG:4087", WORLD),  # equidistant cylindrical
        ("ESRI:54009", None),  # Mollweide: parallels have different lengths
        ("EPSG:32633", None),
        ("EPSG:3413", None),
    ],
)
def test_once_around_the_earth(crs: str, turn: float | None) -> None:
    expected = None if turn is None else pytest.approx(turn, rel=1e-9)
    assert turn_of(CRS.from_string(crs)) == expected


AROUND = {
    "0 to 360": (CRS.from_epsg(4326), 285.0, 1e-5),
    "across the antimeridian": (CRS.from_epsg(4326), 179.999, 1e-5),
    "west of it": (CRS.from_epsg(4326), -180.001, 1e-5),
    "another turn": (CRS.from_epsg(4326), 540.0, 1e-5),
    "Mercator": (CRS.from_epsg(3857), WORLD / 2 - 100, 1),
    "Mercator in the Pacific": (CRS.from_epsg(3832), 3_339_500.0, 1),
    "UTM": (CRS.from_epsg(32660), 833_900.0, 1),
}


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize("asked", ["EPSG:4326", "EPSG:3857", "EPSG:4807"])
def test_coordinates_on_the_other_side(name: str, asked: str) -> None:
    """A place is found, whichever turn around the Earth its coordinates are given in."""
    crs, west, step = AROUND[name]
    image = GeoReference(crs, Affine(step, 0, west, 0, -step, 10 if step < 1 else 1e6), (200, 300))
    target = CRS.from_string(asked)
    wanted = np.array([[2.0, 3.0], [299.0, 198.0]])
    x, y = transform(crs, target, *image.to_map(wanted).T)
    for turns in (-1, 0, 1):
        points = np.array([x, y], np.float64).T
        points[:, 0] += turns * (turn_of(target) or 0)
        # Datum shifts are exact to a centimetre.
        np.testing.assert_allclose(image.to_pixels(points, asked), wanted, atol=0.02)
        (left, bottom), (right, top) = points.min(axis=0), points.max(axis=0)
        if right - left > (turn_of(target) or 0) / 2:  # its ends are on different sides
            left, right = right, left
        box = across_antimeridian(np.array([[left, bottom, right, top]]), asked)
        # In UTM, the box is turned by the convergence of meridians.
        enclosing = image.boxes_to_pixels(box, asked)
        np.testing.assert_allclose(
            enclosing, [wanted.reshape(-1)], atol=3 if name == "UTM" else 0.02
        )


def test_a_box_from_east_to_west() -> None:
    boxes = np.array([[179.0, 1, -179, 2], [3, 1, 2, 2], [-179, 1, 179, 2]])
    assert across_antimeridian(boxes, "EPSG:4326")[:, 2].tolist() == [181, 2, 179]
    assert across_antimeridian(boxes, "EPSG:32633").tolist() == boxes.tolist()
    assert boxes[0, 2] == -179


@pytest.mark.parametrize("west", [-180.0, 0.0])
def test_an_image_of_the_whole_world(west: float) -> None:
    image = GeoReference(CRS.from_epsg(4326), Affine(0.5, 0, west, 0, -0.5, 90), (360, 720))
    edges = np.array([[west, 90.0], [west + 360, -90]])
    assert image.to_pixels(edges, "EPSG:4326").tolist() == [[0, 0], [720, 360]]
    east = image.to_pixels(np.array([[10.0, 0], [370, 0], [-350, 0]]), "EPSG:4326")
    assert east[:, 0].tolist() == [2 * (10 - west)] * 3
    boxes = np.array([[-180.0, -90, 180, 90], [0, -90, 360, 90], [-200, -90, 200, 90]])
    whole, same, more = image.boxes_to_pixels(boxes, "EPSG:4326")
    assert whole.tolist() == same.tolist() == [0, 0, 720, 360]
    assert more[0] <= 0
    assert more[2] >= 720


@pytest.mark.parametrize("missing", [0.0, 2.0])
@pytest.mark.parametrize("west", [-180.0, 0.0])
@pytest.mark.parametrize("asked", ["EPSG:4326", "EPSG:3857"])
def test_a_box_across_the_seam_of_an_image_of_the_world(
    west: float, missing: float, asked: str
) -> None:
    """Its other part is at the opposite edge, so one box in pixels cannot enclose it."""
    columns = 720 - round(2 * missing)
    image = GeoReference(CRS.from_epsg(4326), Affine(0.5, 0, west, 0, -0.5, 80), (320, columns))
    edges = west, west + 360 - missing
    degree = 1.0 if asked == "EPSG:4326" else WORLD / 360

    def boxes(*spans: tuple[float, float]) -> NDArray[np.float64]:
        return np.array([[a * degree, 0, b * degree, 5 * degree] for a, b in spans])

    beside = boxes((edges[1] - 5, edges[1]), (edges[0], edges[0] + 5))
    right, left = image.boxes_to_pixels(beside, asked)
    np.testing.assert_allclose((right[0], right[2]), (columns - 10, columns), atol=1e-6)
    np.testing.assert_allclose((left[0], left[2]), (0, 10), atol=1e-6)
    for turns in (-360, 0, 360):
        across = boxes((0, 5), (edges[1] - 5 + turns, edges[1] + missing + 5 + turns))
        with pytest.raises(
            RequestError, match=r"Box 2 .* opposite edge.* Send two boxes"
        ) as caught:
            image.boxes_to_pixels(across, asked)
        assert f"in {asked}" in caught.value.message


def test_a_box_past_the_edge_of_a_part_of_the_world() -> None:
    image = GeoReference(CRS.from_epsg(4326), Affine(0.5, 0, -180, 0, -0.5, 80), (320, 600))
    box = np.array([[-190.0, 0, -170, 5]])  # 170 to 180 is not on the image
    assert image.boxes_to_pixels(box, "EPSG:4326")[0, 0] == -20


def test_the_span_of_an_image_across_the_antimeridian_does_not_hold_what_is_outside() -> None:
    image = GeoReference(CRS.from_epsg(4326), Affine(1e-5, 0, 179.999, 0, -1e-5, 10), (200, 300))
    with pytest.raises(RequestError) as raised:
        image.to_pixels(np.array([[0.0, 1_118_000]]), "EPSG:3857")
    span = re.search(r"spans x ([\d.-]+) to ([\d.-]+)", raised.value.message)
    assert span is not None
    first, last = map(float, span.groups())
    assert last - first == pytest.approx(WORLD * 0.003 / 360, abs=0.1)
    world = GeoReference(CRS.from_epsg(4326), Affine(1, 0, -180, 0, -1, 80), (10, 360))
    with pytest.raises(RequestError, match=r"spans x -200375.* to 200375"):
        world.to_pixels(np.array([[0.0, 0]]), "EPSG:3857")
