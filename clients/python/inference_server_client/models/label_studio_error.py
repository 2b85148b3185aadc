from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.label_studio_error_request import LabelStudioErrorRequest


T = TypeVar("T", bound="LabelStudioError")


@_attrs_define
class LabelStudioError:
    """What went wrong, and how to fix it.

    Attributes:
        status (int): HTTP status.
        detail (str): Human-readable error message.
        request (LabelStudioErrorRequest): Always empty.
        code (str | Unset): Stable word for the kind of error, such as `image` or `rate`; the documentation lists all.
            Messages may change.
    """

    status: int
    detail: str
    request: LabelStudioErrorRequest
    code: str | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        status = self.status

        detail = self.detail

        request = self.request.to_dict()

        code = self.code

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "status": status,
                "detail": detail,
                "request": request,
            }
        )
        if code is not UNSET:
            field_dict["code"] = code

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.label_studio_error_request import LabelStudioErrorRequest  # noqa: PLC0415

        d = dict(src_dict)
        status = d.pop("status")

        detail = d.pop("detail")

        request = LabelStudioErrorRequest.from_dict(d.pop("request"))

        code = d.pop("code", UNSET)

        label_studio_error = cls(
            status=status,
            detail=detail,
            request=request,
            code=code,
        )

        label_studio_error.additional_properties = d
        return label_studio_error

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
