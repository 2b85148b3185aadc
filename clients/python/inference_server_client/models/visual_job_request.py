from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..models.sam_2_version import Sam2Version, check_sam_2_version
from ..models.visual_format import VisualFormat, check_visual_format
from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.job_source import JobSource
    from ..models.sam_2_prompt import Sam2Prompt
    from ..models.sam_2_prompt_set import Sam2PromptSet


T = TypeVar("T", bound="VisualJobRequest")


@_attrs_define
class VisualJobRequest:
    """Segment one object per prompt, as a job.

    Attributes:
        api_key (str | Unset): API key. It can also be sent in a header or the query string.
        image_id (str | Unset): Client-chosen id under which the server caches the image. Later requests with the same
            id can omit `image`.
        image (JobSource | Unset): An image, given by URL, as base64, or by its name in the server's directory of
            rasters.
        simplify_epsilon (float | Unset): Simplify polygons: maximum distance in pixels between a vertex that is left
            out and the edge that replaces it (Douglas-Peucker). All parts stay, and polygons do not cross themselves or
            each other. 0 keeps every vertex. Only with polygons. Default: 0.0.
        include_boxes (bool | Unset): Whether predictions have `bbox` and `area`; a `binary` file then has the arrays
            `boxes` and `areas`. Default: False.
        prompts (list[Sam2Prompt] | None | Sam2Prompt | Sam2PromptSet | Unset): Prompts: a list, a list wrapped in an
            object, a single prompt, or none.
        format_ (VisualFormat | Unset): `json` (alias: `polygon`), `rle`, or `binary`: a compressed `.npz` file with the
            arrays `masks` and `low_res_masks`.
        sam2_version_id (Sam2Version | Unset): Size of a SAM 2 model.
        multimask_output (bool | Unset): Whether the model predicts three candidate masks per prompt, which helps with
            ambiguous prompts. The response contains the best one either way. Default: True.
        save_logits_to_cache (bool | Unset): Whether to cache the low-resolution logits for later requests. Default:
            False.
        load_logits_from_cache (bool | Unset): Whether to refine the cached logits of an earlier prompt on the same
            image: one with the same box and a subset of these points. Default: False.
    """

    api_key: str | Unset = UNSET
    image_id: str | Unset = UNSET
    image: JobSource | Unset = UNSET
    simplify_epsilon: float | Unset = 0.0
    include_boxes: bool | Unset = False
    prompts: list[Sam2Prompt] | None | Sam2Prompt | Sam2PromptSet | Unset = UNSET
    format_: VisualFormat | Unset = UNSET
    sam2_version_id: Sam2Version | Unset = UNSET
    multimask_output: bool | Unset = True
    save_logits_to_cache: bool | Unset = False
    load_logits_from_cache: bool | Unset = False
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        from ..models.sam_2_prompt import Sam2Prompt  # noqa: PLC0415
        from ..models.sam_2_prompt_set import Sam2PromptSet  # noqa: PLC0415

        api_key = self.api_key

        image_id = self.image_id

        image: dict[str, Any] | Unset = UNSET
        if not isinstance(self.image, Unset):
            image = self.image.to_dict()

        simplify_epsilon = self.simplify_epsilon

        include_boxes = self.include_boxes

        prompts: dict[str, Any] | list[dict[str, Any]] | None | Unset
        if isinstance(self.prompts, Unset):
            prompts = UNSET
        elif isinstance(self.prompts, Sam2PromptSet):
            prompts = self.prompts.to_dict()
        elif isinstance(self.prompts, list):
            prompts = []
            for componentsschemas_sam_2_prompt_list_item_data in self.prompts:
                componentsschemas_sam_2_prompt_list_item = (
                    componentsschemas_sam_2_prompt_list_item_data.to_dict()
                )
                prompts.append(componentsschemas_sam_2_prompt_list_item)

        elif isinstance(self.prompts, Sam2Prompt):
            prompts = self.prompts.to_dict()
        else:
            prompts = self.prompts

        format_: str | Unset = UNSET
        if not isinstance(self.format_, Unset):
            format_ = self.format_

        sam2_version_id: str | Unset = UNSET
        if not isinstance(self.sam2_version_id, Unset):
            sam2_version_id = self.sam2_version_id

        multimask_output = self.multimask_output

        save_logits_to_cache = self.save_logits_to_cache

        load_logits_from_cache = self.load_logits_from_cache

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update({})
        if api_key is not UNSET:
            field_dict["api_key"] = api_key
        if image_id is not UNSET:
            field_dict["image_id"] = image_id
        if image is not UNSET:
            field_dict["image"] = image
        if simplify_epsilon is not UNSET:
            field_dict["simplify_epsilon"] = simplify_epsilon
        if include_boxes is not UNSET:
            field_dict["include_boxes"] = include_boxes
        if prompts is not UNSET:
            field_dict["prompts"] = prompts
        if format_ is not UNSET:
            field_dict["format"] = format_
        if sam2_version_id is not UNSET:
            field_dict["sam2_version_id"] = sam2_version_id
        if multimask_output is not UNSET:
            field_dict["multimask_output"] = multimask_output
        if save_logits_to_cache is not UNSET:
            field_dict["save_logits_to_cache"] = save_logits_to_cache
        if load_logits_from_cache is not UNSET:
            field_dict["load_logits_from_cache"] = load_logits_from_cache

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.job_source import JobSource  # noqa: PLC0415
        from ..models.sam_2_prompt import Sam2Prompt  # noqa: PLC0415
        from ..models.sam_2_prompt_set import Sam2PromptSet  # noqa: PLC0415

        d = dict(src_dict)
        api_key = d.pop("api_key", UNSET)

        image_id = d.pop("image_id", UNSET)

        _image = d.pop("image", UNSET)
        image: JobSource | Unset
        if isinstance(_image, Unset):
            image = UNSET
        else:
            image = JobSource.from_dict(_image)

        simplify_epsilon = d.pop("simplify_epsilon", UNSET)

        include_boxes = d.pop("include_boxes", UNSET)

        def _parse_prompts(
            data: object,
        ) -> list[Sam2Prompt] | None | Sam2Prompt | Sam2PromptSet | Unset:
            if data is None:
                return data
            if isinstance(data, Unset):
                return data
            try:
                if not isinstance(data, dict):
                    raise TypeError()
                componentsschemas_sam_2_prompts_type_0 = Sam2PromptSet.from_dict(data)

                return componentsschemas_sam_2_prompts_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            try:
                if not isinstance(data, list):
                    raise TypeError()
                componentsschemas_sam_2_prompts_type_1 = []
                _componentsschemas_sam_2_prompts_type_1 = data
                for (
                    componentsschemas_sam_2_prompt_list_item_data
                ) in _componentsschemas_sam_2_prompts_type_1:
                    componentsschemas_sam_2_prompt_list_item = Sam2Prompt.from_dict(
                        componentsschemas_sam_2_prompt_list_item_data
                    )

                    componentsschemas_sam_2_prompts_type_1.append(
                        componentsschemas_sam_2_prompt_list_item
                    )

                return componentsschemas_sam_2_prompts_type_1
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            try:
                if not isinstance(data, dict):
                    raise TypeError()
                componentsschemas_sam_2_prompts_type_2 = Sam2Prompt.from_dict(data)

                return componentsschemas_sam_2_prompts_type_2
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(list[Sam2Prompt] | None | Sam2Prompt | Sam2PromptSet | Unset, data)

        prompts = _parse_prompts(d.pop("prompts", UNSET))

        _format_ = d.pop("format", UNSET)
        format_: VisualFormat | Unset
        if isinstance(_format_, Unset):
            format_ = UNSET
        else:
            format_ = check_visual_format(_format_)

        _sam2_version_id = d.pop("sam2_version_id", UNSET)
        sam2_version_id: Sam2Version | Unset
        if isinstance(_sam2_version_id, Unset):
            sam2_version_id = UNSET
        else:
            sam2_version_id = check_sam_2_version(_sam2_version_id)

        multimask_output = d.pop("multimask_output", UNSET)

        save_logits_to_cache = d.pop("save_logits_to_cache", UNSET)

        load_logits_from_cache = d.pop("load_logits_from_cache", UNSET)

        visual_job_request = cls(
            api_key=api_key,
            image_id=image_id,
            image=image,
            simplify_epsilon=simplify_epsilon,
            include_boxes=include_boxes,
            prompts=prompts,
            format_=format_,
            sam2_version_id=sam2_version_id,
            multimask_output=multimask_output,
            save_logits_to_cache=save_logits_to_cache,
            load_logits_from_cache=load_logits_from_cache,
        )

        visual_job_request.additional_properties = d
        return visual_job_request

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
