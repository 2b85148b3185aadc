"""SAM 3 at its published size with random weights, and reference code that uses it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Sam3Config, Sam3Model, Sam3Processor
from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput

from inference_server.demo import WEIGHTS
from inference_server.engines.device import Compute, choose_compute

Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Sam3:
    """A model with its processor.

    Attributes:
        name: name in reports.
        model: the unmodified class with its weights, on the device.
        processor: its processor, with the demo's tokenizer.
        compute: device and precision.
    """

    name: str
    model: Sam3Model
    processor: Sam3Processor
    compute: Compute

    def vision(self, image: Image) -> Sam3VisionEncoderOutput:
        """Run the vision encoder.

        Args:
            image: `uint8[H, W, 3]`, RGB.
        """
        pixels = self.processor(images=image, return_tensors="pt")["pixel_values"]
        pixels = pixels.to(self.compute.device)
        with torch.inference_mode(), self.compute.autocast():
            output: Sam3VisionEncoderOutput = self.model.get_vision_features(pixel_values=pixels)
        return output

    def words(self, texts: Sequence[str]) -> Words:
        """Run the text encoder, with the processor's padding.

        Args:
            texts: phrases.
        """
        inputs = self.processor.tokenizer(
            list(texts), return_tensors="pt", padding="max_length", max_length=32, truncation=True
        )
        device = self.compute.device
        ids, mask = (inputs[name].to(device) for name in ("input_ids", "attention_mask"))
        with torch.inference_mode(), self.compute.autocast():
            features = self.model.get_text_features(
                input_ids=ids, attention_mask=mask
            ).pooler_output
        return Words(features, mask)

    def bare(self, vision: Sam3VisionEncoderOutput, words: Words) -> Any:
        """Run the decoder alone, all texts in one batch.

        Args:
            vision: output of the vision encoder.
            words: output of the text encoder.
        """
        count = len(words.pooler_output)
        with torch.inference_mode(), self.compute.autocast():
            return self.model(
                vision_embeds=Sam3VisionEncoderOutput(
                    fpn_hidden_states=tuple(
                        level.expand(count, -1, -1, -1) for level in vision.fpn_hidden_states
                    ),
                    fpn_position_encoding=tuple(
                        level.expand(count, -1, -1, -1) for level in vision.fpn_position_encoding
                    ),
                ),
                text_embeds=words,
                attention_mask=words.mask,
            )

    def whole(self, image: Image, text: str, threshold: float) -> Any:
        """Segment as the model's documentation shows: image and text in, full masks out.

        Args:
            image: `uint8[H, W, 3]`, RGB.
            text: phrase.
            threshold: minimum confidence, 0 to 1.
        """
        processor: Any = self.processor
        inputs = processor(images=image, text=text, return_tensors="pt").to(self.compute.device)
        with torch.inference_mode(), self.compute.autocast():
            outputs = self.model(**inputs)
        return processor.post_process_instance_segmentation(
            outputs, threshold=threshold, target_sizes=inputs["original_sizes"].tolist()
        )[0]

    @contextmanager
    def encodings(self) -> Iterator[list[str]]:
        """Collect the names of encoders that run while the context is open."""
        ran: list[str] = []
        model: Any = self.model
        hooks = [
            encoder.register_forward_hook(lambda *_, name=name: ran.append(name))
            for name, encoder in (("vision", model.vision_encoder), ("text", model.text_encoder))
        ]
        try:
            yield ran
        finally:
            for hook in hooks:
                hook.remove()


@dataclass(frozen=True, slots=True)
class Words:
    """Embedded texts, as `Sam3Model.forward` takes them.

    Attributes:
        pooler_output: text features, `[B, 32, C]`.
        mask: attention mask, `int64[B, 32]`; 1 for tokens, 0 for padding.
    """

    pooler_output: Tensor
    mask: Tensor

    def pick(self, index: int) -> Words:
        """Return one text.

        Args:
            index: index of the text in the batch.
        """
        return Words(self.pooler_output[index : index + 1], self.mask[index : index + 1])


def _ready(model: Any) -> Sam3Model:
    ready: Sam3Model = model.float().eval().requires_grad_(False)
    return ready


def demo() -> Sam3:
    """Load the demo checkpoint, in float32 on every machine."""
    return Sam3(
        "demo",
        _ready(Sam3Model.from_pretrained(WEIGHTS / "sam3")),
        Sam3Processor.from_pretrained(WEIGHTS / "sam3"),
        choose_compute("cpu", "float32"),
    )


def published() -> Sam3:
    """Build the published size with random weights: 840 M parameters, 3.4 GB."""
    torch.manual_seed(0)
    processor: Any = Sam3Processor.from_pretrained(WEIGHTS / "sam3")
    model: Any = Sam3Model(Sam3Config())
    side = model.config.vision_config.backbone_config.image_size
    grid = model.config.vision_config.backbone_feature_sizes[0]
    processor.image_processor.size = {"height": side, "width": side}
    processor.image_processor.mask_size = {"height": grid[0], "width": grid[1]}
    processor.target_size = side
    return Sam3("published size", _ready(model), processor, choose_compute("cpu", "float32"))
