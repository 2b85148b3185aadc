"""Everything that can go wrong, as one tree.

    InferenceServerError
    ├── RequestError            400  the request cannot be answered as it stands
    │   ├── ImageError          400  the image cannot be fetched or decoded
    │   ├── ImageTooLargeError  413  the image or the body is over a limit
    │   ├── SlowBodyError       408  the body takes too long to arrive
    │   ├── UnknownImageError   404  `image_id` names nothing, and no image was sent
    │   ├── UnknownJobError     404  no job, or no file of one, under this name
    │   ├── NothingFoundError   404  no object answers the prompts, where that is an error
    │   ├── PromptError         422  a prompt that is well-formed but cannot be meant
    │   └── InvalidRequestError 422  the request is not of its type
    ├── AuthError               401  the API key is missing or wrong, has expired or was revoked
    ├── ScopeError              403  the API key may do other things, but not this
    ├── CreditsError            402  the API key has not enough credits left
    ├── TransientError          503  not now: trying again soon makes sense
    │   ├── CapacityError       429  a queue is full
    │   │   └── RateError       429  the API key asks too often
    │   ├── StoppingError       503  the server is about to end
    │   ├── MemoryShortageError 503  the device or the host has no memory left
    │   └── StorageError        503  the jobs' database, or temporary storage, cannot be used
    ├── DeadlineError           504  the request waited too long
    └── ModelUnavailableError   503  the weights are missing, corrupt or gated

Rooms below the routes raise these and know nothing of HTTP beyond the number; how a contract words
them on the wire is said once in its route module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self


class InferenceServerError(Exception):
    """Base of all errors that a client may see.

    Attributes:
        status: HTTP status.
        reason: short stable word for logs and metrics.
        message: what happened and what to do, for the client's eyes.
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
    """The request cannot be answered as it stands."""

    status = 400
    reason = "bad_request"


class ImageError(RequestError):
    """The image cannot be fetched or decoded."""

    reason = "image"


class ImageTooLargeError(RequestError):
    """The image, or the body that carries it, is over a limit."""

    status = 413
    reason = "too_large"


class SlowBodyError(RequestError):
    """The request's body took longer to arrive than the server waits for it."""

    status = 408
    reason = "slow_body"


class UnknownImageError(RequestError):
    """`image_id` names no cached image, and none was sent along."""

    status = 404
    reason = "unknown_image"


class UnknownJobError(RequestError):
    """There is no such job, or none any more, or it is another's."""

    status = 404
    reason = "unknown_job"


class NothingFoundError(RequestError):
    """No object answers the prompts, in a contract where that is an error."""

    status = 404
    reason = "nothing_found"


class PromptError(RequestError):
    """A prompt is well-formed but cannot be meant.

    Attributes:
        location: where in the request, as in pydantic's `loc`.
    """

    status = 422
    reason = "prompt"

    def __init__(self, message: str, location: Sequence[str | int] = ("body",)) -> None:
        super().__init__(message)
        self.location = tuple(location)


class InvalidRequestError(RequestError):
    """The request is not of its type.

    Attributes:
        detail: one `{loc, msg, type}` for each mistake; the message tells the first ones.
    """

    status = 422
    reason = "validation"

    def __init__(self, message: str, detail: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message)
        self.detail = list(detail)


class AuthError(InferenceServerError):
    """The API key is missing or wrong, has expired or was revoked."""

    status = 401
    reason = "auth"

    @property
    def headers(self) -> dict[str, str]:
        """Names the two schemes a generic client may try."""
        return {"www-authenticate": 'Bearer realm="inference-server"'}


class ScopeError(InferenceServerError):
    """The API key may do other things, but not this."""

    status = 403
    reason = "scope"


class CreditsError(InferenceServerError):
    """The API key has not enough credits left."""

    status = 402
    reason = "credits"


class TransientError(InferenceServerError):
    """Not now: trying again soon makes sense.

    Attributes:
        retry_after: seconds after which it does.
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
        full: what is full, in a short stable word for the metrics; empty is the reason itself.
    """

    status = 429
    reason = "capacity"

    def __init__(self, message: str, retry_after: float = 1.0, *, full: str = "") -> None:
        super().__init__(message, retry_after)
        self.full = full


class RateError(CapacityError):
    """The API key asks more often than it may."""

    reason = "rate"


class StoppingError(TransientError):
    """The server is about to end; another one may answer."""

    reason = "stopping"


class MemoryShortageError(TransientError):
    """The device or the host has no memory left for this, although caches made room."""

    reason = "memory"

    @classmethod
    def of_request(cls) -> Self:
        """What is told where Python itself found no memory."""
        return cls(
            "There is no memory left for this request. Try again shortly, or send a smaller image."
        )


class StorageError(TransientError):
    """The database of the jobs, or temporary storage, cannot be used."""

    reason = "storage"


class DeadlineError(InferenceServerError):
    """The request waited longer than the server's time limit."""

    status = 504
    reason = "deadline"


class ModelUnavailableError(InferenceServerError):
    """The weights of a model are missing, corrupt or gated."""

    status = 503
    reason = "model_unavailable"
