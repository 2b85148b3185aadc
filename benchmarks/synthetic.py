"""Random low-resolution logits that resemble those of segmentation models."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]

AREAS = (0.0001, 0.2)
"""Minimum and maximum mask area, as shares of the image; areas are log-uniform."""

_STEEPNESS = 60.0  # logits per image side: an outline spans about 40 cells
_HIGHEST = 20.0


def mask_logits(count: int, *, seed: int = 0, side: int = 256) -> Logits:
    """Draw logits of masks of various sizes, with wavy outlines, several parts and holes.

    Each mask has one to three parts; two in five have a hole. One mask in four is a near duplicate
    of the previous one, as when two prompts find the same object.

    Args:
        count: number of masks.
        seed: seed of the random numbers. Default: 0.
        side: side of the logits in cells. Default: 256.

    Returns:
        `float32[count, side, side]`, above 0 inside a mask.
    """
    rng = np.random.default_rng(seed)
    logits = np.empty((count, side, side), np.float32)
    for i in range(count):
        if i % 4 == 3:
            shift = np.array([[1, 0, rng.uniform(-1, 1)], [0, 1, rng.uniform(-1, 1)]], np.float32)
            logits[i] = cv2.warpAffine(
                logits[i - 1], shift, (side, side), borderMode=cv2.BORDER_REPLICATE
            )
        else:
            share = math.exp(rng.uniform(math.log(AREAS[0]), math.log(AREAS[1])))
            logits[i] = _one(rng, share, side)
    return logits


def full_frame_logits(count: int, *, seed: int = 0, side: int = 256) -> Logits:
    """Draw logits of masks that cover the whole image except for a few holes.

    Args:
        count: number of masks.
        seed: seed of the random numbers. Default: 0.
        side: side of the logits in cells. Default: 256.

    Returns:
        `float32[count, side, side]`, above 0 inside a mask.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    logits = np.full((count, side, side), _HIGHEST, np.float32)
    for plane in logits:
        for _ in range(5):
            distance = _outside(rng, x, y, rng.uniform(0, 1, 2), rng.uniform(0.02, 0.08))
            np.minimum(plane, _STEEPNESS * distance, out=plane)
    return logits


def noise_logits(count: int, *, seed: int = 0, side: int = 256) -> Logits:
    """Draw white noise, the worst case, with outlines in almost every cell.

    Args:
        count: number of planes.
        seed: seed of the random numbers. Default: 0.
        side: side of the logits in cells. Default: 256.

    Returns:
        `float32[count, side, side]`.
    """
    return np.random.default_rng(seed).standard_normal((count, side, side), np.float32)


def _one(rng: np.random.Generator, share: float, side: int) -> Logits:
    """Draw the logits of one mask that covers a share of the image."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    parts = int(rng.integers(1, 4))
    # A disc of radius r covers pi * r * r; parts do not overlap.
    radius = math.sqrt(share / parts / math.pi)
    margin = min(radius, 0.4)
    centre = rng.uniform(margin, 1 - margin, 2)
    outside = np.full((side, side), np.inf, np.float32)
    for part in range(parts):
        at = centre + (_beside(rng, 2.6 * radius) if part else 0)
        distance = _outside(rng, x, y, at, radius)
        if rng.random() < 0.4:
            hole = _outside(rng, x, y, at + rng.normal(0, 0.2 * radius, 2), 0.4 * radius)
            np.maximum(distance, -hole, out=distance)
        np.minimum(outside, distance, out=outside)
    # Corrects the area for overlaps, holes and the image's border.
    cells = max(1, round(share * side * side))
    level = np.partition(outside.ravel(), cells)[cells]
    logits: Logits = np.clip(_STEEPNESS * (level - outside), -_HIGHEST, _HIGHEST)
    return logits


def _beside(rng: np.random.Generator, distance: float) -> NDArray[np.float64]:
    """Return a step (x, y) of a given length in a random direction."""
    turn = rng.uniform(0, 2 * math.pi)
    return distance * np.array([math.cos(turn), math.sin(turn)])


def _outside(
    rng: np.random.Generator, x: Logits, y: Logits, centre: NDArray[np.float64], radius: float
) -> Logits:
    """Return the signed distance of each cell from a wavy ellipse, in image sides."""
    stretch, turn, phase = rng.uniform(0.6, 1.6), rng.uniform(0, math.pi), rng.uniform(0, 7)
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    cos, sin = np.float32(math.cos(turn)), np.float32(math.sin(turn))
    u, v = (cos * dx + sin * dy) * np.float32(stretch), (cos * dy - sin * dx) / np.float32(stretch)
    waves = int(rng.integers(3, 9))
    wavy = 1 + np.float32(0.12) * np.sin(np.arctan2(v, u) * waves + np.float32(phase))
    distance: Logits = np.hypot(u, v) - np.float32(radius) * wavy
    return distance
