"""Results of jobs as files: COCO, GeoJSON and GeoTIFF, written piece by piece."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from inference_server import __version__, geo
from inference_server.errors import ImageTooLargeError
from inference_server.images.file_bytes import no_space_reported
from inference_server.images.raster_source import RasterSource
from inference_server.jobs.task import ResultFile
from inference_server.masks import Layer, coco_annotation, coco_pieces, id_type, label_strips
from inference_server.segmentation.postprocess import rank_of
from inference_server.segmentation.tiling import TiledObjects
from inference_server.settings import MiB, Settings
from schemas.roboflow import ConceptJobRequest, JobSource

_NAMES = {"coco": "coco.json", "geojson": "objects.geojson", "geotiff": "ids.tif"}
_OCTETS = "application/octet-stream"


@no_space_reported("INFERENCE_JOB_RESULT_MB")
def result_files(
    source: RasterSource,
    objects: TiledObjects,
    body: ConceptJobRequest,
    model: str,
    settings: Settings,
) -> tuple[ResultFile, ...]:
    """Write the files that a job asks for; call it in a thread for slow work.

    Args:
        source: the image.
        objects: its objects.
        body: the request.
        model: label of the model, for the description of the COCO document.
        settings: how large the files may be together.

    Raises:
        ImageTooLargeError: they are larger than the limit.
        RequestError: the coordinates cannot be converted.
        StorageError: the temporary storage is full.
    """
    georeference = geo.GeoRaster(
        source.data,
        max_metadata_items=settings.max_tiff_metadata_items,
        max_calls=settings.max_transformations,
    ).reference
    names = [_label(prompt.text, number) for number, prompt in enumerate(body.prompts)]
    files = []
    with TemporaryDirectory(prefix="inference-") as directory:
        room = settings.job_result_mb * MiB
        for form in dict.fromkeys(body.files):
            path = Path(directory, _NAMES[form])
            if form == "geotiff":
                _write_ids(path, objects, georeference, room)
            elif form == "geojson":
                mapped: geo.MapCoordinates | None = georeference
                if body.geojson_crs is not None:
                    mapped = geo.Reprojection.of(georeference, body.geojson_crs)
                _write(path, _features(objects, names, mapped, body.simplify_epsilon), room)
            else:
                _write(path, _coco(objects, names, body, model), room)
            room -= path.stat().st_size
            files.append(ResultFile(path.name, _OCTETS, path.read_bytes()))
            path.unlink()
    return tuple(files)


def _label(text: str | None, number: int) -> str:
    """Name of a concept: its words, or its number."""
    return text or f"prompt {number}"


def _features(
    objects: TiledObjects,
    names: Sequence[str],
    reference: geo.MapCoordinates | None,
    epsilon: float,
) -> Iterator[bytes]:
    described = (
        (
            each.mask,
            {
                "value": number,
                "score": each.score,
                "category": names[each.prompt],
                "prompt_index": each.prompt,
            },
        )
        for number, each in enumerate(objects, 1)
    )
    return geo.polygon_pieces(described, reference, epsilon)


def _coco(
    objects: TiledObjects, names: Sequence[str], body: ConceptJobRequest, model: str
) -> Iterator[bytes]:
    height, width = objects.size
    categories = list(dict.fromkeys(names))
    info = {
        "description": f"Found by {model}",
        "version": __version__,
        "contributor": "inference-server",
    }
    annotations = (
        {
            "image_id": 1,
            **coco_annotation(
                each.mask,
                each.score,
                categories.index(names[each.prompt]) + 1,
                body.mask_format,
                body.simplify_epsilon,
            ),
        }
        for each in objects
    )
    image = {"id": 1, "file_name": _file_name(body), "width": width, "height": height}
    return coco_pieces(info, categories, [image], annotations)


def _file_name(body: ConceptJobRequest) -> str:
    """Name of the image in a COCO document: that of the server's directory, or its id."""
    if isinstance(body.image, JobSource) and body.image.type == "file":
        return body.image.value
    return body.image_id or "image"


def _write_ids(
    path: Path, objects: TiledObjects, reference: geo.GeoReference | None, most: int
) -> None:
    dtype = id_type(len(objects))

    def touching(rows: range) -> Iterator[Layer]:
        _check(path.stat().st_size if path.exists() else 0, most)
        for number, each in objects.touching(rows):
            yield Layer(number + 1, each.mask, rank_of(each))

    strips = label_strips(touching, objects.size, dtype)
    geo.write_label_strips(path, strips, objects.size, dtype, reference)
    _check(path.stat().st_size, most)


def _write(path: Path, pieces: Iterable[bytes], most: int) -> None:
    written = 0
    with path.open("wb") as file:
        for piece in pieces:
            written += len(piece)
            _check(written, most)
            file.write(piece)


def _check(nbytes: int, most: int) -> None:
    if nbytes > most:
        raise ImageTooLargeError(
            "The files of the result are larger than the limit. Ask for fewer or other files "
            "(geotiff is the smallest), raise output_prob_thresh, send simplify_epsilon or a part "
            "of the raster, or raise INFERENCE_JOB_RESULT_MB on the server."
        )
