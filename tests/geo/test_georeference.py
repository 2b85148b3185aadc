"""Georeferences of files: reading, names of CRS, and conversion of points and boxes."""

from __future__ import annotations

import io
import re
import subprocess
import sys

import numpy as np
import pytest
from affine import Affine
from PIL import Image
from rasterio.crs import CRS
from rasterio.warp import transform

from inference_server.errors import RequestError
from inference_server.geo import GeoRaster, GeoReference
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
        assert (found.epsg, found.label, found.urn) == (code, f"EPSG:{code}", urn)


def test_a_crs_without_a_code_is_named_by_its_wkt() -> None:
    crs = CRS.from_proj4("+proj=aea +lat_1=11 +lat_2=52 +lon_0=3 +datum=WGS84 +units=m")
    found = GeoRaster(tiff(crs, Affine(10, 0, 7, 0, -10, 9))).reference
    assert found is not None
    assert (found.epsg, found.urn) == (None, None)
    assert found.label is not None
    assert found.label.startswith("PROJCS[")
    assert "Albers" in found.label


def test_a_transform_alone_is_a_reference() -> None:
    found = GeoRaster(tiff(None, Affine(2, 0, 7, 0, -2, 9))).reference
    assert found is not None
    assert (found.crs, found.epsg, found.label, found.urn) == (None, None, None, None)
    np.testing.assert_array_equal(found.to_map(np.array([[3.0, 4.0]])), [[13, 1]])
    with pytest.raises(RequestError, match="this image has none"):
        found.to_pixels(np.array([[13.0, 1.0]]), "EPSG:4326")


def test_a_crs_alone_is_a_reference() -> None:
    found = GeoRaster(tiff(UTM, None)).reference
    assert found is not None
    assert (found.epsg, found.transform) == (32633, Affine.identity())


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


def test_a_box_is_enclosed_and_cut_off() -> None:
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
    expected = np.array([[2, 1, 4.5, 7], [2, 1, 4.5, 7], [0, 0, 5, 8]])
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
