"""The file `sam3.pt` that Meta publishes, as tensors of `transformers` and of the visual head.

Every tensor of the file is used or known to be unused, so a file of another model is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Sam3VideoConfig

from inference_server.engines.tensor_names import POSITION_MATRIX, renamed

_DETECTOR, _TRACKER = "detector.", "tracker."
_HEAD_NECK = f"{_DETECTOR}backbone.vision_backbone.sam2_convs."

_UNUSED = re.compile(
    # Computed from the sizes.
    r"detector\..+\.attn\.freqs_cis"
    # Exemplars are boxes; `transformers` has no points among them either.
    r"|detector\.geometry_encoder\.points_\w+\.(weight|bias)"
    # A level of the visual head's neck that nothing reads.
    r"|detector\.backbone\.vision_backbone\.sam2_convs\.3\..+"
    # Following an object through a video.
    r"|tracker\.(maskmem_|no_mem_pos_enc|no_obj_|mask_downsample\.|transformer\.|obj_ptr_).*"
)

_CONCEPT_NAMES = (
    # The image encoder.
    (r"^backbone\.vision_backbone\.trunk\.", "vision_encoder.backbone."),
    (r"\.backbone\.pos_embed$", ".backbone.embeddings.position_embeddings"),
    (r"\.backbone\.patch_embed\.proj\.", ".backbone.embeddings.patch_embeddings.projection."),
    (r"\.backbone\.ln_pre\.", ".backbone.layer_norm."),
    (r"\.backbone\.blocks\.(\d+)\.norm", r".backbone.layers.\1.layer_norm"),
    (r"\.backbone\.blocks\.(\d+)\.attn\.proj\.", r".backbone.layers.\1.attention.o_proj."),
    (r"\.backbone\.blocks\.(\d+)\.attn\.", r".backbone.layers.\1.attention."),
    (r"\.backbone\.blocks\.", ".backbone.layers."),
    (r"^backbone\.vision_backbone\.convs\.", "vision_encoder.neck.fpn_layers."),
    # The text encoder.
    (r"^backbone\.language_backbone\.resizer\.", "text_projection."),
    (r"^backbone\.language_backbone\.encoder\.text_projection$", "text_encoder.text_projection."),
    (r"^backbone\.language_backbone\.encoder\.", "text_encoder.text_model."),
    (r"^text_encoder\.text_projection\.$", "text_encoder.text_projection.weight"),
    (r"\.token_embedding\.", ".embeddings.token_embedding."),
    (r"\.positional_embedding$", ".embeddings.position_embedding.weight"),
    (r"\.ln_final\.", ".final_layer_norm."),
    (r"\.transformer\.resblocks\.", ".encoder.layers."),
    (r"(\.encoder\.layers\.\d+)\.attn\.", r"\1.self_attn."),
    (r"(\.encoder\.layers\.\d+)\.ln_", r"\1.layer_norm"),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    # The encoder of exemplars.
    (r"^geometry_encoder\.encode\.", "geometry_encoder.layers."),
    (r"^geometry_encoder\.img_pre_norm\.", "geometry_encoder.vision_layer_norm."),
    (r"^geometry_encoder\.norm\.", "geometry_encoder.prompt_layer_norm."),
    (r"^geometry_encoder\.encode_norm\.", "geometry_encoder.output_layer_norm."),
    # The encoder and decoder of candidates. Their norms have the same names for other layers.
    (r"^transformer\.encoder\.", "detr_encoder."),
    (r"^transformer\.decoder\.", "detr_decoder."),
    (r"^(detr_decoder\.layers\.\d+)\.cross_attn\.", r"\1.vision_cross_attn."),
    (r"^(detr_decoder\.layers\.\d+)\.ca_text\.", r"\1.text_cross_attn."),
    (r"^(detr_decoder\.layers\.\d+)\.norm1\.", r"\1.vision_cross_attn_layer_norm."),
    (r"^(detr_decoder\.layers\.\d+)\.catext_norm\.", r"\1.text_cross_attn_layer_norm."),
    (r"^(detr_decoder\.layers\.\d+)\.norm2\.", r"\1.self_attn_layer_norm."),
    (r"^(detr_decoder\.layers\.\d+)\.norm3\.", r"\1.mlp_layer_norm."),
    (r"^((?:geometry|detr)_encoder\.layers\.\d+)\.norm", r"\1.layer_norm"),
    (r"\.cross_attn_image\.", ".cross_attn."),
    (r"^((?:geometry_encoder|detr_\w+)\.layers\.\d+)\.linear(\d)\.", r"\1.mlp.fc\2."),
    (r"^((?:geometry_encoder|detr_\w+)\..+_attn)\.out_proj\.", r"\1.o_proj."),
    (r"^detr_decoder\.norm\.", "detr_decoder.output_layer_norm."),
    (r"^detr_decoder\.presence_token_out_norm\.", "detr_decoder.presence_layer_norm."),
    (r"^detr_decoder\.presence_token_head\.", "detr_decoder.presence_head."),
    (r"^detr_decoder\.bbox_embed\.", "detr_decoder.box_head."),
    (r"^detr_decoder\.boxRPB_embed_", "detr_decoder.box_rpb_embed_"),
    (r"^dot_prod_scoring\.prompt_mlp\.out_norm\.", "dot_product_scoring.text_mlp_out_norm."),
    (r"^dot_prod_scoring\.prompt_", "dot_product_scoring.text_"),
    (r"^dot_prod_scoring\.hs_proj\.", "dot_product_scoring.query_proj."),
    # The mask decoder.
    (r"^segmentation_head\.mask_predictor\.mask_embed\.", "mask_decoder.mask_embedder."),
    (r"^segmentation_head\.instance_seg_head\.", "mask_decoder.instance_projection."),
    (r"^segmentation_head\.semantic_seg_head\.", "mask_decoder.semantic_projection."),
    (r"^segmentation_head\.cross_attend_prompt\.", "mask_decoder.prompt_cross_attn."),
    (r"^segmentation_head\.cross_attn_norm\.", "mask_decoder.prompt_cross_attn_norm."),
    (r"^segmentation_head\.", "mask_decoder."),
    (r"^(mask_decoder\.prompt_cross_attn)\.out_proj\.", r"\1.o_proj."),
)
"""Names in the file without `detector.`, as patterns, and in `Sam3Model`. The order matters."""

_NUMBERED = re.compile(
    r"(detr_decoder\.\w+|dot_product_scoring\.text_mlp)\.layers\.(\d)\.(weight|bias)"
)
"""A layer of an MLP that `Sam3Model` numbers from 1: `layer1`."""

_FUSED = re.compile(r"(.+)\.(?:qkv\.|in_proj_)(weight|bias)")
"""Projections of queries, keys and values in one tensor."""

_NECK_NAMES = (
    (r"\.dconv_2x2(_0)?\.", ".scale_layers.0."),
    (r"\.dconv_2x2_1\.", ".scale_layers.2."),
    (r"\.conv_1x1\.", ".proj1."),
    (r"\.conv_3x3\.", ".proj2."),
)
"""Names in the necks of both sides."""

_HEAD_NAMES = (
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    (r"\.mlp\.lin1\.", ".mlp.layers.0."),
    (r"\.mlp\.lin2\.", ".mlp.layers.1."),
)
"""Names in the file without `tracker.`, as patterns, and in `VisualHead`."""


def config() -> Sam3VideoConfig:
    """The configuration of the published model, which the file does not contain."""
    return Sam3VideoConfig()


def read(file: Path) -> dict[str, Tensor]:
    """Read the file; tensors are read from the disk when they are used.

    Args:
        file: Path of `sam3.pt`.

    Returns:
        The tensors by their names in the file, without the unused ones.

    Raises:
        ValueError: The file is not Meta's `sam3.pt`.
    """
    content: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and name.startswith((_DETECTOR, _TRACKER)) for name in content
    ):
        raise ValueError("it is not Meta's sam3.pt: its tensors are not detector.* and tracker.*")
    return {name: tensor for name, tensor in content.items() if not _UNUSED.fullmatch(name)}


def concept_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the concept side, as float32.

    Args:
        tensors: Tensors of the file by name, from `read`.

    Returns:
        Tensors by their names in `Sam3Model`; unknown names are not changed.
    """
    found = {}
    for name, tensor in tensors.items():
        if not name.startswith(_DETECTOR) or name.startswith(_HEAD_NECK):
            continue
        own = renamed(name.removeprefix(_DETECTOR), _CONCEPT_NAMES)
        if own.startswith("vision_encoder.neck."):
            own = renamed(own, _NECK_NAMES)
        if layer := _NUMBERED.fullmatch(own):
            own = f"{layer[1]}.layer{int(layer[2]) + 1}.{layer[3]}"
        value = tensor.float()
        if own == "vision_encoder.backbone.embeddings.position_embeddings":
            value = value[:, 1:]  # the first is that of a class token, which the model lacks
        elif own == "text_encoder.text_projection.weight":
            value = value.T
        if fused := _FUSED.fullmatch(own):
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                found[f"{fused[1]}.{part}_proj.{fused[2]}"] = piece.contiguous()
        else:
            found[own] = value.contiguous()
    return found


def head_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the visual head, as float32.

    Args:
        tensors: Tensors of the file by name, from `read`.

    Returns:
        Tensors by their names in `VisualHead`; unknown names are not changed.
    """
    found = {}
    for name, tensor in tensors.items():
        if name.startswith(_HEAD_NECK):
            own = renamed(f"levels.{name.removeprefix(_HEAD_NECK)}", _NECK_NAMES)
        elif name.startswith(_TRACKER):
            own = renamed(name.removeprefix(_TRACKER), _HEAD_NAMES)
        else:
            continue
        found[own] = tensor.float()
    positions = f"prompt_encoder.pe_layer.{POSITION_MATRIX}"
    if positions in found:
        found[f"image_positions.{POSITION_MATRIX}"] = found[positions]
    return found
