"""SAM 2 at its published sizes with smoothed random weights, in the published file layout.

Plain random weights give masks of noise, which are unrealistic and much slower to trace than real
ones. So the weights are smoothed: image features and high-resolution skips are damped, and some
weights of the mask decoder are set so that a click selects a blob around itself. Shapes, dtypes and
the number of operations are those of the published models.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_image_predictor import SAM2ImagePredictor
from torch import Tensor

from inference_server.demo import WEIGHTS
from inference_server.engines.device import Compute, choose_compute
from inference_server.engines.load_weights import load_sam2
from inference_server.engines.weights import find_sam2

RECIPE = 1
"""Version of the smoothing; increment it to generate new files."""

AREAS = (0.08, 0.08, 0.05, 0.14)
"""Approximate areas of the blobs of the four mask tokens, as shares of the image."""

_FILES = {
    "hiera_tiny": ("sam2.1_hiera_tiny.pt", "sam2.1_hiera_t.yaml"),
    "hiera_small": ("sam2.1_hiera_small.pt", "sam2.1_hiera_s.yaml"),
    "hiera_b_plus": ("sam2.1_hiera_base_plus.pt", "sam2.1_hiera_b+.yaml"),
    "hiera_large": ("sam2.1_hiera_large.pt", "sam2.1_hiera_l.yaml"),
}
VERSIONS = tuple(_FILES)
"""Published versions, smallest first."""

_DAMPED = 1e-3  # factor of image features; the rest moves outlines by less than a pixel
_FREQUENCIES = 0.6  # factor of the positional encoding; below 1 widens blobs
_SHARPNESS = 6.0  # logit of a pixel's attention to a prompt at its position
_STRENGTH = 0.3  # norm of the attended value; a pixel's own features have about 16
_HIGHEST = 8.0
_PROMPTS = 12


@dataclass(frozen=True, slots=True)
class Sam2:
    """A model for the server and the reference.

    Attributes:
        version: `sam2_version_id` in requests.
        weights: value of `INFERENCE_SAM2_WEIGHTS`.
    """

    version: str
    weights: str

    def load(self, dtype: str = "float32") -> SAM2Base:
        """Load the unmodified class with the weights, on the CPU.

        Args:
            dtype: precision, as in `INFERENCE_DTYPE`. Default: float32.
        """
        return load_sam2(find_sam2(self.weights)[self.version], compute(dtype))


def compute(dtype: str) -> Compute:
    """Choose the CPU with a precision.

    Args:
        dtype: precision; `auto` for the server's default.
    """
    return choose_compute("cpu", dtype)


def demo() -> Sam2:
    """Return the demo model, for tests of the benchmarks."""
    return Sam2("hiera_tiny", "demo")


def softened(version: str) -> Sam2:
    """Return a published size with smoothed random weights, cached in the temporary directory.

    Args:
        version: one of `VERSIONS`.
    """
    filename, _ = _FILES[version]
    user = os.getuid() if hasattr(os, "getuid") else 0
    root = Path(tempfile.gettempdir()) / f"inference-server-benchmarks-{user}"
    directory = root / f"{version}-{RECIPE}"
    if not (directory / filename).exists():
        directory.mkdir(parents=True, exist_ok=True)
        model = random_model(packaged_config(version))
        soften(model)
        partial = directory / f"{filename}.{os.getpid()}"
        torch.save({"model": model.state_dict()}, partial)
        partial.replace(directory / filename)
    return Sam2(version, str(directory))


def packaged_config(version: str) -> Any:
    """Load the configuration of a published size from the package `sam2`.

    Args:
        version: one of `VERSIONS`.
    """
    import sam2

    return OmegaConf.load(Path(sam2.__path__[0]) / "configs" / "sam2.1" / _FILES[version][1])


def demo_config() -> Any:
    """Load the configuration of the demo model."""
    return OmegaConf.load(WEIGHTS / "sam2" / "config.yaml")


def random_model(config: Any, *, seed: int = 0) -> SAM2Base:
    """Build a model with its default initialisation, without changing torch's random state.

    Args:
        config: configuration with the key `model`.
        seed: seed of the weights. Default: 0.
    """
    OmegaConf.resolve(config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: SAM2Base = hydra.utils.instantiate(config.model, _recursive_=True)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def soften(model: SAM2Base, *, seed: int = 0) -> None:
    """Change weights in place so that a prompt selects a smooth blob around itself.

    In the last layer, pixels attend to prompt tokens by distance: keys and queries use the same
    weights, restricted to the positional encoding. All prompts add the same direction to the
    attending pixels. The last biases of the hypernetworks are fitted by least squares to read a
    cone around the prompt from it, shifted so that the part above 0 covers a share in `AREAS`.

    Args:
        model: model with random weights.
        seed: seed of the prompts used for fitting. Default: 0.
    """
    parts: Any = model  # submodules are untyped in torch
    decoder, encoder = parts.sam_mask_decoder, parts.sam_prompt_encoder
    for level in parts.image_encoder.neck.convs:
        level[0].weight.mul_(_DAMPED)
        level[0].bias.mul_(_DAMPED)
    for skip in (decoder.conv_s0, decoder.conv_s1):
        skip.bias.zero_()
    for index in (0, 3):  # avoids a pattern of 4 x 4 pixels
        upscaling = decoder.output_upscaling[index]
        upscaling.weight.copy_(upscaling.weight.mean((2, 3), keepdim=True).expand(-1, -1, 2, 2))
    encoder.pe_layer.positional_encoding_gaussian_matrix.mul_(_FREQUENCIES)

    first, last = decoder.transformer.layers[0], decoder.transformer.layers[-1]
    # Tokens attend to themselves, so that prompt tokens differ from the others.
    first.self_attn.q_proj.weight.mul_(3)
    first.self_attn.k_proj.weight.copy_(first.self_attn.q_proj.weight)
    first.norm4.weight.mul_(0.1)
    last.norm3.weight.mul_(0.05)
    attention = last.cross_attn_image_to_token
    _attend_by_nearness(attention, decoder, encoder)

    decode = _blank_decoder(model)
    generator = torch.Generator().manual_seed(seed)
    _tell_of_prompts(attention, decode, generator)
    _read_blobs(decoder, decode, generator, encoder.image_embedding_size[0])


def _attend_by_nearness(attention: Any, decoder: Any, encoder: Any) -> None:
    learned = [decoder.obj_score_token, decoder.iou_token, decoder.mask_tokens]
    learned += [encoder.not_a_point_embed, *encoder.point_embeddings]
    basis, _ = torch.linalg.qr(torch.cat([tokens.weight for tokens in learned]).T)
    weight = attention.q_proj.weight
    weight = weight - weight @ basis @ basis.T
    heads = attention.num_heads
    placed = (weight @ encoder.get_dense_pe()[0].flatten(1)).unflatten(0, (heads, -1))
    score = placed.square().sum(1).mean() / math.sqrt(placed.shape[1])
    weight = weight * math.sqrt(_SHARPNESS / score)
    for projection in (attention.q_proj, attention.k_proj):
        projection.weight.copy_(weight)
        projection.bias.zero_()


Decode = Callable[[Tensor, Sequence[int]], Any]
"""Decodes points `[K, 2]`, in shares of the image, with their labels."""


def _blank_decoder(model: SAM2Base) -> Decode:
    """Return the mask decoder for an image without features."""
    decoder, encoder = model.sam_mask_decoder, model.sam_prompt_encoder
    side = encoder.image_embedding_size[0]
    channels = model.hidden_dim
    image = model.no_mem_embed.view(1, channels, 1, 1).expand(-1, -1, side, side)
    skips = [
        torch.zeros(1, channels // 8, 4 * side, 4 * side),
        torch.zeros(1, channels // 4, 2 * side, 2 * side),
    ]

    def decode(points: Tensor, labels: Sequence[int]) -> Any:
        sparse, dense = encoder(
            points=(points[None] * model.image_size, torch.tensor([list(labels)])),
            boxes=None,
            masks=None,
        )
        return decoder(
            image_embeddings=image,
            image_pe=encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            repeat_image=False,
            high_res_features=skips,
        )

    return decode


@contextmanager
def _inputs_of(layer: Any) -> Iterator[list[Tensor]]:
    """Collect the inputs of a layer while the context is open."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0][0].double()))
    try:
        yield seen
    finally:
        hook.remove()


