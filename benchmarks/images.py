"""From a base64 photograph to the model's input, compared with the reference code."""

from __future__ import annotations

import base64
import hashlib
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from sam2.sam2_image_predictor import SAM2ImagePredictor
from sam2.utils.transforms import SAM2Transforms
from torch import Tensor
from transformers import Sam3ImageProcessor

from benchmarks.report import Cell, Goal, Report, Table
from benchmarks.timing import compare, exponent
from inference_server.demo.scenes import Scene, make_scene
from inference_server.engines.device import choose_compute
from inference_server.engines.load_weights import load_sam2, load_sam3
from inference_server.engines.resize import Normalizer, resize
from inference_server.engines.weights import find_sam2, find_sam3
from inference_server.images import decode_base64, decode_image, decode_picture

Pixels = NDArray[np.uint8]
Plane = NDArray[np.bool_]

_QUALITY = 90
_MAX_BYTES = 50 * 2**20
_MAX_PIXELS = 50_000_000
_GRAIN = 1024  # side of the tile of sensor noise, in pixels


def photograph(width: int, height: int, seed: int = 0) -> Pixels:
    """Generate an image that compresses like a photograph: a scene, texture and grain.

    Args:
        width: width in pixels.
        height: height in pixels.
        seed: seed of the scene, texture and grain. Default: 0.

    Returns:
        `uint8[height, width, 3]`, RGB; as JPEG of quality 90 it takes 2.5 bits per pixel.
    """
    rng = np.random.default_rng(seed)
    base = make_scene(seed, (1024, 768)).image.astype(np.float32)
    for octave in range(2, 10):
        cells = rng.normal(0, 30 / 1.7 ** (octave - 2), (3 * 2**octave // 4, 2**octave, 3))
        cells = cells.astype(np.float32)
        base = base + np.asarray(cv2.resize(cells, (1024, 768), interpolation=cv2.INTER_CUBIC))
    pixels = cv2.resize(base.clip(0, 255).astype(np.uint8), (width, height))
    grain = rng.normal(0, 9, (_GRAIN, _GRAIN, 3)).astype(np.int16)
    for y in range(0, height, _GRAIN):
        for x in range(0, width, _GRAIN):
            tile = pixels[y : y + _GRAIN, x : x + _GRAIN]
            tile[:] = (tile + grain[: tile.shape[0], : tile.shape[1]]).clip(0, 255)
    return pixels.astype(np.uint8, copy=False)


def jpeg(pixels: Pixels) -> bytes:
    """Encode pixels as JPEG of quality 90, with colours at half resolution as usual.

    Args:
        pixels: `uint8[H, W, 3]`, RGB.
    """
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return data.tobytes()


def _decode_all(data: bytes) -> Pixels:
    """Decode at full size with OpenCV, which takes two thirds of Pillow's time."""
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    decoded: Any = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    pixels: Pixels = decoded
    return pixels


@dataclass(frozen=True)
class Preparation:
    """Implementations from base64 to one model's input, `float32[3, side, side]`.

    Attributes:
        name: name of the model.
        side: side of its input in pixels.
        std: standard deviation of the normalisation, by channel.
        reference: the model's own preparation, from `uint8[H, W, 3]`.
        normalize: the server's normalisation.
    """

    name: str
    side: int
    std: Sequence[float]
    reference: Callable[[Pixels], Tensor]
    normalize: Normalizer

    def by_reference(self, text: str) -> Tensor:
        """Decode at full size, and resize with the model's own code.

        Args:
            text: image file in base64.
        """
        return self.reference(_decode_all(base64.b64decode(text)))

    def in_full(self, text: str) -> Tensor:
        """Prepare as the server does, but decode at full size.

        Args:
            text: image file in base64.
        """
        data = decode_base64(text, max_bytes=_MAX_BYTES)
        return self.finish(decode_image(data, max_pixels=_MAX_PIXELS))

    def by_server(self, text: str) -> Tensor:
        """Prepare as the server does.

        Args:
            text: image file in base64.
        """
        data = decode_base64(text, max_bytes=_MAX_BYTES)
        picture = decode_picture(data, max_pixels=_MAX_PIXELS, side=self.side)
        return self.finish(picture.pixels, picture.extent)

    def finish(self, pixels: Pixels, extent: tuple[float, float] | None = None) -> Tensor:
        """Resize and normalise as the server does.

        Args:
            pixels: `uint8[H, W, 3]`, RGB.
            extent: height and width in pixels that the image covers. Default: all pixels.
        """
        return self.normalize([resize(pixels, self.side, extent)])[0]

    def steps(self, found: Tensor, expected: Tensor) -> dict[str, Cell]:
        """Compare two inputs, in steps of 1/255 of the pixel range.

        Args:
            found: `float32[3, side, side]` to judge.
            expected: the reference's input.
        """
        off = (found - expected).abs() * torch.tensor(self.std)[:, None, None] * 255
        square = float(off.square().mean())
        return {
            "mean difference (of 255)": float(off.mean()),
            "maximum difference (of 255)": float(off.max()),
            "PSNR (dB)": f"{10 * np.log10(255**2 / square):.1f}" if square else "equal",
        }


def preparations(sam2_side: int, sam3_side: int) -> list[Preparation]:
    """Return the implementations for SAM 2 and SAM 3.

    Args:
        sam2_side: side of SAM 2's input in pixels.
        sam3_side: side of SAM 3's input in pixels.
    """
    transforms: Any = SAM2Transforms(sam2_side, 0.0)  # type: ignore[no-untyped-call]
    processor: Any = Sam3ImageProcessor(size={"height": sam3_side, "width": sam3_side})
    mean, std, half = transforms.mean, transforms.std, [0.5] * 3

    def sam3(pixels: Pixels) -> Tensor:
        inputs = processor(images=[pixels], input_data_format="channels_last", return_tensors="pt")
        values: Tensor = inputs["pixel_values"][0]
        return values

    return [
        Preparation("SAM 2", sam2_side, std, transforms, Normalizer(mean, std)),
        Preparation("SAM 3", sam3_side, half, sam3, Normalizer(half, half)),
    ]


class DemoModels:
    """The demo checkpoints in plain `sam2` and `transformers`: from model inputs to masks."""

    def __init__(self) -> None:
        compute = choose_compute("cpu", "float32")
        model = load_sam2(find_sam2("demo")["hiera_tiny"], compute)
        found = find_sam3("demo")
        source, name = found.source, found.name
        loaded, processor = load_sam3(source, name, compute)
        self._sam3: Any = loaded
        self._tokenizer: Any = processor.tokenizer
        self._predictor: Any = SAM2ImagePredictor(model)
        side = model.image_size
        # The predictor assumes an input of 1024 x 1024.
        self._predictor._bb_feat_sizes = [(side // 4,) * 2, (side // 8,) * 2, (side // 16,) * 2]
        self.preparations = preparations(side, processor.image_processor.size["height"])

    @torch.inference_mode()
    def visual(self, values: Tensor, scene: Scene) -> list[Plane]:
        """Return SAM 2's masks, `bool[H, W]`, by a click on each object and by its box.

        Args:
            values: model input, `float32[3, side, side]`.
            scene: scene that the input shows.
        """
        height, width = scene.image.shape[:2]
        predictor = self._predictor
        # Replaces the preparation in `set_image` by the given input.
        whole = np.zeros((predictor.model.image_size,) * 2 + (3,), np.uint8)
        predictor._transforms.__dict__["to_tensor"] = lambda _: values
        predictor._transforms.transforms = torch.nn.Identity()
        predictor.set_image(whole)
        predictor._orig_hw = [(height, width)]
        masks = []
        for item in scene.objects:
            for prompt in (
                {"point_coords": np.array([item.click()]), "point_labels": np.ones(1)},
                {"box": np.array(item.box)},
            ):
                found, scores, _ = predictor.predict(**prompt, multimask_output=True)
                masks.append(found[scores.argmax()] > 0)
        return masks

    @torch.inference_mode()
    def concept(self, values: Tensor, scene: Scene) -> list[list[Plane]]:
        """Return SAM 3's masks, `bool[H, W]`, for each kind of object in the scene.

        Args:
            values: model input, `float32[3, side, side]`.
            scene: scene that the input shows.
        """
        height, width = scene.image.shape[:2]
        answers = []
        for text in sorted({f"{item.color} {item.shape}" for item in scene.objects}):
            words = self._tokenizer(
                text, return_tensors="pt", padding="max_length", truncation=True, max_length=32
            )
            output = self._sam3(
                pixel_values=values[None],
                input_ids=words["input_ids"],
                attention_mask=words["attention_mask"],
            )
            scores = (output.pred_logits.sigmoid() * output.presence_logits.sigmoid())[0]
            planes = output.pred_masks[0][scores > 0.5].numpy()
            answers.append([cv2.resize(plane, (width, height)) > 0 for plane in planes])
        return answers


def _iou(a: Plane, b: Plane) -> float:
    either = int(np.count_nonzero(a | b))
    return int(np.count_nonzero(a & b)) / either if either else 1.0


def _agreement(found: list[Plane], expected: list[Plane]) -> list[float]:
    """Return the IoU of each expected mask with its best match; 0 for missing or extra masks.

    The order of instances does not matter.
    """
    ious = [max((_iou(mask, other) for other in found), default=0.0) for mask in expected]
    return ious + [0.0] * max(0, len(found) - len(expected))


def _difference_of_masks(models: DemoModels, sizes: list[tuple[int, int]], seeds: range) -> Table:
    """Compare the effect of reduced decoding on masks with that of JPEG itself."""
    rows: list[dict[str, Cell]] = []
    sam2, sam3 = models.preparations
    for width, height in sizes:
        visual: dict[str, list[float]] = {"jpeg": [], "reduced": [], "whole": [], "truth": []}
        concept: dict[str, list[float]] = {"jpeg": [], "reduced": []}
        for seed in seeds:
            scene = make_scene(seed, (width, height))
            text = base64.b64encode(jpeg(scene.image)).decode()
            truth = [item.mask for item in scene.objects for _ in range(2)]
            lossless = models.visual(sam2.finish(scene.image), scene)
            whole = models.visual(sam2.in_full(text), scene)
            reduced = models.visual(sam2.by_server(text), scene)
            visual["jpeg"] += map(_iou, whole, lossless)
            visual["reduced"] += map(_iou, reduced, whole)
            visual["whole"] += map(_iou, whole, truth)
            visual["truth"] += map(_iou, reduced, truth)
            expected = models.concept(sam3.in_full(text), scene)
            for kind, values in (
                ("jpeg", sam3.finish(scene.image)),
                ("reduced", sam3.by_server(text)),
            ):
                for found, wanted in zip(models.concept(values, scene), expected, strict=True):
                    concept[kind] += _agreement(found, wanted)
        rows.append(
            {
                "image": f"{width} x {height}",
                "SAM 2: IoU, reduced vs. full decoding": statistics.fmean(visual["reduced"]),
                "SAM 2: minimum": min(visual["reduced"]),
                "SAM 2: IoU, JPEG vs. lossless": statistics.fmean(visual["jpeg"]),
                "SAM 2: IoU with ground truth, reduced decoding": statistics.fmean(visual["truth"]),
                "SAM 2: IoU with ground truth, full decoding": statistics.fmean(visual["whole"]),
                "SAM 3: IoU, reduced vs. full decoding": statistics.fmean(concept["reduced"]),
                "SAM 3: IoU, JPEG vs. lossless": statistics.fmean(concept["jpeg"]),
            }
        )
    title = "Masks of the demo models (256 and 128 pixels), with and without reduced decoding"
    return Table(title, [{k: _four(v) for k, v in row.items()} for row in rows])


def _four(cell: Cell) -> Cell:
    """Format with four digits: IoUs close to 1 need more than other figures."""
    return f"{cell:.4f}" if isinstance(cell, float) else cell


def longest_wait(work: Callable[[], object], *, rounds: int = 5) -> float:
    """Measure how long a thread waits for the interpreter lock while a worker thread works.

    Args:
        work: work of the worker thread.
        rounds: number of repetitions; the median is returned. Default: 5.

    Returns:
        Longest delay in seconds of a loop that sleeps for 0.1 ms.
    """
    work()
    worst = []
    for _ in range(rounds):
        thread = threading.Thread(target=work)
        most, last = 0.0, time.perf_counter()
        thread.start()
        while thread.is_alive():
            time.sleep(0.0001)
            now = time.perf_counter()
            most, last = max(most, now - last - 0.0001), now
        thread.join()
        worst.append(most)
    return statistics.median(worst)


def _waits(text: str, preparation: Preparation) -> Table:
    data = base64.b64decode(text)
    picture = decode_picture(data, max_pixels=_MAX_PIXELS, side=preparation.side)
    ways: dict[str, Callable[[], object]] = {
        "base64.b64decode": partial(base64.b64decode, text),
        "decode_base64": partial(decode_base64, text, max_bytes=_MAX_BYTES),
        "SHA-256": lambda: hashlib.sha256(data).digest(),
        "decode_picture": partial(
            decode_picture, data, max_pixels=_MAX_PIXELS, side=preparation.side
        ),
        "resize": partial(resize, picture.pixels, preparation.side, picture.extent),
    }
    timings = compare(ways, rounds=7)
    return Table(
        "Steps, and the longest wait of another thread for the interpreter lock",
        [
            {
                "step": name,
                "best (ms)": timings[name].best * 1e3,
                "longest wait (ms)": longest_wait(work) * 1e3,
            }
            for name, work in ways.items()
        ],
    )


def run(small: bool) -> Report:
    """Run the benchmark.

    Args:
        small: use the demo models and small images, for a run of a few seconds.
    """
    models = DemoModels()
    sizes = [(512, 384), (1024, 768), (2048, 1536)] if small else _SIZES
    prepared = models.preparations if small else preparations(1024, 1008)
    middle = sizes[1]
    report = Report("images", "From a base64 photograph to the model's input")
    texts = {size: base64.b64encode(jpeg(photograph(*size))).decode() for size in sizes}
    costs: list[dict[str, Cell]] = []
    differences: list[dict[str, Cell]] = []
    for model in prepared:
        taken: dict[str, list[float]] = {"reference": [], "whole": [], "server": []}
        for size, text in texts.items():
            ways: dict[str, Callable[[], object]] = {
                "reference": partial(model.by_reference, text),
                "whole": partial(model.in_full, text),
                "server": partial(model.by_server, text),
            }
            timings = compare(ways, rounds=1 if small else 5)
            for way, timing in timings.items():
                taken[way].append(timing.median)
            reference, whole, server = (timings[way].median for way in ways)
            data = base64.b64decode(text)
            picture = decode_picture(data, max_pixels=_MAX_PIXELS, side=model.side)
            costs.append(
                {
                    "model": model.name,
                    "image": _megapixels(size),
                    "base64 (MB)": len(text) / 1e6,
                    "decoded at": f"1/{picture.scale}",
                    "pixels (MB)": picture.pixels.nbytes / 1e6,
                    "reference (ms)": reference * 1e3,
                    "server, full decoding (ms)": whole * 1e3,
                    "server (ms)": server * 1e3,
                    "speed-up (x)": reference / server,
                }
            )
            expected = model.by_reference(text)
            for way, found in (("whole", model.in_full(text)), ("server", model.by_server(text))):
                differences.append(
                    {
                        "model": model.name,
                        "image": _megapixels(size),
                        "decoded at": "1/1" if way == "whole" else f"1/{picture.scale}",
                        **model.steps(found, expected),
                    }
                )
            if size == middle:
                what = (
                    f"{model.name}, {_megapixels(size)}: speed-up over full decoding and resizing"
                )
                report.goals.append(Goal(what, reference / server, 2.0, "at least"))
        pixels = [width * height for width, height in sizes]
        report.notes.append(
            f"{model.name}: cost grows with the number of pixels to the power of "
            f"{exponent(pixels, taken['server']):.2f} in the server and of "
            f"{exponent(pixels, taken['reference']):.2f} in the reference."
        )
    report.tables = [
        Table("From base64 to the normalised input", costs),
        Table("Difference from the reference input", differences),
        _waits(texts[middle], prepared[0]),
        _difference_of_masks(
            models, [(1024, 768)] if small else _SCENES, range(2) if small else range(6)
        ),
    ]
    report.notes[:0] = [
        "Reference: `base64.b64decode`, OpenCV's decoder and the model's own preparation "
        "(`SAM2Transforms`, `Sam3ImageProcessor`). The server with full decoding shows the effect "
        "of reduced decoding. Images are generated: a scene with texture and grain, as JPEG of "
        "quality 90.",
    ]
    return report


_SIZES = [(2000, 1500), (4000, 3000), (8000, 6000)]

# The demo models have small inputs: these sizes are decoded at 1/2, 1/4 and 1/8 for SAM 2, just
# above the required resolution, and at 1/4, 1/8 and 1/8 for SAM 3.
_SCENES = [(960, 720), (1920, 1440), (3840, 2880)]


def _megapixels(size: tuple[int, int]) -> str:
    return f"{size[0] * size[1] / 1e6:.2g} MP"
