"""Settings: bounds on one request: body, image, prompts."""

from __future__ import annotations

from pydantic import Field

from inference_server.settings.types import EnvironmentSettings


class RequestSettings(EnvironmentSettings):
    """Bounds on one request: body, image, prompts."""

    max_body_mb: int = Field(
        64, ge=1, description="Maximum size of a request body in MiB, as sent and decompressed."
    )
    max_gzip_members: int = Field(
        1000,
        ge=1,
        description="Maximum number of members (compressed pieces) of a gzip request body.",
    )
    body_memory_mb: int = Field(
        1024,
        ge=1,
        description="Maximum size in MiB of all JSON bodies in progress together; beyond it, "
        "requests get 429.",
    )
    keyless_body_percent: int = Field(
        12,
        ge=1,
        le=100,
        description="Share of INFERENCE_BODY_MEMORY_MB, and of INFERENCE_UPLOAD_STORAGE_MB, for "
        "bodies of requests that have not shown a valid API key: it is neither in the query or a "
        "header, nor in the first 64 KiB of the body. Beyond it, such requests get 429.",
    )
    max_json_values: int = Field(
        200_000,
        ge=1,
        description="Maximum number of values in a JSON body, counted by its brackets and commas.",
    )
    max_json_depth: int = Field(
        32, ge=4, le=200, description="Maximum nesting depth of a JSON body."
    )
    max_upload_mb: int = Field(
        128, ge=1, description="Maximum size of a form (image and fields) in MiB."
    )
    max_form_fields: int = Field(
        64, ge=16, description="Maximum number of fields in a form, without the file."
    )
    max_form_field_kb: int = Field(
        1024, ge=1, description="Maximum size in KiB of a form's field that is not a file."
    )
    upload_storage_mb: int = Field(
        4096,
        ge=1,
        description="Maximum size in MiB of all forms in progress together; beyond it, requests "
        "get 429. They are on disk, in the directory for temporary files (`TMPDIR`).",
    )
    upload_tenant_storage_mb: int = Field(
        2048,
        ge=1,
        description="Maximum size in MiB of one tenant's forms in progress together; beyond it, "
        "its requests get 429.",
    )
    max_image_mb: int = Field(
        32,
        ge=1,
        description="Maximum size of an encoded image in MiB; in a form of samgeo's API, "
        "INFERENCE_MAX_UPLOAD_MB applies instead.",
    )
    max_image_pixels: int = Field(
        50_000_000, ge=1, description="Maximum number of pixels of an image, as its header says."
    )
    max_image_side: int = Field(
        65_536,
        ge=1,
        description="Maximum width and height of an image in pixels, as its header says. Memory "
        "for resizing and masks grows with the longer side.",
    )
    max_tiff_metadata_items: int = Field(
        8192,
        ge=1,
        description="Maximum number of metadata items in a TIFF file. The time to read them grows "
        "with the square of their number.",
    )
    max_transformations: int = Field(
        64,
        ge=32,
        description="Maximum number of calls of GDAL to transform the points or boxes of a request "
        "to the image's CRS. One call transforms all of them; more are needed only to find the "
        "first one that fails.",
    )
    max_prompts: int = Field(16, ge=1, description="Maximum number of prompts per concept request.")
    max_visual_prompts: int = Field(
        256, ge=1, description="Maximum number of prompts per visual request."
    )
    max_points: int = Field(1024, ge=1, description="Maximum number of points per prompt.")
    max_boxes: int = Field(64, ge=1, description="Maximum number of exemplar boxes per prompt.")
    max_shapes: int = Field(
        4096,
        ge=1,
        description="Maximum number of points and boxes of all prompts of a request together.",
    )
    max_text_length: int = Field(
        256, ge=1, description="Maximum length of a text prompt in characters."
    )
    max_id_length: int = Field(
        256, ge=1, description="Maximum length of an `image_id` in characters."
    )
