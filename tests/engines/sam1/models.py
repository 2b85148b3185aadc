"""Small SAM 1 models with random weights, in the real architecture and in each published layout."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

SIDE = 128
"""Side of the small model's input in pixels."""


def small_config(side: int = SIDE, width: int = 48) -> SamConfig:
    """A SAM 1 of a few hundred kilobytes."""
    return SamConfig(
        vision_config={
            "hidden_size": width,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": side,
            "patch_size": 16,
            "window_size": 3,
            "global_attn_indexes": [1],
            "output_channels": 32,
            "num_pos_feats": 16,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": side, "patch_size": 16},
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 64,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": 32,
        },
    )


def random_sam1(config: SamConfig | None = None, seed: int = 0) -> Any:
    """A SAM 1 with weights that make a result depend on every part of its prompt."""
    torch.manual_seed(seed)
    model: Any = SamModel(config or small_config())
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "positional_embedding" not in name:
            fan = parameter[0].numel() if parameter.shape[0] > 1 else 1
            torch.nn.init.normal_(parameter, std=max(0.05, 1.2 * fan**-0.5))
        elif name.endswith(".bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    torch.nn.init.normal_(model.shared_image_embedding.positional_embedding, std=0.7)
    head = model.mask_decoder.iou_prediction_head.proj_out
    torch.nn.init.constant_(head.bias, 0.5)
    head.weight.data *= 0.1
    ready: SamModel = model.float().eval().requires_grad_(False)
    return ready


def processor_of(side: int = SIDE) -> Any:
    """The processor of a model with this input."""
    sizes: dict[str, Any] = {
        "size": {"longest_edge": side},
        "pad_size": {"height": side, "width": side},
    }
    make: Any = SamProcessor
    return make(SamImageProcessor(**sizes))


_PUBLISHED = (
    ("shared_embedding.positional_embedding", "pe_layer.positional_encoding_gaussian_matrix"),
    ("vision_encoder.", "image_encoder."),
    ("patch_embed.projection", "patch_embed.proj"),
    ("image_encoder.layers.", "image_encoder.blocks."),
    ("neck.conv1", "neck.0"),
    ("neck.layer_norm1", "neck.1"),
    ("neck.conv2", "neck.2"),
    ("neck.layer_norm2", "neck.3"),
    ("prompt_encoder.point_embed.", "prompt_encoder.point_embeddings."),
    ("mask_embed.conv1", "mask_downscaling.0"),
    ("mask_embed.layer_norm1", "mask_downscaling.1"),
    ("mask_embed.conv2", "mask_downscaling.3"),
    ("mask_embed.layer_norm2", "mask_downscaling.4"),
    ("mask_embed.conv3", "mask_downscaling.6"),
    ("upscale_conv1", "output_upscaling.0"),
    ("upscale_layer_norm", "output_upscaling.1"),
    ("upscale_conv2", "output_upscaling.3"),
    ("layer_norm", "norm"),
)


def in_metas_names(model: Any) -> dict[str, Tensor]:
    """The tensors of a `SamModel` as Meta's file of the same model has them."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name == "shared_image_embedding.positional_embedding":
            continue  # one tensor in Meta's model
        mlp = re.search(r"(_mlps\.\d|iou_prediction_head)\.(proj_in|layers\.0|proj_out)", name)
        if mlp:
            index = ["proj_in", "layers.0", "proj_out"].index(mlp[2])
            name = name.replace(mlp[0], f"{mlp[1]}.layers.{index}")
        for old, new in _PUBLISHED:
            name = name.replace(old, new)
        tensors[name] = tensor.clone()
    return tensors
