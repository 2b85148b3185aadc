from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.label_studio_params import LabelStudioParams
    from ..models.label_studio_task import LabelStudioTask


T = TypeVar("T", bound="LabelStudioPredictRequest")


@_attrs_define
class LabelStudioPredictRequest:
    """Tasks to predict: a batch, or one task with the user's prompts.

    Attributes:
        label_config (str): Label configuration (XML).
        api_key (str | Unset): API key. Label Studio sends it by HTTP Basic instead.
        tasks (list[LabelStudioTask] | Unset): The tasks.
        project (str | Unset): Id of the project.
        params (LabelStudioParams | Unset): Parameters of a request; other fields are ignored.
    """

    label_config: str
    api_key: str | Unset = UNSET
    tasks: list[LabelStudioTask] | Unset = UNSET
    project: str | Unset = UNSET
    params: LabelStudioParams | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        label_config = self.label_config

        api_key = self.api_key

        tasks: list[dict[str, Any]] | Unset = UNSET
        if not isinstance(self.tasks, Unset):
            tasks = []
            for tasks_item_data in self.tasks:
                tasks_item = tasks_item_data.to_dict()
                tasks.append(tasks_item)

        project = self.project

        params: dict[str, Any] | Unset = UNSET
        if not isinstance(self.params, Unset):
            params = self.params.to_dict()

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "label_config": label_config,
            }
        )
        if api_key is not UNSET:
            field_dict["api_key"] = api_key
        if tasks is not UNSET:
            field_dict["tasks"] = tasks
        if project is not UNSET:
            field_dict["project"] = project
        if params is not UNSET:
            field_dict["params"] = params

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.label_studio_params import LabelStudioParams  # noqa: PLC0415
        from ..models.label_studio_task import LabelStudioTask  # noqa: PLC0415

        d = dict(src_dict)
        label_config = d.pop("label_config")

        api_key = d.pop("api_key", UNSET)

        _tasks = d.pop("tasks", UNSET)
        tasks: list[LabelStudioTask] | Unset = UNSET
        if _tasks is not UNSET:
            tasks = []
            for tasks_item_data in _tasks:
                tasks_item = LabelStudioTask.from_dict(tasks_item_data)

                tasks.append(tasks_item)

        project = d.pop("project", UNSET)

        _params = d.pop("params", UNSET)
        params: LabelStudioParams | Unset
        if isinstance(_params, Unset):
            params = UNSET
        else:
            params = LabelStudioParams.from_dict(_params)

        label_studio_predict_request = cls(
            label_config=label_config,
            api_key=api_key,
            tasks=tasks,
            project=project,
            params=params,
        )

        label_studio_predict_request.additional_properties = d
        return label_studio_predict_request

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
