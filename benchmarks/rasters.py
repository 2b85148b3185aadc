"""Reading rasters of any size by windows: memory and time, in a process of its own per raster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import Cell, Goal, Report, Table

_SIDES = (7072, 14_142, 28_284)  # 50, 200 and 800 MP
_SMALL = (600, 1200)
_TILE, _STEP = 1008, 882
_PATTERN = 1024

_KINDS: dict[str, dict[str, Any]] = {
    "strips, 8 bits": {"blockysize": 1},
    "tiles, 8 bits": {"tiled": True, "blockxsize": 256, "blockysize": 256},
    "tiles, 16 bits, half without data": {
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "dtype": "uint16",
        "nodata": 0,
    },
}


def _pattern() -> NDArray[np.uint8]:
    """Patches of colours with a little noise: `uint8[3, side, side]`."""
    rng = np.random.default_rng(0)
    patches = rng.integers(20, 230, (3, 64, 64), np.uint8)
    noise = rng.integers(0, 4, (3, _PATTERN, _PATTERN), np.uint8)
    large = patches.repeat(_PATTERN // 64, 1).repeat(_PATTERN // 64, 2)
    return np.asarray(large + noise, np.uint8)


def write_raster(path: Path, side: int, kind: str) -> None:
    """Write a square raster of three bands, compressed by deflate.

    Args:
        path: the file to write.
        side: width and height in pixels.
        kind: one of the structures.
    """
    import rasterio
    from rasterio.windows import Window

    import inference_server.images.gdal  # noqa: F401 - silences a warning

    options = {"dtype": "uint8", "compress": "deflate", "zlevel": 1, **_KINDS[kind]}
    row = np.tile(_pattern(), (1, 1, -(-side // _PATTERN)))[:, :, :side].astype(options["dtype"])
    if "nodata" in options:
        row *= 20
        row[:, :, side // 2 :] = 0
    with rasterio.open(
        path, "w", driver="GTiff", width=side, height=side, count=3, BIGTIFF="IF_SAFER", **options
    ) as file:
        for y in range(0, side, _PATTERN):
            height = min(_PATTERN, side - y)
            file.write(row[:, :height], window=Window(0, y, side, height))


def _read_all(path: Path) -> dict[str, float]:
    """Read all windows of a raster as a segmentation does; return what it took."""
    import rasterio  # noqa: F401 - not counted

    from inference_server.images.raster_source import RasterSource
    from inference_server.images.window import Window
    from inference_server.images.window_reader import RasterLimits

    before = _memory("VmRSS")
    begin, cpu = time.perf_counter(), time.process_time()
    done = 0
    with RasterSource.at(path, RasterLimits()) as source, source.reader() as reader:
        height, width = reader.size
        for y, x in product(range(0, height, _STEP), range(0, width, _STEP)):
            window = Window(x, y, min(_TILE, width - x), min(_TILE, height - y))
            if reader.has_data(window):
                reader.read(window)
                done += 1
    return {
        "seconds": time.perf_counter() - begin,
        "cpu": time.process_time() - cpu,
        "mib": (_memory("VmHWM") - before) / 1024,
        "windows": done,
    }


def _memory(name: str) -> int:
    """A figure of this process in KiB; `ru_maxrss` would include that of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = [line for line in lines if line.startswith(f"{name}:")]
    return int(found.split()[1])


def _measured(path: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.rasters", str(path)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout  # noqa: S603
    found: dict[str, float] = json.loads(output)
    return found


def run(small: bool) -> Report:
    """Measure reading.

    Args:
        small: read small rasters.
    """
    rows: list[dict[str, Cell]] = []
    peaks: list[float] = []
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, side in product(_KINDS, _SMALL if small else _SIDES):
            path = Path(folder, "raster.tif")
            write_raster(path, side, kind)
            found = _measured(path)
            megapixels = side * side / 1e6
            peaks.append(found["mib"])
            rates.setdefault(kind, []).append(found["cpu"] / megapixels)
            rows.append(
                {
                    "raster": kind,
                    "MP": round(megapixels),
                    "file (MiB)": round(os.path.getsize(path) / 2**20),
                    "windows with data": round(found["windows"]),
                    "seconds": round(found["seconds"], 2),
                    "CPU ms per MP": round(1000 * found["cpu"] / megapixels, 1),
                    "peak extra memory (MiB)": round(found["mib"]),
                }
            )
    slower = max(each[-1] / each[1 if len(each) > 2 else 0] for each in rates.values())
    return Report(
        "rasters",
        "Reading rasters by windows",
        [Table("All windows of a raster, one after another", rows)],
        [
            Goal("peak extra memory of any raster", max(peaks), 350, "at most", "MiB"),
            Goal("CPU time per pixel, 800 MP against 200 MP", slower, 1.3, "at most"),
        ],
        [
            f"Rasters of three bands, compressed by deflate, in windows of {_TILE} x {_TILE} "
            "pixels that overlap by an eighth. Each raster is read in a new process, and the "
            "memory is that beyond the imported libraries. It includes GDAL's cache (128 MiB), "
            "and for strips the rows of a row of windows (at most 128 MiB).",
        ],
    )


if __name__ == "__main__":
    print(json.dumps(_read_all(Path(sys.argv[1]))))
