"""Label Studio's own host: where images of tasks are, and the tokens that open them."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from inference_server.errors import ImageError
from inference_server.images import (
    ImageFetcher,
    NotAuthorizedError,
    TrustedHost,
    could_not_load,
)
from inference_server.observability.metrics import Timings
from inference_server.segmentation.image_loader import ImageLoader
from inference_server.segmentation.types import StoredImage

_FILES = ("/data/", "/storage-data/")
_STORAGES = frozenset({"s3", "gs", "azure-blob"})
_LIFETIME = 300.0
"""Seconds for which an access token is valid if it does not tell."""

_USED = 0.8
"""Share of an access token's lifetime after which it is renewed."""

_ADVICE = (
    "Set INFERENCE_LABEL_STUDIO_URL and INFERENCE_LABEL_STUDIO_API_KEY on the server, or give the "
    "task a public URL."
)


@dataclass(frozen=True, slots=True)
class Location:
    """Where an image of a task is.

    Attributes:
        url: its URL.
        own: whether Label Studio has it, so that it gets the token.
    """

    url: str
    own: bool


class LabelStudioHost:
    """Fetches images from Label Studio's host with an access token.

    A personal access token is a refresh token, which Label Studio changes for an access token that
    is valid for five minutes. A legacy token is sent as it is.

    Args:
        url: Label Studio's URL without trailing slash; empty if there is none.
        token: a personal access token or a legacy token; empty sends none.
        now: returns the time in seconds. Default: a monotonic clock.
    """

    def __init__(self, url: str, token: str, now: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._token = token
        self._now = now
        self._access = ""
        self._renew_at = 0.0
        self._renewing = asyncio.Lock()

    def locate(self, value: str, task: int | None) -> Location:
        """Find out where an image is.

        Args:
            value: the image in the task's data: a path on Label Studio, the URI of a file in a
                storage, or a URL.
            task: id of the task, which Label Studio needs for a storage.

        Raises:
            ImageError: the value is none of these, or Label Studio's URL is not configured.
        """
        url = _parsed(value.strip())
        if url.scheme in ("http", "https"):
            return Location(value.strip(), self._is_own(url))
        if url.scheme in _STORAGES:
            self._require("is in a storage")
            if task is None:
                raise could_not_load(
                    "The task has no id, so Label Studio cannot be asked for the file.",
                    "Send the task's id.",
                )
            uri = base64.urlsafe_b64encode(value.strip().encode()).decode()
            query = httpx.QueryParams({"fileuri": uri})
            return Location(f"{self._url}/tasks/{task}/presign/?{query}", True)
        if not url.scheme and not url.raw_host and url.path.startswith("/"):
            self._require("is a path on Label Studio")
            base = httpx.URL(self._url)
            prefix = base.path.rstrip("/")
            rest = value.strip()
            if prefix and rest.startswith(f"{prefix}/"):
                rest = rest.removeprefix(prefix)
            location = Location(f"{self._url}{rest}", True)
            if not self._is_own(_parsed(location.url)):
                raise could_not_load(
                    "The task's image is a path on Label Studio that is no file.",
                    "Give a path that begins with /data/.",
                )
            return location
        raise could_not_load(
            "The task's image is neither a URL nor a path on Label Studio.",
            "Check the column that the Image tag names.",
        )

    def _require(self, why: str) -> None:
        if not self._url:
            raise could_not_load(f"The task's image {why}, whose URL is not configured.", _ADVICE)

    def _is_own(self, url: httpx.URL) -> bool:
        """Whether a URL is that of a file on Label Studio: nothing else gets the token."""
        path = TrustedHost(self._url).below(url) if self._url else None
        return path is not None and path.startswith(_FILES)

    async def fetch(
        self, loader: ImageLoader, tenant: str, location: Location, timings: Timings
    ) -> StoredImage:
        """Fetch an image; renew the token once if it is refused.

        Args:
            loader: fetches images.
            tenant: owner of the image.
            location: where the image is.
            timings: receives the duration.

        Raises:
            ImageError: the image cannot be fetched.
            ImageTooLargeError: the image exceeds a limit.
            CapacityError: fetched images in progress use too much memory.
        """
        if not location.own:
            return await loader.fetch(tenant, location.url, timings)
        trusted = await self._trusted(loader.fetcher)
        try:
            return await loader.fetch(tenant, location.url, timings, trusted)
        except NotAuthorizedError as error:
            if not self._is_personal:
                raise self._refused(error) from None
        self._forget(trusted)
        trusted = await self._trusted(loader.fetcher)
        try:
            return await loader.fetch(tenant, location.url, timings, trusted)
        except NotAuthorizedError as error:
            raise self._refused(error) from None

    @property
    def _is_personal(self) -> bool:
        return self._token.count(".") == 2

    async def _trusted(self, fetcher: ImageFetcher) -> TrustedHost:
        """Return the host with what authorises a request now."""
        if not self._token:
            return TrustedHost(self._url)
        if not self._is_personal:
            return TrustedHost(self._url, f"Token {self._token}")
        async with self._renewing:  # one request renews the token for all that wait
            if not self._access or self._now() >= self._renew_at:
                await self._renew(fetcher)
            return TrustedHost(self._url, f"Bearer {self._access}")

    def _forget(self, trusted: TrustedHost) -> None:
        """Forget an access token that was refused, unless it was renewed meanwhile."""
        if trusted.authorization == f"Bearer {self._access}":
            self._access = ""

    async def _renew(self, fetcher: ImageFetcher) -> None:
        body = orjson.dumps({"refresh": self._token})
        begin = self._now()
        try:
            answer = await fetcher.post_json(
                f"{self._url}/api/token/refresh", body, TrustedHost(self._url)
            )
        except NotAuthorizedError as error:
            raise self._refused(error) from None
        access: Any = None
        with suppress(ValueError, TypeError, AttributeError):
            access = orjson.loads(answer).get("access")
        if not isinstance(access, str) or not access.isascii() or not access.isprintable():
            raise could_not_load(
                "Label Studio did not answer the refresh of its token with an access token.",
                "Check INFERENCE_LABEL_STUDIO_URL on the server.",
            )
        self._access = access
        self._renew_at = begin + _USED * _lifetime(access)

    def _refused(self, error: NotAuthorizedError) -> ImageError:
        del error
        told = "refuses the token" if self._token else "requires a token"
        return could_not_load(
            f"Label Studio {told} for this image.",
            "Set INFERENCE_LABEL_STUDIO_API_KEY on the server to a valid token of a user who can "
            "see the project; legacy tokens must be enabled in the organisation.",
        )


def _parsed(text: str) -> httpx.URL:
    """Parse the URL of a task's image.

    Raises:
        ImageError: the text is no URL.
    """
    try:
        return httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        raise could_not_load("The task's image is no URL.", "Correct the task.") from None


def _lifetime(token: str) -> float:
    """Seconds for which a token is valid after it was issued, as its payload tells."""
    with suppress(ValueError, TypeError, KeyError, IndexError):
        payload = token.split(".")[1]
        told = orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return min(max(float(told["exp"]) - float(told["iat"]), 1.0), _LIFETIME)
    return _LIFETIME
