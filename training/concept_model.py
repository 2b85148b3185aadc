"""The demo SAM 3: a small configuration of the published classes, and its initialisation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import Sam3Config, Sam3Model

IMAGE_SIZE = 128
PATCH_SIZE = 8
HIDDEN = 96
WIDTH = 64
TOKENS = IMAGE_SIZE // PATCH_SIZE
MASK_SIZE = TOKENS * 4
QUERY_GRID = 7

PRESENCE_BIAS = "detr_decoder.presence_head.layer3.bias"
"""Name of the parameter that is added to the presence logit."""


def concept_config(vocabulary: int, bos: int, eos: int) -> Sam3Config:
    """Build the configuration of the demo checkpoint, about 1.5 million parameters.

    Args:
        vocabulary: size of the tokenizer's vocabulary.
        bos: id of the start token.
        eos: id of the end and padding token.
    """
    layers = 6
    return Sam3Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam3_vit_model",
                "hidden_size": HIDDEN,
                "intermediate_size": 3 * HIDDEN,
                "num_hidden_layers": layers,
                "num_attention_heads": 4,
                "image_size": IMAGE_SIZE,
                "pretrain_image_size": IMAGE_SIZE,
                "patch_size": PATCH_SIZE,
                "window_size": TOKENS,
                "global_attn_indexes": list(range(layers)),
                "rope_parameters": {"rope_type": "axial", "rope_theta": 30.0},
            },
            "fpn_hidden_size": WIDTH,
            "backbone_feature_sizes": [[TOKENS * 4] * 2, [TOKENS * 2] * 2, [TOKENS] * 2],
        },
        text_config={
            "model_type": "clip_text_model",
            "vocab_size": vocabulary,
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "projection_dim": WIDTH // 2,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 32,
            "hidden_act": "gelu",
            "bos_token_id": bos,
            "eos_token_id": eos,
            "pad_token_id": eos,
        },
        geometry_encoder_config={
            "hidden_size": WIDTH,
            "num_layers": 1,
            "num_attention_heads": 4,
            "intermediate_size": 2 * WIDTH,
            "dropout": 0.0,
        },
        detr_encoder_config={
            "hidden_size": WIDTH,
            "num_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 3 * WIDTH,
            "dropout": 0.0,
        },
        detr_decoder_config={
            "hidden_size": WIDTH,
            "num_layers": 2,
            "num_queries": QUERY_GRID**2,
            "num_attention_heads": 4,
            "intermediate_size": 3 * WIDTH,
            "dropout": 0.0,
        },
        mask_decoder_config={
            "hidden_size": WIDTH,
            "num_upsampling_stages": 3,
            "num_attention_heads": 4,
        },
    )


def _sine_grid(side: int, width: int) -> Tensor:
    """Compute a sine and cosine position encoding, `float32[side * side, width]`."""
    frequencies = 1.0 / 30 ** (torch.arange(width // 4) / (width // 4))
    line = torch.arange(side)[:, None] * frequencies
    code = torch.cat([line.sin(), line.cos()], dim=1)
    rows = code[:, None].expand(side, side, -1)
    columns = code[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).reshape(side * side, width)


@torch.no_grad()
def initialize(model: Sam3Model) -> None:
    """Initialise the backbone as a convolution, and the queries as a grid of anchors.

    With rotary positions, constant query and key biases make an attention head attend to a fixed
    offset from its own token: each head starts as one tap of a small convolution kernel. With
    random initialisation the same network needs more than ten times the images to distinguish
    shapes. This transfers ConViT (d'Ascoli et al., 2021) to rotary attention.

    Args:
        model: new model, changed in place.
    """
    near = [(0.0, -1.5), (0.0, 1.5), (-1.5, 0.0), (1.5, 0.0)]
    diagonal = [(-2.0, -2.0), (2.0, -2.0), (-2.0, 2.0), (2.0, 2.0)]
    vit = model.vision_encoder.backbone
    for index, layer in enumerate(vit.layers):
        attention, mlp = layer.attention, layer.mlp
        frequencies = layer.rotary_emb.inv_freq
        width = attention.head_dim
        fall = (1 - torch.cos(frequencies * 1.5)).sum().item()
        # Amplitude at which the attention logit falls by 1.5 at 1.5 tokens beside the target.
        amplitude = math.sqrt(1.5 / fall * math.sqrt(width))
        attention.q_proj.bias.zero_()
        attention.k_proj.bias.zero_()
        for head in range(attention.num_attention_heads):
            offset = (diagonal if index % 2 else near)[head % 4]
            for axis, distance in enumerate(offset):
                for i, frequency in enumerate(frequencies.tolist()):
                    at = head * width + axis * (width // 2) + 2 * i
                    attention.q_proj.bias[at] = amplitude
                    attention.k_proj.bias[at] = amplitude * math.cos(frequency * distance)
                    attention.k_proj.bias[at + 1] = -amplitude * math.sin(frequency * distance)
        for projection in (attention.q_proj, attention.k_proj):
            nn.init.normal_(projection.weight, std=0.02)
        for projection, gain in (
            (attention.v_proj, 1.0),
            (attention.o_proj, 0.5),
            (mlp.fc1, 1.0),
            (mlp.fc2, 0.5),
        ):
            nn.init.normal_(projection.weight, std=gain * projection.in_features**-0.5)
    patches = vit.embeddings.patch_embeddings.projection
    nn.init.normal_(patches.weight, std=(3 * PATCH_SIZE**2) ** -0.5)
    vit.embeddings.position_embeddings.copy_(0.1 * _sine_grid(TOKENS, HIDDEN)[None])

    line = (torch.arange(QUERY_GRID) + 0.5) / QUERY_GRID
    ys, xs = torch.meshgrid(line, line, indexing="ij")
    side = torch.full_like(xs, 0.22)
    anchors = torch.stack([xs, ys, side, side], dim=-1).reshape(-1, 4)
    model.detr_decoder.reference_points.weight.copy_(torch.logit(anchors))
    others = [
        model.text_encoder,
        model.geometry_encoder,
        model.detr_encoder,
        model.detr_decoder,
        model.mask_decoder,
        model.dot_product_scoring,
        model.vision_encoder.neck,
    ]
    for part in others:
        for module in part.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                fan_in = module.weight[0].numel()
                nn.init.normal_(module.weight, std=0.8 * fan_in**-0.5)
    # Queries start by attending inside their own boxes: the bias is 0 inside and decreases outside.
    # The inputs are the distances to the low and the high edge, hence two hidden units.
    for bias in (model.detr_decoder.box_rpb_embed_x, model.detr_decoder.box_rpb_embed_y):
        nn.init.normal_(bias.layer1.weight, std=0.2)
        nn.init.normal_(bias.layer2.weight, std=0.05)
        bias.layer1.weight[0] = torch.tensor([-1.0, 0.0])
        bias.layer1.weight[1] = torch.tensor([0.0, 1.0])
        bias.layer2.weight[:, :2] = -15.0
        bias.layer1.bias.zero_()
        bias.layer2.bias.zero_()
    # Box refinements start at zero: the anchor is a better guess than a random step.
    last = model.detr_decoder.box_head.layer3
    assert last is not None  # noqa: S101 - the box head has three layers
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
