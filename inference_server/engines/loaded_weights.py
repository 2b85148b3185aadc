"""The models that share the weights of one checkpoint, with the queues before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference_server.engines.base import ConceptPrompt, Engine, VisualPrompt
from inference_server.engines.model import (
    ConceptModel,
    EvictHalf,
    LoadedEncoder,
    LoadedModel,
    SharedEncoder,
    Usage,
    VisualModel,
)
from inference_server.settings import Settings

if TYPE_CHECKING:
    from inference_server.engines.device import Compute

_VISUAL = "visual"
"""What the embeddings of a SAM 3 for points and boxes are for."""

_VISUAL_WORKERS, _CONCEPT_WORKERS = 16, 2
"""Maximum decode threads on a CPU. SAM 3's operations are large enough to use all cores, and each
of its threads takes much memory."""


@dataclass(frozen=True, slots=True)
class Sam3Engines:
    """The engines of one SAM 3.

    Attributes:
        concept: Answers words and exemplars.
        visual: Answers points and boxes; None without a visual head.
        trunk: The image encoder, if both start from its output instead of from images. Default:
            none.
    """

    concept: Engine[ConceptPrompt]
    visual: Engine[VisualPrompt] | None = None
    trunk: Engine[Any] | None = None


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """The models that share the weights of one checkpoint.

    Attributes:
        label: Family and name of the weights, such as `sam2/demo`.
        nbytes: Memory of the weights in bytes; 0 if the engine does not tell.
        usage: Who uses them.
        concept: Answers words and exemplars, or None.
        visual: Answers points and boxes, or None.
        encoder: The image encoder that both start from, or None.
    """

    label: str
    nbytes: int
    usage: Usage
    concept: ConceptModel | None = None
    visual: VisualModel | None = None
    encoder: LoadedEncoder | None = None

    @property
    def models(self) -> list[LoadedEncoder]:
        """All of them."""
        return [each for each in (self.encoder, self.concept, self.visual) if each is not None]


class QueueAssembly:
    """Puts queues before engines.

    Args:
        compute: Device and dtypes.
        settings: Batch sizes, threads and queue sizes.
    """

    def __init__(self, compute: Compute, settings: Settings) -> None:
        self._compute = compute
        self._settings = settings

    def visual(
        self, family: str, engine: Engine[VisualPrompt], evict_half: EvictHalf | None
    ) -> LoadedWeights:
        """Put queues before an engine for points and boxes.

        Args:
            family: Family of the model, such as `sam2`.
            engine: The engine.
            evict_half: Frees memory when it runs out; None to fail without a retry.
        """
        usage = Usage()
        model: VisualModel = LoadedModel(
            family,
            engine,
            self._compute,
            self._settings,
            usage=usage,
            workers=_VISUAL_WORKERS,
            evict_half=evict_half,
        )
        return LoadedWeights(model.label, _bytes_of(engine), usage, visual=model)

    def sam3(self, engines: Sam3Engines, evict_half: EvictHalf | None) -> LoadedWeights:
        """Put queues before the engines of a SAM 3.

        Args:
            engines: The engines.
            evict_half: Frees memory when it runs out; None to fail without a retry.
        """
        usage, encoder, shared = Usage(), None, None
        if engines.trunk is not None:
            encoder = LoadedEncoder(
                "sam3",
                engines.trunk,
                self._compute,
                self._settings,
                side_of_model="encoder",
                usage=usage,
                evict_half=evict_half,
            )
            sides = frozenset((encoder.label, f"{encoder.label} {_VISUAL}"))
            shared = SharedEncoder(encoder, sides)
        concept: ConceptModel = LoadedModel(
            "sam3",
            engines.concept,
            self._compute,
            self._settings,
            queues=("sam3 encode" if shared is None else "sam3 neck", "sam3 decode"),
            shared=shared,
            usage=usage,
            workers=_CONCEPT_WORKERS,
            evict_half=evict_half,
        )
        visual: VisualModel | None = None
        if engines.visual is not None:
            visual = LoadedModel(
                "sam3",
                engines.visual,
                self._compute,
                self._settings,
                queues=("sam3 visual neck", "sam3 visual decode"),
                side_of_model=_VISUAL,
                shared=shared,
                usage=usage,
                workers=_VISUAL_WORKERS,
                evict_half=evict_half,
            )
        parts = (engines.trunk, engines.concept, engines.visual)
        nbytes = sum(_bytes_of(part) for part in parts if part is not None)
        return LoadedWeights(concept.label, nbytes, usage, concept, visual, encoder)


def _bytes_of(engine: Engine[Any]) -> int:
    """Memory of an engine's weights in bytes; 0 if it does not tell."""
    return int(getattr(engine, "weight_bytes", 0))
