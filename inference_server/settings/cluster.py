"""Settings: a Ray cluster."""

from __future__ import annotations

from pydantic import Field

from inference_server.settings import types
from inference_server.settings.types import EnvironmentSettings


class ClusterSettings(EnvironmentSettings):
    """A Ray cluster."""

    cluster_address: str = Field(
        "",
        description="Ray cluster to join, such as `10.0.0.5:6379`, or `auto` for the cluster that "
        "this machine belongs to. Empty: `serve --cluster` starts Ray on this machine.",
    )
    cluster_ingress_replicas: types.ReplicaCount = Field(
        "1",
        description="HTTP ingress replicas: a number, or `MIN-MAX` to scale with the load. Several "
        "on different machines need INFERENCE_DATABASE_URL.",
    )
    cluster_ingress_cpus: float = Field(1.0, ge=0, description="CPUs per ingress replica.")
    cluster_concept_replicas: types.ReplicaCount = Field(
        "1", description="SAM 3 replicas: a number, or `MIN-MAX` to scale with the load."
    )
    cluster_concept_cpus: float = Field(
        1.0,
        ge=0,
        description="CPUs per SAM 3 replica; also its threads, unless INFERENCE_THREADS is set.",
    )
    cluster_concept_gpus: types.GpuShare = Field(
        0.0, ge=0, description="GPUs per SAM 3 replica: a fraction such as 0.5, or a whole number."
    )
    cluster_visual_replicas: types.ReplicaCount = Field(
        "1",
        description="Replicas of SAM 1 and SAM 2: a number, or `MIN-MAX` to scale with the load.",
    )
    cluster_visual_cpus: float = Field(
        1.0,
        ge=0,
        description="CPUs per replica of SAM 1 and SAM 2; also its threads, unless "
        "INFERENCE_THREADS is set.",
    )
    cluster_visual_gpus: types.GpuShare = Field(
        0.0,
        ge=0,
        description="GPUs per replica of SAM 1 and SAM 2: a fraction such as 0.5, or a whole "
        "number.",
    )
    cluster_ongoing: int = Field(
        16,
        ge=1,
        description="Maximum number of requests in progress per engine replica. Further requests "
        "go to the next replica on the hash ring or wait, up to INFERENCE_QUEUE_SIZE per ingress; "
        "beyond that they get 429.",
    )
    cluster_spill: int = Field(
        1,
        ge=0,
        description="Additional replicas that may serve an image while its own has "
        "INFERENCE_CLUSTER_ONGOING requests in progress; each of them encodes the image again.",
    )
    cluster_patience: float = Field(
        20.0,
        gt=0,
        description="Seconds that a request waits for an available replica; then it gets 503. Must "
        "be less than INFERENCE_SHUTDOWN_TIMEOUT, after which Ray stops an ingress that still has "
        "requests.",
    )
    cluster_target: float = Field(
        4.0,
        gt=0,
        description="Requests in progress per replica that autoscaling aims for, between MIN and "
        "MAX.",
    )
    cluster_message_mb: int = Field(
        512,
        ge=1,
        le=4095,
        description="Maximum size in MiB of a message between an ingress and a replica: an image "
        "file with its prompts, or the masks of a response. Larger ones get 413.",
    )
    cluster_handshakes: int = Field(
        64,
        ge=1,
        description="Maximum number of connections to a replica that have not proved that they "
        "come from an ingress; the oldest is closed for a further one, and each after 10 s.",
    )
