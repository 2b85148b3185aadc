"""The models of the GPU benchmark, and the usual code around them, which runs them eagerly."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import sam3_models
from benchmarks.automatic import generator_of
from benchmarks.sam2_models import Sam2, predictor_of
from benchmarks.sam3_models import Sam3, Words
from inference_server.engines.device import Compute
from inference_server.engines.load_weights import load_sam2
from inference_server.engines.weights import find_sam2
from inference_server.segmentation.types import AutomaticOptions

Image = NDArray[np.uint8]
Planes = NDArray[np.bool_]


def compute_of(device: torch.device, dtype: torch.dtype) -> Compute:
    """A device with one dtype.

    Args:
        device: the device.
        dtype: dtype of products, by autocast.
    """
    return Compute(device, dtype, dtype)


def wait_for(device: torch.device) -> None:
    """Wait until the device has done its work.

    Args:
        device: the device; on a CPU, work is done when a call returns.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_mb(device: torch.device) -> float:
    """Peak memory of tensors since the last call, in MB; 0 without a GPU.

    Args:
        device: the device.
    """
    if device.type != "cuda":
        return 0.0
    peak = torch.cuda.max_memory_allocated(device) / 1e6
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return peak


def decoded(jpeg: bytes) -> Image:
    """Decode an image file to RGB.

    Args:
        jpeg: the file.
    """
    found: Any = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    image: Image = found
    return image


@dataclass(frozen=True, slots=True)
class EagerSam2:
    """`SAM2ImagePredictor` and its mask generator.

    Attributes:
        predictor: the predictor.
        using: device, and dtype of autocast.
    """

    predictor: Any
    using: Compute

    @classmethod
    def of(cls, weights: Sam2, using: Compute) -> EagerSam2:
        """Load weights to the device.

        Args:
            weights: the weights.
            using: device, and dtype of autocast.
        """
        model = load_sam2(find_sam2(weights.weights)[weights.version], using)
        return cls(predictor_of(model), using)

    def in_dtype(self, dtype: torch.dtype) -> EagerSam2:
        """The same model in another dtype.

        Args:
            dtype: dtype of autocast.
        """
        return replace(self, using=compute_of(self.using.device, dtype))

    def show(self, image: Image) -> None:
        """Encode an image.

        Args:
            image: `uint8[H, W, 3]`, RGB.
        """
        with self._context():
            self.predictor.set_image(image)
        wait_for(self.using.device)

    def click(self, point: tuple[float, float]) -> Planes:
        """The best of three masks at a point of the image that was encoded last.

        Args:
            point: x, y in pixels.
        """
        with self._context():
            masks, scores, _ = self.predictor.predict(
                np.array([point], np.float32), np.ones(1, np.int32), multimask_output=True
            )
        plane: Planes = masks[int(np.argmax(scores))] > 0
        return plane

    def boxes(self, boxes: NDArray[np.float32]) -> Planes:
        """A mask for each box, in one batch.

        Args:
            boxes: `float32[N, 4]`, x0, y0, x1, y1 in pixels.
        """
        with self._context():
            masks, _, _ = self.predictor.predict(box=boxes, multimask_output=False)
        planes: Planes = masks.reshape(-1, *masks.shape[-2:]) > 0
        return planes

    def encode(self, count: int) -> None:
        """Run the image encoder.

        Args:
            count: images in the batch.
        """
        model = self.predictor.model
        side, device = model.image_size, self.using.device
        with torch.inference_mode(), self.using.autocast():
            model.forward_image(torch.zeros(count, 3, side, side, device=device))
        wait_for(device)

    def automatic(self, image: Image, options: AutomaticOptions) -> int:
        """Find everything; returns the number of masks.

        Args:
            image: `uint8[H, W, 3]`, RGB.
            options: grid and thresholds.
        """
        generator = generator_of(self.predictor, options)
        with self._context():
            return len(generator.generate(image))

    def _context(self) -> AbstractContextManager[object]:
        return self.using.autocast()


@dataclass(frozen=True, slots=True)
class EagerSam3:
    """`Sam3Model` with its processor.

    Attributes:
        sam3: the model.
    """

    sam3: Sam3

    @classmethod
    def of(cls, device: torch.device, *, small: bool) -> EagerSam3:
        """Build a SAM 3 on the device, in float32.

        Args:
            device: the device.
            small: use the demo instead of random weights at the published size.
        """
        with device:
            sam3 = sam3_models.demo() if small else sam3_models.published()
        model: Any = sam3.model
        model.to(device)
        return cls(replace(sam3, compute=compute_of(device, torch.float32)))

    def in_dtype(self, dtype: torch.dtype) -> EagerSam3:
        """The same model in another dtype.

        Args:
            dtype: dtype of autocast.
        """
        using = compute_of(self.sam3.compute.device, dtype)
        return EagerSam3(replace(self.sam3, compute=using))

    def vision(self, image: Image) -> Any:
        """Encode an image.

        Args:
            image: `uint8[H, W, 3]`, RGB.
        """
        return self.sam3.vision(image)

    def encode(self, count: int) -> None:
        """Run the image encoder.

        Args:
            count: images in the batch.
        """
        sam3, device = self.sam3, self.sam3.compute.device
        processor: Any = sam3.processor
        side = processor.image_processor.size["height"]
        with torch.inference_mode(), sam3.compute.autocast():
            sam3.model.get_vision_features(torch.zeros(count, 3, side, side, device=device))
        wait_for(device)

    def concepts(self, vision: Any, words: Words) -> None:
        """Decode texts on an encoded image, in one batch; the masks stay on the device.

        Args:
            vision: the encoded image.
            words: the embedded texts.
        """
        self.sam3.bare(vision, words)
        wait_for(self.sam3.compute.device)

    def whole(self, image: Image, text: str) -> None:
        """Encode an image and a text and decode it, without post-processing.

        Args:
            image: `uint8[H, W, 3]`, RGB.
            text: the text.
        """
        self.concepts(self.vision(image), self.sam3.words([text]))


def planes_iou(ours: Sequence[Planes], theirs: Sequence[Planes]) -> float:
    """The lowest IoU of pairs of masks; that of two empty masks is 1.

    Args:
        ours: masks, `bool[H, W]` each.
        theirs: as many.
    """
    ious = []
    for one, other in zip(ours, theirs, strict=True):
        union = int((one | other).sum())
        ious.append(int((one & other).sum()) / union if union else 1.0)
    return min(ious)
