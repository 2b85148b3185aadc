"""The models that the settings configure, by the names that requests use. Nothing is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from inference_server.engines.sam1.weights import SAM1_VERSIONS, Sam1Checkpoint, find_sam1
from inference_server.engines.weights import (
    SAM2_IDS,
    SAM2_VERSIONS,
    SAM3_ID,
    SAM3_NAME,
    Sam2Checkpoint,
    Sam3Checkpoint,
    find_sam2,
    find_sam3,
    published_file,
)
from inference_server.errors import ModelUnavailableError
from inference_server.settings import Settings

Family = Literal["sam1", "sam2", "sam3"]

SomeCheckpoint = Sam1Checkpoint | Sam2Checkpoint | Sam3Checkpoint
"""Weights of one model, not loaded yet."""

CheckpointT = TypeVar("CheckpointT", Sam1Checkpoint, Sam2Checkpoint)

_TITLES: Mapping[Family, str] = {"sam1": "SAM 1", "sam2": "SAM 2", "sam3": "SAM 3"}


@dataclass(frozen=True, slots=True)
class ModelKey:
    """A model that a request selects.

    Attributes:
        family: `sam1`, `sam2` or `sam3`.
        name: A size such as `vit_h` or `hiera_large`, `SAM3_NAME`, or a name from the settings.
    """

    family: Family
    name: str

    def __str__(self) -> str:
        return f"{self.family}:{self.name}"


DEFAULT_SAM3 = ModelKey("sam3", SAM3_NAME)
"""The SAM 3 that is used unless a request names another one."""


class Catalog:
    """All configured models, and which of them answers a request.

    Args:
        settings: Weights, named models, and who answers points and boxes.

    Raises:
        ModelUnavailableError: A setting names weights that do not exist, or contradicts another.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._models: dict[ModelKey, SomeCheckpoint] = {
            DEFAULT_SAM3: find_sam3(settings.sam3_weights, "INFERENCE_SAM3_WEIGHTS")
        }
        for name, weights in settings.sam3_models.items():
            setting = f"INFERENCE_SAM3_MODELS, {name}"
            self._add(ModelKey("sam3", name), replace(find_sam3(weights, setting), name=name))
        self._add_sized("sam2", find_sam2, settings.sam2_weights, settings.sam2_models)
        self._add_sized("sam1", find_sam1, settings.sam1_weights, settings.sam1_models)
        if settings.visual_model == "sam3" and not self._has_head(DEFAULT_SAM3):
            raise ModelUnavailableError(
                "INFERENCE_VISUAL_MODEL=sam3: the weights of INFERENCE_SAM3_WEIGHTS have no visual "
                "head. Use a checkpoint in the published layout (model_type sam3_video), or set "
                "INFERENCE_VISUAL_MODEL=auto."
            )
        if settings.visual_model == "sam2" and not self.versions:
            raise ModelUnavailableError(
                "INFERENCE_VISUAL_MODEL=sam2 needs SAM 2, but INFERENCE_SAM2_WEIGHTS=none. Name "
                "weights, or set INFERENCE_VISUAL_MODEL=auto."
            )

    def _add_sized(
        self,
        family: Family,
        find: Callable[..., Mapping[str, CheckpointT]],
        sizes: str,
        named: Mapping[str, str],
    ) -> None:
        """Add a family whose weights are of several sizes, and its named models."""
        for version, sized in find(sizes).items():
            self._models[ModelKey(family, version)] = sized
        for name, weights in named.items():
            setting = f"INFERENCE_{family.upper()}_MODELS, {name}"
            only = _only(find(weights, setting), f"{setting}={weights}")
            self._add(ModelKey(family, name), replace(only, name=name))

    def _add(self, key: ModelKey, checkpoint: SomeCheckpoint) -> None:
        # Embeddings are cached by the name of the weights.
        labels = {each.name for of, each in self._models.items() if of.family == key.family}
        reserved = {*labels, *SAM1_VERSIONS, *SAM2_VERSIONS, *SAM2_IDS, SAM3_ID}
        if key in self._models or key.name in reserved:
            raise ModelUnavailableError(
                f"INFERENCE_{key.family.upper()}_MODELS: {key.name} is the name of another model. "
                "Choose another name."
            )
        self._models[key] = checkpoint

    @property
    def keys(self) -> Sequence[ModelKey]:
        """All models, SAM 3 first."""
        return list(self._models)

    @property
    def versions(self) -> Sequence[str]:
        """SAM 2 sizes with weights, smallest first."""
        return self._sizes("sam2")

    def _sizes(self, family: Family) -> list[str]:
        """Sizes of a family with weights, smallest first."""
        known = {"sam1": SAM1_VERSIONS, "sam2": SAM2_VERSIONS, "sam3": (SAM3_NAME,)}[family]
        return [name for name in known if ModelKey(family, name) in self._models]

    def largest(self, family: Family) -> ModelKey:
        """The model of a family that is used unless a request names another one.

        Args:
            family: The family.

        Raises:
            ModelUnavailableError: No weights of the family are configured.
        """
        sizes = self._sizes(family)
        if not sizes:
            raise ModelUnavailableError(
                f"This server has no {_TITLES[family]}: INFERENCE_{family.upper()}_WEIGHTS=none. "
                f"It has {', '.join(_TITLES[each] for each in sorted(self.families))}."
            )
        return ModelKey(family, sizes[-1])

    @property
    def families(self) -> frozenset[Family]:
        """Families with weights."""
        return frozenset(key.family for key in self._models)

    def checkpoint(self, key: ModelKey) -> SomeCheckpoint:
        """The weights of a model.

        Args:
            key: The model.

        Raises:
            ModelUnavailableError: The server does not have it.
        """
        checkpoint = self._models.get(key)
        if checkpoint is None:
            raise ModelUnavailableError(self._unknown(key))
        return checkpoint

    def label(self, key: ModelKey) -> str:
        """Value of the response header `x-model`, such as `sam2/demo`.

        Args:
            key: One of `keys`.
        """
        return f"{key.family}/{self.checkpoint(key).name}"

    def rename(self, family: Family, name: str) -> None:
        """Show another name for all weights of a family, for a registry that replaces its engine.

        Args:
            family: The family.
            name: Name of the weights for people.
        """
        for key, checkpoint in self._models.items():
            if key.family == family:
                self._models[key] = replace(checkpoint, name=name)

    def concept(self, key: ModelKey | None) -> ModelKey:
        """The model that answers words and exemplars.

        Args:
            key: The model that a request names; None if it names none.
        """
        return key or DEFAULT_SAM3

    def visual(self, key: ModelKey | None) -> ModelKey:
        """The model that answers points and boxes.

        Args:
            key: The model that a request names: a SAM 1 or 2, or a SAM 3 whose visual head is used
                if it has one. None if it names none.

        Raises:
            ModelUnavailableError: None of the configured models does.
        """
        if key is not None and key.family != "sam3":
            return key
        wanted = key or DEFAULT_SAM3
        if self.uses_head(wanted):
            return wanted
        if self.versions:
            return self.largest("sam2")
        raise ModelUnavailableError(
            f"No model answers points and boxes: {wanted.name} has no visual head, and "
            "INFERENCE_SAM2_WEIGHTS=none. Name SAM 2 weights there."
        )

    @property
    def answers_points(self) -> bool:
        """Whether a model answers points and boxes of requests that name none."""
        return self.uses_head(DEFAULT_SAM3) or bool(self.versions)

    def uses_head(self, key: ModelKey) -> bool:
        """Whether a SAM 3's visual head answers points and boxes.

        Args:
            key: A SAM 3.
        """
        return self._settings.visual_model != "sam2" and self._has_head(key)

    def lose_head(self, key: ModelKey) -> None:
        """Note that a checkpoint from Hugging Face turned out to have no visual head.

        Args:
            key: A SAM 3.
        """
        checkpoint = self._models[key]
        if isinstance(checkpoint, Sam3Checkpoint):
            self._models[key] = replace(checkpoint, has_head=False)

    def _has_head(self, key: ModelKey) -> bool:
        checkpoint = self.checkpoint(key)
        return isinstance(checkpoint, Sam3Checkpoint) and checkpoint.has_head

    @property
    def preloaded(self) -> list[ModelKey]:
        """The models of the setting `preload`, without duplicates, in its order.

        Raises:
            ModelUnavailableError: A model is unknown or has no weights.
        """
        parts = self._settings.preload
        if not parts:
            points = [self.visual(None)] if self.answers_points else []
            return list(dict.fromkeys([self.concept(None), *points]))
        known = {str(key): key for key in self._models}
        known |= {f"sam:{each.name}": each for each in self._models if each.family == "sam1"}
        known |= {f"sam2:{name}": ModelKey("sam2", version) for name, version in SAM2_IDS.items()}
        known[f"sam3:{SAM3_ID}"] = DEFAULT_SAM3
        known |= {f"sam2:{version}": ModelKey("sam2", version) for version in SAM2_VERSIONS}
        for part in parts:
            if part not in known:
                raise ModelUnavailableError(
                    f"INFERENCE_PRELOAD={part}: no such model. {self._remedy}; separate several by "
                    "commas."
                )
            if known[part] not in self._models:
                version = known[part].name
                raise ModelUnavailableError(
                    f"INFERENCE_PRELOAD={part}: INFERENCE_SAM2_WEIGHTS="
                    f"{self._settings.sam2_weights} has no weights for it. {self._remedy}, or add "
                    f"{published_file(version)} to the directory."
                )
        return list(dict.fromkeys(known[part] for part in parts))

    @property
    def _remedy(self) -> str:
        ids = [f"sam2:{name}" for name, version in SAM2_IDS.items() if version in self.versions]
        ids += [f"sam3:{SAM3_ID}"]
        published = {*SAM2_VERSIONS, SAM3_NAME}  # of which the ids are above
        ids += [str(key) for key in self._models if key.name not in published]
        return f"Preload any of {', '.join(ids)}"

    def _unknown(self, key: ModelKey) -> str:
        if key.family == "sam2" and key.name.startswith("hiera_"):
            weights = self._settings.sam2_weights
            if not self.versions:
                remedy = (
                    "Send the request to /sam3/visual_segment without sam2_version_id, and SAM 3 "
                    "answers."
                    if self.uses_head(DEFAULT_SAM3)
                    else "It answers words only."
                )
                return (
                    f"sam2_version_id {key.name}: this server has no SAM 2 "
                    f"(INFERENCE_SAM2_WEIGHTS={weights}). {remedy}"
                )
            return (
                f"sam2_version_id {key.name}: this server has no weights for it "
                f"(INFERENCE_SAM2_WEIGHTS={weights} provides {', '.join(self.versions)}). Use one "
                f"of those, or add {published_file(key.name)} to the directory."
            )
        names = [each.name for each in self._models if each.family == key.family]
        return f"Unknown model {key.name!r}. This server has {', '.join(names) or 'none'}."


def _only(found: Mapping[str, CheckpointT], setting: str) -> CheckpointT:
    """The checkpoint of a named model; a directory may contain several."""
    distinct = set(found.values())
    if len(distinct) != 1:
        raise ModelUnavailableError(
            f"{setting}: names {len(distinct)} checkpoints. Name one file, one Hugging Face id, or "
            "a directory with one checkpoint."
        )
    return distinct.pop()