def _tell_of_prompts(attention: Any, decode: Decode, generator: torch.Generator) -> None:
    """Set the attention's values: one direction for prompt tokens, zero for the others."""
    prompts: list[Tensor] = []
    others: list[Tensor] = []
    for labels in ([1], [2, 3]) * 3:
        with _inputs_of(attention.v_proj) as seen:
            decode(torch.rand(len(labels), 2, generator=generator), labels)
        # Output tokens, prompt tokens, one padding token.
        rest = len(seen[0]) - len(labels) - 1
        prompts.append(seen[0][rest:-1])
        others += [seen[0][:rest], seen[0][-1:]]
    prompt, other = torch.cat(prompts).mean(0), torch.cat(others).mean(0)
    difference = prompt - other
    difference = difference / (difference @ difference)
    value = _STRENGTH * torch.randn(attention.v_proj.out_features, generator=generator)
    attention.v_proj.weight.copy_(torch.outer(value, difference.float()))
    attention.v_proj.bias.copy_(-value * float(other @ difference))


def _read_blobs(decoder: Any, decode: Decode, generator: torch.Generator, side: int) -> None:
    """Fit the last biases of the hypernetworks: a cone around each prompt, and its area above 0."""
    points = 0.1 + 0.8 * torch.rand(_PROMPTS, 2, generator=generator)
    rows: list[Tensor] = []
    for point in points:
        with _outputs_of(decoder.output_upscaling[4]) as seen:
            decode(point[None], [1])
        rows.append(seen[0][0, :, ::4, ::4].flatten(1).T.double())
    features = torch.cat(rows)
    axis = (torch.arange(side).double() + 0.5) / side
    away = torch.cat([torch.hypot(axis - x, axis[:, None] - y).flatten() for x, y in points])
    gram = features.T @ features
    gram += 1e-6 * len(features) * features.square().mean() * torch.eye(len(gram)).double()
    ones = torch.linalg.solve(gram, features.sum(0))
    for head, area in zip(decoder.output_hypernetworks_mlps, AREAS, strict=True):
        radius = math.sqrt(area / math.pi)
        cone = (_HIGHEST * (1 - away / radius)).clamp(-_HIGHEST, _HIGHEST)
        weights = torch.linalg.solve(gram, features.T @ cone)
        level = torch.quantile(features @ weights, 1 - area)
        weights = weights - level * ones
        layer = head.layers[-1]
        layer.weight.mul_(0.01 * float(weights.norm()))
        layer.bias.copy_(weights)


