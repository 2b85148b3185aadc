"""Label Studio's host: where images are, and which token opens them."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from inference_server.api.label_studio.host import LabelStudioHost, Location
from inference_server.errors import ImageError
from inference_server.images import NotAuthorizedError, TrustedHost
from inference_server.observability.metrics import Timings
from inference_server.segmentation.image_loader import ImageLoader
from inference_server.segmentation.types import StoredImage

pytestmark = pytest.mark.anyio

URL = "http://studio.test:8080/ls"
LEGACY = "0123456789abcdef0123456789abcdef01234567"


def jwt(**payload: float) -> str:
    """Return a token with a payload."""
    text = base64.urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJub25lIn0.{text}.c2ln"


@dataclass
class Studio:
    """Scripted Label Studio, in place of loader and fetcher.

    Attributes:
        access: access tokens that it gives, one after the other.
        valid: values of the header `Authorization` that it accepts; None accepts all.
        answer: body of the response to a refresh; default: the next access token.
    """

    access: list[str] = field(default_factory=list)
    valid: Sequence[str] | None = None
    answer: bytes | None = None
    refreshed: list[bytes] = field(default_factory=list)
    fetched: list[tuple[str, str | None]] = field(default_factory=list)

    @property
    def fetcher(self) -> Studio:
        return self

    async def post_json(self, url: str, body: bytes, trusted: TrustedHost) -> bytes:
        assert url == f"{URL}/api/token/refresh"
        assert trusted == TrustedHost(URL)
        self.refreshed.append(body)
        await asyncio.sleep(0)
        if self.answer is not None:
            return self.answer
        if not self.access:
            raise NotAuthorizedError("no")
        return json.dumps({"access": self.access.pop(0)}).encode()

    async def fetch(
        self, tenant: str, url: str, timings: Timings, trusted: TrustedHost | None = None
    ) -> StoredImage:
        sent = None if trusted is None else trusted.authorization
        self.fetched.append((url, sent))
        if trusted is not None and self.valid is not None and sent not in self.valid:
            raise NotAuthorizedError("no")
        return StoredImage(b"", "")


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


async def get(host: LabelStudioHost, studio: Studio, value: str = "/data/upload/1/a.png") -> None:
    loader: ImageLoader = studio  # type: ignore[assignment]
    await host.fetch(loader, "alice", host.locate(value, 3), Timings())


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/data/upload/1/a%20b.png", Location(f"{URL}/data/upload/1/a%20b.png", True)),
        ("/ls/data/upload/1/a.png", Location(f"{URL}/data/upload/1/a.png", True)),
        ("/data/local-files/?d=a/b.png", Location(f"{URL}/data/local-files/?d=a/b.png", True)),
        (f"{URL}/data/upload/1/a.png", Location(f"{URL}/data/upload/1/a.png", True)),
        (
            "s3://bucket/a b?c.png",
            Location(f"{URL}/tasks/3/presign/?fileuri=czM6Ly9idWNrZXQvYSBiP2MucG5n", True),
        ),
        (
            "gs://b/a.png",
            Location(f"{URL}/tasks/3/presign/?fileuri=Z3M6Ly9iL2EucG5n", True),
        ),
        (
            "azure-blob://b/aa.png",
            Location(f"{URL}/tasks/3/presign/?fileuri=YXp1cmUtYmxvYjovL2IvYWEucG5n", True),
        ),
        # Everything else is fetched like any image, without the token.
        ("https://example.com/a.png", Location("https://example.com/a.png", False)),
        (f"{URL}/api/projects", Location(f"{URL}/api/projects", False)),
        (f"{URL}/data/../api/x", Location(f"{URL}/data/../api/x", False)),
        (f"{URL}/data/%2e%2e/api/x", Location(f"{URL}/data/%2e%2e/api/x", False)),
        ("http://studio.test/ls/data/a", Location("http://studio.test/ls/data/a", False)),
        # Other paths of the same host may be other programs.
        *(
            (f"http://studio.test:8080{path}", Location(f"http://studio.test:8080{path}", False))
            for path in (
                "/data/a.png",
                "/other/data/a.png",
                "/lsdata/a.png",
                "/ls/../data/a.png",
                "/ls/data/%252e%252e/%252e%252e/data/a.png",
                "/ls/data/..%5c../a.png",
                "/ls/data/..;/a.png",
            )
        ),
        (
            "http://studio.test:8080@evil.test/ls/data/a",
            Location("http://studio.test:8080@evil.test/ls/data/a", False),
        ),
    ],
)
def test_where_an_image_is(value: str, expected: Location) -> None:
    assert LabelStudioHost(URL, LEGACY).locate(value, 3) == expected


@pytest.mark.parametrize(
    "value",
    [
        "/api/projects",
        "/data/../api/projects",
        "/data/%2e%2e/api/projects",
        "/../data/a.png",
        "/ls/../data/a.png",
        "/data",
        "//evil.test/data/a.png",
        "a.png",
        "ftp://example.com/a.png",
        "file:///etc/passwd",
        "http://a:port/",
        "//xn--a/data/a.png",
        pytest.param(f"/data/{'a' * 65_530}", id="too long below Label Studio's URL"),
    ],
)
def test_values_that_are_no_image(value: str) -> None:
    with pytest.raises(ImageError):
        LabelStudioHost(URL, LEGACY).locate(value, 3)


@pytest.mark.parametrize("value", ["/data/upload/1/a.png", "s3://bucket/a.png"])
def test_without_a_url(value: str) -> None:
    with pytest.raises(ImageError, match="INFERENCE_LABEL_STUDIO_URL"):
        LabelStudioHost("", LEGACY).locate(value, 3)
    with pytest.raises(ImageError, match="no id"):
        LabelStudioHost(URL, LEGACY).locate("s3://bucket/a.png", None)


async def test_a_legacy_token_is_sent_as_it_is() -> None:
    studio = Studio()
    await get(LabelStudioHost(URL, LEGACY), studio)
    assert studio.fetched == [(f"{URL}/data/upload/1/a.png", f"Token {LEGACY}")]
    assert not studio.refreshed


async def test_no_token_for_other_hosts() -> None:
    studio = Studio()
    await get(LabelStudioHost(URL, jwt()), studio, "https://example.com/a.png")
    assert studio.fetched == [("https://example.com/a.png", None)]
    assert not studio.refreshed


async def test_without_a_token() -> None:
    studio = Studio()
    await get(LabelStudioHost(URL, ""), studio)
    assert studio.fetched == [(f"{URL}/data/upload/1/a.png", "")]
    with pytest.raises(ImageError, match="requires a token"):
        await get(LabelStudioHost(URL, ""), Studio(valid=()))


class TestPersonal:
    async def test_one_access_token_serves_many_images(self) -> None:
        studio, clock = Studio([jwt(iat=0, exp=300)]), Clock()
        host = LabelStudioHost(URL, jwt(), clock)
        await asyncio.gather(*(get(host, studio) for _ in range(5)))
        assert studio.refreshed == [json.dumps({"refresh": jwt()}, separators=(",", ":")).encode()]
        assert {sent for _, sent in studio.fetched} == {f"Bearer {jwt(iat=0, exp=300)}"}

    @pytest.mark.parametrize(("payload", "valid"), [({"iat": 0, "exp": 100}, 79), ({}, 239)])
    async def test_it_is_renewed_before_it_expires(
        self, payload: dict[str, float], valid: float
    ) -> None:
        studio, clock = Studio([jwt(**payload), "second"]), Clock()
        host = LabelStudioHost(URL, jwt(), clock)
        await get(host, studio)
        clock.now += valid
        await get(host, studio)
        assert len(studio.refreshed) == 1
        clock.now += 2
        await get(host, studio)
        assert [sent for _, sent in studio.fetched][-1] == "Bearer second"

    async def test_it_is_renewed_once_if_it_is_refused(self) -> None:
        studio = Studio(["first", "second"], ["Bearer second"])
        host = LabelStudioHost(URL, jwt())
        await get(host, studio)
        assert [sent for _, sent in studio.fetched] == ["Bearer first", "Bearer second"]
        await get(host, studio)
        assert len(studio.refreshed) == 2
        with pytest.raises(ImageError, match="refuses the token"):
            await get(LabelStudioHost(URL, jwt()), Studio(["a", "b", "c"], ()))

    async def test_a_token_that_is_refused(self) -> None:
        for host in (LabelStudioHost(URL, jwt()), LabelStudioHost(URL, LEGACY)):
            with pytest.raises(ImageError, match="INFERENCE_LABEL_STUDIO_API_KEY") as caught:
                await get(host, Studio(valid=()))
            assert LEGACY not in caught.value.message

    @pytest.mark.parametrize(
        "answer",
        [
            b"<html>",
            b"[]",
            b"{}",
            b'{"access": 1}',
            b'{"access": "a\\nb"}',
            b'{"access": "\xc3\xa4"}',
        ],
    )
    async def test_an_answer_that_is_no_token(self, answer: bytes) -> None:
        with pytest.raises(ImageError, match="did not answer the refresh"):
            await get(LabelStudioHost(URL, jwt()), Studio(answer=answer))
