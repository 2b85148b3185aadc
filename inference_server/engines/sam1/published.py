"""The files that Meta publishes for SAM 1, as tensors and configurations of `transformers`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import SamConfig

from inference_server.engines.tensor_names import renamed

_ENCODERS: dict[str, dict[str, Any]] = {
    "vit_b": {},
    "vit_l": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "global_attn_indexes": [5, 11, 17, 23],
    },
    "vit_h": {
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "global_attn_indexes": [7, 15, 23, 31],
    },
}
"""By version: how the image encoder differs from the default of `transformers`, which is vit_b."""

_RENAMED = (
    (r"^image_encoder\.", "vision_encoder."),
    (r"^vision_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
    (r"^vision_encoder\.blocks\.", "vision_encoder.layers."),
    (r"^vision_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"^vision_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"^vision_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"^vision_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
    (
        r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$",
        "prompt_encoder.shared_embedding.positional_embedding",
    ),
    (r"^prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"^prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"^mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    (r"\.norm(\d|_final_attn)\.", r".layer_norm\1."),
    # These have three layers in every version. The order matters.
    (r"(_mlps\.\d+|\.iou_prediction_head)\.layers\.0\.", r"\1.proj_in."),
    (r"(_mlps\.\d+|\.iou_prediction_head)\.layers\.1\.", r"\1.layers.0."),
    (r"(_mlps\.\d+|\.iou_prediction_head)\.layers\.2\.", r"\1.proj_out."),
)
"""Names in Meta's files, as patterns, and in `SamModel`."""

_IGNORED = ("pixel_mean", "pixel_std")
"""Constants that some copies of the files contain; the processor has them."""

_POSITIONS = "prompt_encoder.shared_embedding.positional_embedding"
_TIED = "shared_image_embedding.positional_embedding"


def config_of(version: str) -> SamConfig:
    """Configuration of a published model.

    Args:
        version: `vit_b`, `vit_l` or `vit_h`.
    """
    return SamConfig(vision_config=dict(_ENCODERS[version]))


def tensors_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate the names of tensors.

    Args:
        tensors: Tensors of a published file, by name.

    Returns:
        The same tensors by their names in `SamModel`; unknown names are not changed.
    """
    known = {name: tensor for name, tensor in tensors.items() if name not in _IGNORED}
    found = {renamed(name, _RENAMED): tensor for name, tensor in known.items()}
    if _POSITIONS in found:
        found[_TIED] = found[_POSITIONS]
    return found
