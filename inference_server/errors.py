"""All errors that a client may get, as one tree.

    InferenceServerError
    ├── RequestError            400  the request cannot be processed
    │   ├── ImageError          400  the image cannot be fetched or decoded
    │   ├── ImageTooLargeError  413  the image or the body exceeds a limit
    │   ├── SlowBodyError       408  the body did not arrive in time
    │   ├── EncodingError       415  the body's encoding is not supported
    │   ├── MediaTypeError      415  the body's type is not supported
    │   ├── UnknownImageError   404  `image_id` is not cached, and no image was sent
    │   ├── UnknownModelError   404  no such model, in an API where that is no invalid field
    │   ├── UnknownJobError     404  no such job, or no such file of a job
    │   ├── UnknownPathError    404  no such path
    │   ├── MethodError         405  no such method of the path
    │   ├── NothingFoundError   404  no object found, in an API where that is an error
    │   ├── PromptError         422  a prompt is well-formed but invalid
    │   └── InvalidRequestError 422  the request does not match its schema
    ├── AuthError               401  the API key is missing, wrong, expired or revoked
    ├── ScopeError              403  the API key lacks the required scope
    ├── CreditsError            402  the API key has insufficient credits
    ├── TransientError          503  temporary: a retry may succeed
    │   ├── CapacityError       429  a queue is full
    │   │   └── RateError       429  the API key exceeds its rate limit
    │   ├── StoppingError       503  the server is stopping
    │   ├── MemoryShortageError 503  the device or the host is out of memory
    │   └── StorageError        503  the database or temporary storage is unavailable
    ├── DeadlineError           504  the request timed out
    └── ModelUnavailableError   503  the weights are missing, corrupt or gated

Packages below the API raise these and know nothing of HTTP but the status. Each vendor's API turns
them into its own error format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self


class InferenceServerError(Exception):
    """Base of all errors that a client may get.

    Attributes:
        status: HTTP status.
        reason: short stable word for logs, metrics and the field `code` of responses.
        message: what is wrong and what to do, for the client.
    """

    status: int = 500
    reason: str = "internal"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def headers(self) -> dict[str, str]:
        """Extra response headers."""
        return {}


class RequestError(InferenceServerError):
    """The request cannot be processed."""

    status = 400
    reason = "bad_request"


class ImageError(RequestError):
    """The image cannot be fetched or decoded."""

    reason = "image"


class ImageTooLargeError(RequestError):
    """The image, or the body that contains it, exceeds a limit."""

    status = 413
    reason = "too_large"


class SlowBodyError(RequestError):
    """The request body did not arrive in time."""

    status = 408
    reason = "slow_body"


class EncodingError(RequestError):
    """The `Content-Encoding` of the request body is not supported."""

    status = 415
    reason = "encoding"

    @property
    def headers(self) -> dict[str, str]:
        """`Accept-Encoding` with the supported encodings."""
        return {"accept-encoding": "gzip, deflate"}


class MediaTypeError(RequestError):
    """The `Content-Type` of the request body is not supported."""

    status = 415
    reason = "media_type"


class UnknownImageError(RequestError):
    """`image_id` is not cached, and the request contains no image."""

    status = 404
    reason = "unknown_image"


class UnknownModelError(RequestError):
    """There is no model of this name, in an API that answers 404 to that."""

    status = 404
    reason = "unknown_model"


class UnknownJobError(RequestError):
    """The job does not exist, has expired, or belongs to another tenant."""

    status = 404
    reason = "unknown_job"


class UnknownPathError(RequestError):
    """The server has no such path."""

    status = 404
    reason = "unknown_path"


class MethodError(RequestError):
    """The path exists, but not with this method."""

    status = 405
    reason = "method"


class NothingFoundError(RequestError):
    """No object was found, in an API where that is an error."""

    status = 404
    reason = "nothing_found"


class PromptError(RequestError):
    """A prompt is well-formed but invalid.

    Attributes:
        location: path of the invalid field in the request, as pydantic's `loc`.
    """

    status = 422
    reason = "prompt"

    def __init__(self, message: str, location: Sequence[str | int] = ("body",)) -> None:
        super().__init__(message)
        self.location = tuple(location)


class InvalidRequestError(RequestError):
    """The request does not match its schema.

    Attributes:
        detail: one `{loc, msg, type}` per invalid field; the message contains the first ones.
    """

    status = 422
    reason = "validation"

    def __init__(self, message: str, detail: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message)
        self.detail = list(detail)


class AuthError(InferenceServerError):
    """The API key is missing, wrong, expired or revoked."""

    status = 401
    reason = "auth"

    @property
    def headers(self) -> dict[str, str]:
        """`WWW-Authenticate` with the bearer scheme."""
        return {"www-authenticate": 'Bearer realm="inference-server"'}


class ScopeError(InferenceServerError):
    """The API key lacks the required scope."""

    status = 403
    reason = "scope"


class CreditsError(InferenceServerError):
    """The API key has insufficient credits."""

    status = 402
    reason = "credits"


class TransientError(InferenceServerError):
    """A temporary error: a retry may succeed.

    Attributes:
        retry_after: seconds to wait before a retry. Default: 1.
    """

    status = 503
    reason = "transient"

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """`Retry-After`, in whole seconds."""
        return {"retry-after": str(max(1, round(self.retry_after)))}


class CapacityError(TransientError):
    """A queue is full.

    Attributes:
        full: short stable word for what is full, for metrics. Default: empty, `reason` is used.
    """

    status = 429
    reason = "capacity"

    def __init__(self, message: str, retry_after: float = 1.0, *, full: str = "") -> None:
        super().__init__(message, retry_after)
        self.full = full


class RateError(CapacityError):
    """The API key exceeds its rate limit."""

    reason = "rate"


class StoppingError(TransientError):
    """The server is stopping; another one may serve the request."""

    reason = "stopping"


class MemoryShortageError(TransientError):
    """The device or the host is out of memory, even after caches were evicted."""

    reason = "memory"

    @classmethod
    def of_request(cls) -> Self:
        """Return the error for a `MemoryError` while handling a request."""
        return cls(
            "There is no memory left for this request. Try again shortly, or send a smaller image."
        )


class StorageError(TransientError):
    """The database or temporary storage is unavailable."""

    reason = "storage"


class DeadlineError(InferenceServerError):
    """The request timed out."""

    status = 504
    reason = "deadline"


class ModelUnavailableError(InferenceServerError):
    """The weights of a model are missing, corrupt or gated."""

    status = 503
    reason = "model_unavailable"
