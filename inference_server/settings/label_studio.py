"""Settings: the ML backend for Label Studio."""

from __future__ import annotations

from pydantic import Field

from inference_server.settings import types
from inference_server.settings.types import EnvironmentSettings


class LabelStudioSettings(EnvironmentSettings):
    """The ML backend for Label Studio."""

    label_studio_url: types.PublicUrl = Field(
        "",
        description="URL of Label Studio, such as `http://label-studio:8080`, from which images of "
        "tasks are fetched. It may be on a private network. Empty: only images with a public URL "
        "or a data URL can be used.",
    )
    label_studio_api_key: str = Field(
        "",
        repr=False,
        description="Access token of a user of Label Studio who can see the projects: a personal "
        "access token or a legacy token. It is sent below INFERENCE_LABEL_STUDIO_URL only.",
    )
    label_studio_batch_seconds: float = Field(
        60.0,
        gt=0,
        description="Maximum seconds for the predictions of several tasks in one request. Label "
        "Studio waits 100 seconds. If a batch would take longer, only its first task is answered, "
        "and Label Studio then requests one task at a time.",
    )
    label_studio_batch_mb: int = Field(
        64,
        ge=1,
        description="Maximum size in MiB of the regions in the response to a batch; beyond it, "
        "only the first task is answered, as above.",
    )
    label_studio_batch_tasks: int = Field(
        4, ge=1, le=64, description="Tasks of one batch that are segmented concurrently."
    )
    label_studio_max_tasks: int = Field(
        2000, ge=1, description="Maximum number of tasks in one request of Label Studio."
    )
    label_studio_max_json_values: int = Field(
        2_000_000,
        ge=1,
        description="Maximum number of values in a JSON body of Label Studio, in place of "
        "INFERENCE_MAX_JSON_VALUES: tasks contain earlier predictions, with a number per byte of "
        "each mask.",
    )
    label_studio_max_config_kb: int = Field(
        256, ge=1, description="Maximum size in KiB of a project's label configuration."
    )
    label_studio_max_config_tags: int = Field(
        4096, ge=1, description="Maximum number of tags in a project's label configuration."
    )
    label_studio_max_controls: int = Field(
        256, ge=1, description="Maximum number of control tags in a project's label configuration."
    )
    label_studio_max_words: int = Field(
        128,
        ge=1,
        description="Maximum number of label names, and `predicted_values` in their place, that a "
        "batch looks for in each image.",
    )
    label_studio_max_regions: int = Field(
        300, ge=1, description="Maximum number of regions per task; those of the best scores stay."
    )
    label_studio_max_params_kb: int = Field(
        16, ge=1, description="Maximum size in KiB of a backend's `extra_params`."
    )
    label_studio_projects: int = Field(
        1024,
        ge=1,
        description="Projects whose `extra_params` are remembered; beyond it, the tenant "
        "with the most of them loses the least recently used one, until Label Studio sends it "
        "again.",
    )
    label_studio_tenant_projects: int = Field(
        256,
        ge=1,
        description="Projects of one tenant whose `extra_params` are remembered, within "
        "INFERENCE_LABEL_STUDIO_PROJECTS.",
    )
    label_studio_max_address_length: int = Field(
        8192,
        ge=1,
        description="Maximum length in characters of an image's address in a task of Label Studio, "
        "unless it is a data URL.",
    )
    label_studio_images: int = Field(
        4096,
        ge=1,
        description="Images of tasks whose digest is remembered, so that a click on a cached image "
        "does not fetch it again.",
    )
    label_studio_image_seconds: float = Field(
        600.0,
        ge=0,
        description="Seconds after which an image of a task is fetched again, to see whether it "
        "has changed; 0 fetches it for every request.",
    )
