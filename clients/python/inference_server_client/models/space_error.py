from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

T = TypeVar("T", bound="SpaceError")


@_attrs_define
class SpaceError:
    """What went wrong, and how to fix it.

    Attributes:
        success (bool): Always false.
        error (str): Human-readable error message.
        masks (list[str]): Always empty.
        scores (list[float]): Always empty.
        num_objects (int): Always 0.
        code (str | Unset): Stable word for the kind of error, such as `image` or `rate`; the documentation lists all.
            Messages may change.
    """

    success: bool
    error: str
    masks: list[str]
    scores: list[float]
    num_objects: int
    code: str | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        success = self.success

        error = self.error

        masks = self.masks

        scores = self.scores

        num_objects = self.num_objects

        code = self.code

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "success": success,
                "error": error,
                "masks": masks,
                "scores": scores,
                "num_objects": num_objects,
            }
        )
        if code is not UNSET:
            field_dict["code"] = code

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        success = d.pop("success")

        error = d.pop("error")

        masks = cast(list[str], d.pop("masks"))

        scores = cast(list[float], d.pop("scores"))

        num_objects = d.pop("num_objects")

        code = d.pop("code", UNSET)

        space_error = cls(
            success=success,
            error=error,
            masks=masks,
            scores=scores,
            num_objects=num_objects,
            code=code,
        )

        space_error.additional_properties = d
        return space_error

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
