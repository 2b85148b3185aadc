from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.checkpoint import Checkpoint
    from ..models.models_response_models import ModelsResponseModels


T = TypeVar("T", bound="ModelsResponse")


@_attrs_define
class ModelsResponse:
    """The models that this server offers.

    Attributes:
        models (ModelsResponseModels): Model ids, by version.
        loaded (list[list[str]]): `[version, id]` of each model in memory.
        checkpoints (list[Checkpoint]): Weights of the models.
    """

    models: ModelsResponseModels
    loaded: list[list[str]]
    checkpoints: list[Checkpoint]
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        models = self.models.to_dict()

        loaded = []
        for loaded_item_data in self.loaded:
            loaded_item = loaded_item_data

            loaded.append(loaded_item)

        checkpoints = []
        for checkpoints_item_data in self.checkpoints:
            checkpoints_item = checkpoints_item_data.to_dict()
            checkpoints.append(checkpoints_item)

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "models": models,
                "loaded": loaded,
                "checkpoints": checkpoints,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.checkpoint import Checkpoint  # noqa: PLC0415
        from ..models.models_response_models import ModelsResponseModels  # noqa: PLC0415

        d = dict(src_dict)
        models = ModelsResponseModels.from_dict(d.pop("models"))

        loaded = []
        _loaded = d.pop("loaded")
        for loaded_item_data in _loaded:
            loaded_item = cast(list[str], loaded_item_data)

            loaded.append(loaded_item)

        checkpoints = []
        _checkpoints = d.pop("checkpoints")
        for checkpoints_item_data in _checkpoints:
            checkpoints_item = Checkpoint.from_dict(checkpoints_item_data)

            checkpoints.append(checkpoints_item)

        models_response = cls(
            models=models,
            loaded=loaded,
            checkpoints=checkpoints,
        )

        models_response.additional_properties = d
        return models_response

    @property
    def additional_keys(self) -> list[str]:
        return list(self.additional_properties.keys())

    def __getitem__(self, key: str) -> Any:
        return self.additional_properties[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.additional_properties[key] = value

    def __delitem__(self, key: str) -> None:
        del self.additional_properties[key]

    def __contains__(self, key: str) -> bool:
        return key in self.additional_properties
