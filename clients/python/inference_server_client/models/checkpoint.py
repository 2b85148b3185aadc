from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..models.checkpoint_family import CheckpointFamily, check_checkpoint_family
from ..types import UNSET, Unset

T = TypeVar("T", bound="Checkpoint")


@_attrs_define
class Checkpoint:
    """Weights that this server uses.

    Attributes:
        family (CheckpointFamily): Model family.
        name (str): Name of the checkpoint in requests.
        source (str): Source of the weights: `demo`, a path, or a Hugging Face id.
        device (str): Device of the model, such as `cpu` or `cuda:0`.
        dtype (str): Data type of the computation.
        loaded (bool): Whether the model is in memory.
        cache_dtype (str | Unset): Data type of cached image embeddings.
        threads (int | Unset): Number of CPU threads the model may use.
        encode_batch (int | Unset): Maximum number of images per encoder batch.
        decode_batch (int | Unset): Maximum number of prompts per decoder batch.
        nbytes (int | Unset): Memory of the weights in bytes; 0 if they are not in memory.
        last_used (float | Unset): Unix time of the last request; null if it is not in memory, or if the API key does
            not have the scope `admin`.
        side (int | Unset): Side of the model's square input in pixels; null if it is not in memory.
    """

    family: CheckpointFamily
    name: str
    source: str
    device: str
    dtype: str
    loaded: bool
    cache_dtype: str | Unset = UNSET
    threads: int | Unset = UNSET
    encode_batch: int | Unset = UNSET
    decode_batch: int | Unset = UNSET
    nbytes: int | Unset = UNSET
    last_used: float | Unset = UNSET
    side: int | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        family: str = self.family

        name = self.name

        source = self.source

        device = self.device

        dtype = self.dtype

        loaded = self.loaded

        cache_dtype = self.cache_dtype

        threads = self.threads

        encode_batch = self.encode_batch

        decode_batch = self.decode_batch

        nbytes = self.nbytes

        last_used = self.last_used

        side = self.side

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "family": family,
                "name": name,
                "source": source,
                "device": device,
                "dtype": dtype,
                "loaded": loaded,
            }
        )
        if cache_dtype is not UNSET:
            field_dict["cache_dtype"] = cache_dtype
        if threads is not UNSET:
            field_dict["threads"] = threads
        if encode_batch is not UNSET:
            field_dict["encode_batch"] = encode_batch
        if decode_batch is not UNSET:
            field_dict["decode_batch"] = decode_batch
        if nbytes is not UNSET:
            field_dict["nbytes"] = nbytes
        if last_used is not UNSET:
            field_dict["last_used"] = last_used
        if side is not UNSET:
            field_dict["side"] = side

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        family = check_checkpoint_family(d.pop("family"))

        name = d.pop("name")

        source = d.pop("source")

        device = d.pop("device")

        dtype = d.pop("dtype")

        loaded = d.pop("loaded")

        cache_dtype = d.pop("cache_dtype", UNSET)

        threads = d.pop("threads", UNSET)

        encode_batch = d.pop("encode_batch", UNSET)

        decode_batch = d.pop("decode_batch", UNSET)

        nbytes = d.pop("nbytes", UNSET)

        last_used = d.pop("last_used", UNSET)

        side = d.pop("side", UNSET)

        checkpoint = cls(
            family=family,
            name=name,
            source=source,
            device=device,
            dtype=dtype,
            loaded=loaded,
            cache_dtype=cache_dtype,
            threads=threads,
            encode_batch=encode_batch,
            decode_batch=decode_batch,
            nbytes=nbytes,
            last_used=last_used,
            side=side,
        )

        checkpoint.additional_properties = d
        return checkpoint

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
