"""A pool of training scenes on disk, rendered once and read repeatedly.

Rendering a scene costs as much as training on it. A background process renders scenes into
memory-mapped files while training already reads them; flips and quarter turns vary them.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from training.scenes import TrainingObject, training_scene

MAX_OBJECTS = 8
"""Maximum number of objects of a scene, unless said otherwise."""

Draw = Callable[[np.random.Generator, int, int], tuple[NDArray[np.uint8], list[TrainingObject]]]
_PER_SCENE_SEED = 0x9A11


@dataclass
class SceneBatch:
    """A batch of scenes with ground truth; K is the maximum number of objects of the pool.

    Attributes:
        images: `uint8[B, 3, S, S]`, RGB.
        ids: object ids of the pixels, `int64[B, S, S]`; 0 is background, `i + 1` is object `i`.
        shape: index into `SHAPES`, `int64[B, K]`; -1 for no object.
        color: index into `COLORS`, `int64[B, K]`; -1 for no object.
        boxes: `float32[B, K, 4]`: x0, y0, x1, y1 as shares of the side.
    """

    images: Tensor
    ids: Tensor
    shape: Tensor
    color: Tensor
    boxes: Tensor

    def to(self, device: str) -> SceneBatch:
        """Copy the batch to a device.

        Args:
            device: `cpu` or `cuda`.
        """
        return SceneBatch(
            *(t.to(device) for t in (self.images, self.ids, self.shape, self.color, self.boxes))
        )

    def shrunk(self, side: int) -> SceneBatch:
        """Shrink images and ids to a side of which theirs is a multiple.

        Args:
            side: side in pixels.
        """
        factor = self.ids.shape[-1] // side
        if factor == 1:
            return self
        images = F.avg_pool2d(self.images.float(), factor).round().to(torch.uint8)
        ids = self.ids[:, factor // 2 :: factor, factor // 2 :: factor]
        return SceneBatch(images, ids, self.shape, self.color, self.boxes)


class ScenePool:
    """Reads random scenes from a directory that `draw` fills.

    Args:
        folder: directory of the pool.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._images: NDArray[np.uint8] = np.load(folder / "images.npy", mmap_mode="r")
        self._ids: NDArray[np.uint8] = np.load(folder / "ids.npy", mmap_mode="r")
        self._objects: NDArray[np.float32] = np.load(folder / "objects.npy", mmap_mode="r")

    def __len__(self) -> int:
        return int((self.folder / "drawn").read_text())

    def sample(self, rng: np.random.Generator, count: int) -> SceneBatch:
        """Draw random scenes, randomly flipped as a batch.

        Args:
            rng: source of randomness.
            count: number of scenes.
        """
        drawn = np.sort(rng.integers(0, len(self), count))
        images = torch.from_numpy(self._images[drawn]).permute(0, 3, 1, 2)
        ids = torch.from_numpy(self._ids[drawn]).long()
        objects = torch.from_numpy(self._objects[drawn])
        boxes = objects[..., 2:].clone()
        if rng.random() < 0.5:
            images, ids = images.flip(3), ids.flip(2)
            boxes = torch.stack(
                [1 - boxes[..., 2], boxes[..., 1], 1 - boxes[..., 0], boxes[..., 3]], -1
            )
        if rng.random() < 0.5:
            images, ids = images.flip(2), ids.flip(1)
            boxes = torch.stack(
                [boxes[..., 0], 1 - boxes[..., 3], boxes[..., 2], 1 - boxes[..., 1]], -1
            )
        return SceneBatch(
            images.contiguous(), ids, objects[..., 0].long(), objects[..., 1].long(), boxes
        )


def draw(
    folder: Path,
    size: int,
    count: int,
    seed: int,
    scene: Draw = training_scene,
    most: int = MAX_OBJECTS,
) -> None:
    """Render scenes into a directory, or continue an interrupted run.

    Args:
        folder: directory of the pool.
        size: side of the square images in pixels.
        count: number of scenes.
        seed: seed of the scenes; scene `i` of a seed is always the same.
        scene: draws a scene. Default: coloured shapes on textures.
        most: maximum number of objects of a scene. Default: 8.
    """
    cv2.setNumThreads(1)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # another run draws them
        _draw(folder, size, count, seed, scene, most)


def _draw(folder: Path, size: int, count: int, seed: int, scene: Draw, most: int) -> None:
    progress, partial = folder / "drawn", folder / "drawn.partial"
    first = int(progress.read_text()) if progress.exists() else 0
    mode = "r+" if first else "w+"
    open_memmap: Any = np.lib.format.open_memmap
    images = open_memmap(folder / "images.npy", mode, np.uint8, (count, size, size, 3))
    ids = open_memmap(folder / "ids.npy", mode, np.uint8, (count, size, size))
    objects = open_memmap(folder / "objects.npy", mode, np.float32, (count, most, 6))
    for i in range(first, count):
        rng = np.random.default_rng((_PER_SCENE_SEED, seed, i))
        images[i], found = scene(rng, size, most)
        ids[i], objects[i] = 0, -1
        for j, item in enumerate(found):
            ids[i][item.mask] = j + 1
            objects[i, j] = (item.shape, item.color, *item.box)
        if i % 100 == 99 or i == count - 1:
            partial.write_text(str(i + 1))
            partial.replace(progress)  # a reader never sees an empty file


def open_pool(
    folder: Path,
    size: int,
    count: int,
    seed: int,
    wait_for: int = 1000,
    *,
    scene: Draw = training_scene,
    most: int = MAX_OBJECTS,
) -> ScenePool:
    """Start rendering in a background process, and open the pool when it has enough scenes.

    Args:
        folder: directory of the pool.
        size: side of the square images in pixels.
        count: number of scenes; each takes about 65 kB at size 128.
        seed: seed of the scenes.
        wait_for: number of scenes to wait for. Default: 1,000.
        scene: as for `draw`. Default: coloured shapes on textures.
        most: as for `draw`. Default: 8.

    Returns:
        The pool, which grows while it is read.
    """
    progress = folder / "drawn"
    if not progress.exists() or int(progress.read_text()) < count:
        context = multiprocessing.get_context("spawn")
        arguments = (folder, size, count, seed, scene, most)
        context.Process(target=draw, args=arguments, daemon=True).start()
        while not progress.exists() or int(progress.read_text()) < min(wait_for, count):
            time.sleep(0.5)
    return ScenePool(folder)
