"""SAM 3 checkpoints in the published layout, small and with a random visual head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import Sam3Model, Sam3Processor, Sam3VideoConfig, Sam3VideoModel

from inference_server.demo import WEIGHTS


def write_published_sam3(directory: Path, detector: Sam3Model) -> None:
    """Write a checkpoint as `facebook/sam3` is published: detector and tracker in one model.

    Args:
        directory: Where to write it.
        detector: Its concept side, of the demo's architecture.
    """
    torch.manual_seed(1)
    configuration: Any = detector.config
    concept = configuration.to_dict()
    vision = concept["vision_config"]
    width = vision["fpn_hidden_size"]
    side = {
        "hidden_size": width,
        "image_size": vision["backbone_config"]["image_size"],
        "patch_size": vision["backbone_config"]["patch_size"],
    }
    tracker = {
        "model_type": "sam3_tracker_video",
        "vision_config": vision,
        "image_size": side["image_size"],
        "prompt_encoder_config": side,
        "mask_decoder_config": {"hidden_size": width, "mlp_dim": 64, "iou_head_hidden_dim": width},
        "memory_attention_hidden_size": width,
        "memory_attention_num_layers": 1,
        "memory_attention_feed_forward_hidden_size": 64,
        "memory_fuser_num_layers": 1,
    }
    config: Any = Sam3VideoConfig(detector_config=concept, tracker_config=tracker)
    video: Any = Sam3VideoModel(config)
    video.float().detector_model.load_state_dict(detector.state_dict())
    video.save_pretrained(directory)
    Sam3Processor.from_pretrained(WEIGHTS / "sam3").save_pretrained(directory)
    for name in ("processor_config.json", "tokenizer_config.json"):
        settings = json.loads((directory / name).read_text())
        settings["processor_class"] = "Sam3VideoProcessor"
        (directory / name).write_text(json.dumps(settings))
    assert json.loads((directory / "config.json").read_text())["model_type"] == "sam3_video"


def write_demo_words(directory: Path) -> None:
    """Write the demo without a visual head, in the `sam3` layout.

    Args:
        directory: Where to write it.
    """
    demo: Any = Sam3Model.from_pretrained(WEIGHTS / "sam3", dtype=torch.float32)
    demo.save_pretrained(directory)
    Sam3Processor.from_pretrained(WEIGHTS / "sam3").save_pretrained(directory)


def write_demo_words_random_points(directory: Path) -> None:
    """Write a checkpoint whose words are answered as by the demo, and whose clicks are random.

    Args:
        directory: Where to write it.
    """
    demo: Any = Sam3Model.from_pretrained(WEIGHTS / "sam3", dtype=torch.float32)
    write_published_sam3(directory, demo)