@contextmanager
def _outputs_of(layer: Any) -> Iterator[list[Tensor]]:
    """Collect the outputs of a layer while the context is open."""
    seen: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _, given, output: seen.append(output))
    try:
        yield seen
    finally:
        hook.remove()


def predictor_of(model: SAM2Base) -> Any:
    """Build a `SAM2ImagePredictor`, which by itself assumes an input of 1024 x 1024.

    Args:
        model: model of the predictor.
    """
    predictor = SAM2ImagePredictor(model)
    predictor._bb_feat_sizes = [(model.image_size // n, model.image_size // n) for n in (4, 8, 16)]
    return predictor


@torch.inference_mode()
def bare_decode(predictor: Any, points: NDArray[np.float32], using: Compute) -> Tensor:
    """Run the prompt encoder and mask decoder alone, for a click on the predictor's image.

    Args:
        predictor: predictor with its image set.
        points: `float32[1, 2]`, x, y in pixels of the image.
        using: device and precision.

    Returns:
        Low-resolution logits, `[1, 3, h, w]`.
    """
    model, features = predictor.model, predictor._features
    height, width = predictor._orig_hw[-1]
    scaled = torch.from_numpy(points) / torch.tensor([width, height]) * model.image_size
    with using.autocast():
        sparse, dense = model.sam_prompt_encoder(
            points=(scaled[None], torch.ones(1, len(points), dtype=torch.int)),
            boxes=None,
            masks=None,
        )
        logits: Tensor = model.sam_mask_decoder(
            image_embeddings=features["image_embed"],
            image_pe=model.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            repeat_image=False,
            high_res_features=features["high_res_feats"],
        )[0]
    return logits
