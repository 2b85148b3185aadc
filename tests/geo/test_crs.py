"""Coordinate reference systems: names, safety and transformation of points."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from rasterio.crs import CRS

from inference_server.errors import RequestError
from inference_server.geo import crs as module
from inference_server.geo.crs import harmless, parse_crs, transform_points


@pytest.mark.parametrize(
    ("name", "code"),
    [("EPSG:3857", 3857), ("epsg::32633", 32633), ("urn:ogc:def:crs:EPSG:9.8.15:2180", 2180)],
)
def test_names(name: str, code: int) -> None:
    assert parse_crs(name) == CRS.from_epsg(code)


def test_esri_and_ogc_names() -> None:
    assert "Mollweide" in parse_crs("ESRI:54009").to_wkt()
    assert parse_crs("OGC:CRS84").is_geographic
    with pytest.raises(RequestError, match="point_crs 'ESRI:1'"):
        parse_crs("ESRI:1")


@pytest.mark.parametrize("code", [3857, 4326, 32633, 2180, 27700, 31467, 4277])
def test_ordinary_crs_are_harmless(code: int) -> None:
    crs = CRS.from_epsg(code)
    assert harmless(crs) == crs
    assert harmless(CRS.from_wkt(crs.to_wkt())) == crs


def test_shifts_by_numbers_are_harmless() -> None:
    crs = CRS.from_proj4("+proj=tmerc +lon_0=9 +ellps=bessel +towgs84=598,73,418,0,0,0,0 +units=m")
    kept = harmless(crs)
    assert kept is crs
    assert "TOWGS84[598" in kept.to_wkt()


@pytest.mark.parametrize(
    "text",
    [
        "+proj=longlat +ellps=bessel +nadgrids=/etc/passwd +type=crs",
        "+proj=longlat +ellps=bessel +nadgrids=@/etc/passwd,null +type=crs",
        "+proj=merc +ellps=WGS84 +geoidgrids=/etc/passwd +vunits=m +type=crs",
        "+proj=ob_tran +o_proj=longlat +o_lat_p=30 +type=crs",
    ],
)
def test_crs_that_could_open_files_are_dropped(text: str) -> None:
    assert harmless(CRS.from_string(text)) is None


def test_none_stays_none() -> None:
    assert harmless(None) is None


def test_points_that_cannot_be_transformed_become_nan_alone() -> None:
    points = np.array([[15.0, 50.0], [500.0, 95.0], [np.nan, 50.0], [15.0, 0.0]])
    moved = transform_points(CRS.from_epsg(4326), CRS.from_epsg(32633), points)
    np.testing.assert_allclose(
        moved,
        np.array([[500000, 5538630.702867474], [np.nan] * 2, [np.nan] * 2, [500000, 0]]),
        rtol=0,
        atol=1e-6,
    )


def test_the_number_of_calls_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def failing(source: CRS, target: CRS, points: NDArray[np.float64]) -> None:
        calls.append(len(points))

    monkeypatch.setattr(module, "_transform", failing)
    points = np.zeros((9216, 2))
    moved = transform_points(CRS.from_epsg(4326), CRS.from_epsg(32633), points, max_calls=40)
    assert np.isnan(moved).all()
    assert len(calls) == 40


@pytest.mark.parametrize("first", [0, 1, 4999, 9215])
@pytest.mark.parametrize("others", [False, True], ids=["one", "many"])
def test_points_that_fail_cost_few_calls(
    monkeypatch: pytest.MonkeyPatch, first: int, others: bool
) -> None:
    """GDAL fails for all points if it fails for one; asked point by point, it takes a minute."""
    calls = []
    transform = module._transform

    def counting(source: CRS, target: CRS, points: NDArray[np.float64]) -> object:
        calls.append(len(points))
        return transform(source, target, points)

    monkeypatch.setattr(module, "_transform", counting)
    points = np.tile([[-123.0, 45.1]], (9216, 1))
    points[first] = 9e8
    if others:
        points[first::3] = 9e8
    moved = transform_points(CRS.from_user_input("ESRI:54009"), CRS.from_epsg(26910), points)
    assert len(calls) <= 64
    failed = np.isnan(moved).any(axis=1)
    assert np.flatnonzero(failed)[0] == first
    if not others:
        assert failed.sum() == 1
