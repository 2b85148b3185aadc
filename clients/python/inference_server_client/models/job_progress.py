from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

T = TypeVar("T", bound="JobProgress")


@_attrs_define
class JobProgress:
    """How far a job is that works on a raster by windows.

    Attributes:
        share (float): Part of the windows that is finished. Starts again at 0 if a crash or an error makes the server
            repeat the job.
        done (int): Windows that are finished, including skipped ones.
        total (int): Windows of the raster.
        skipped (int): Windows without data, which are not segmented.
        objects (int): Objects found so far. The pieces of an object that windows cut are joined as the work proceeds.
    """

    share: float
    done: int
    total: int
    skipped: int
    objects: int
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        share = self.share

        done = self.done

        total = self.total

        skipped = self.skipped

        objects = self.objects

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "share": share,
                "done": done,
                "total": total,
                "skipped": skipped,
                "objects": objects,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        share = d.pop("share")

        done = d.pop("done")

        total = d.pop("total")

        skipped = d.pop("skipped")

        objects = d.pop("objects")

        job_progress = cls(
            share=share,
            done=done,
            total=total,
            skipped=skipped,
            objects=objects,
        )

        job_progress.additional_properties = d
        return job_progress

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
