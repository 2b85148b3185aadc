"""Names of prompt encoders' and mask decoders' tensors: those of `transformers`, those of `sam2`.

SAM 1, SAM 2 and SAM 3's visual head have the same prompt encoder and mask decoder. The weights of
each are loaded into the modules of `sam2`, so that `FastMaskDecoder` serves all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn

POSITION_MATRIX = "positional_encoding_gaussian_matrix"
"""The tensor of a `sam2.modeling.position_encoding.PositionEmbeddingRandom`."""

_RENAMED = (
    (
        r"^prompt_encoder\.shared_embedding\.positional_embedding$",
        f"prompt_encoder.pe_layer.{POSITION_MATRIX}",
    ),
    (r"^prompt_encoder\.point_embed\.(\d)\.", r"prompt_encoder.point_embeddings.\1."),
    (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
    (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
    (r"\.layer_norm_final_attn\.", ".norm_final_attn."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"\.o_proj\.", ".out_proj."),
    (r"\.mlp\.lin1\.", ".mlp.proj_in."),
    (r"\.mlp\.lin2\.", ".mlp.proj_out."),
)
"""Names in `transformers`, as patterns, and in the modules of `sam2`."""

_MLP = re.compile(r"(.+)\.(?:(proj_in)|(proj_out)|layers\.(\d+))\.(weight|bias)")
"""A layer of an MLP: the first, the last, or one in between."""


def renamed(name: str, patterns: Iterable[tuple[str, str]]) -> str:
    """Translate the name of a tensor.

    Args:
        name: The name.
        patterns: Regular expressions with their replacements; all are applied, in order.
    """
    for pattern, replacement in patterns:
        name = re.sub(pattern, replacement, name)
    return name


def name_in_sam2(name: str, module: nn.Module) -> str:
    """Translate the name of a tensor.

    Args:
        name: Name in `transformers`, which begins with `prompt_encoder.` or `mask_decoder.`.
        module: The module that the tensor is for, with the children `prompt_encoder` and
            `mask_decoder` of `sam2`.

    Returns:
        The name in `module`; an unknown name is returned unchanged.

    Raises:
        AttributeError: The tensor belongs to an MLP that the module lacks.
    """
    name = renamed(name, _RENAMED)
    layer = _MLP.fullmatch(name)
    if layer is None or not name.startswith("mask_decoder."):
        return name
    mlp, first, last, between, kind = layer.groups()
    count = len(list(module.get_submodule(mlp).get_submodule("layers").children()))
    index = 0 if first else count - 1 if last else int(between) + 1
    return f"{mlp}.layers.{index}.{kind}"
