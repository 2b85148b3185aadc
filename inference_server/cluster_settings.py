"""The settings of a cluster: how many of what there are, and where requests go."""

from __future__ import annotations

import re

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings


class ClusterSettings(BaseSettings):
    """What `serve --cluster` and a Serve application take besides a server's other settings."""

    cluster_address: str = Field(
        "",
        description="Ray cluster to join, such as `10.0.0.5:6379`, or `auto` for the one that this "
        "machine belongs to. Empty: `serve --cluster` starts Ray on this machine.",
    )
    cluster_ingress_replicas: str = Field(
        "1",
        description="Replicas that take HTTP: a number, or `MIN-MAX` for as many as the load "
        "needs. More than one on several machines take INFERENCE_DATABASE_URL.",
    )
    cluster_ingress_cpus: float = Field(
        1.0, ge=0, description="CPUs that Ray keeps for a replica that takes HTTP."
    )
    cluster_concept_replicas: str = Field(
        "1", description="Replicas of SAM 3: a number, or `MIN-MAX`."
    )
    cluster_concept_cpus: float = Field(
        1.0, ge=0, description="CPUs of a replica of SAM 3; as many threads, unless set otherwise."
    )
    cluster_concept_gpus: float = Field(
        0.0, ge=0, description="GPUs of a replica of SAM 3: 1, or a part such as 0.5; 0 is none."
    )
    cluster_visual_replicas: str = Field(
        "1", description="Replicas of SAM 2: a number, or `MIN-MAX`."
    )
    cluster_visual_cpus: float = Field(
        1.0, ge=0, description="CPUs of a replica of SAM 2; as many threads, unless set otherwise."
    )
    cluster_visual_gpus: float = Field(
        0.0, ge=0, description="GPUs of a replica of SAM 2: 1, or a part such as 0.5; 0 is none."
    )
    cluster_ongoing: int = Field(
        16,
        ge=1,
        description="Requests that a replica of an engine works at; more go to the next one on the "
        "ring, or wait: as many as INFERENCE_QUEUE_SIZE for each ingress, beyond that it is 429.",
    )
    cluster_spill: int = Field(
        1,
        ge=0,
        description="Further replicas that an image's requests may go to when its own has "
        "INFERENCE_CLUSTER_ONGOING under way; each of them encodes the image once more.",
    )
    cluster_patience: float = Field(
        20.0,
        gt=0,
        description="Seconds that a request waits until a replica of its engine is there and free; "
        "then it is answered with 503. To be less than INFERENCE_SHUTDOWN_TIMEOUT, after which Ray "
        "ends an ingress that still has requests.",
    )
    cluster_target: float = Field(
        4.0,
        gt=0,
        description="Requests under way for each replica that the number of replicas is to come "
        "to, between MIN and MAX.",
    )

    @field_validator("cluster_concept_gpus", "cluster_visual_gpus")
    @classmethod
    def _are_gpus(cls, value: float) -> float:
        if value > 1 and not value.is_integer():
            raise PydanticCustomError("gpus", "Input should be a part of one GPU, or whole")
        return value

    @field_validator(
        "cluster_ingress_replicas", "cluster_concept_replicas", "cluster_visual_replicas"
    )
    @classmethod
    def _are_replicas(cls, value: str) -> str:
        if not re.fullmatch(r"\d{1,5}(-\d{1,5})?", value) or not bounds_of(value)[0] >= 1:
            raise PydanticCustomError("replicas", "Input should be like 2, or 1-8")
        least, most = bounds_of(value)
        if most < least:
            raise PydanticCustomError("replicas", "MIN should not be more than MAX, as in 1-8")
        return value


def bounds_of(replicas: str) -> tuple[int, int]:
    """The least and most replicas that a setting means: (2, 2) of `2`, (1, 8) of `1-8`."""
    least, _, most = replicas.partition("-")
    return int(least), int(most or least)
