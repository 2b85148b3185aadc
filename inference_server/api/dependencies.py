"""What every contract's routes read of a request: its server, its key, its JSON body."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from inference_server.api.lifecycle import ServerContext
from inference_server.api.middleware.access_log import GONE, seen
from inference_server.api.middleware.body_budget import BodyBudget, Share
from inference_server.auth import Key, Receipt, Tenant, Work, key_from_request
from inference_server.errors import ImageTooLargeError, NothingFoundError, PromptError
from inference_server.observability.metrics import Timings
from inference_server.setting_types import Scope
from inference_server.settings import MiB, Settings
from schemas.common import Limits

T = TypeVar("T")
ModelT = TypeVar("ModelT", bound=BaseModel)

_SMALL = 64 * 1024
"""Bodies up to this many bytes are parsed on the event loop: a thread costs more."""


def state_of(request: Request) -> ServerContext:
    """The parts of the server that a request is answered with."""
    state: ServerContext = request.app.state.server
    return state


def timings_of(request: Request) -> Timings:
    """Durations of this request's steps."""
    return seen(request).timings


def _announced_bytes(request: Request) -> int:
    """Bytes that the body is said to have; 0 where nothing is said."""
    announced = request.headers.get("content-length", "")
    return int(announced) if announced.isdigit() else 0


def room_for(
    request: Request, space: BodyBudget, megabytes: int, name: str, remedy: str
) -> AbstractAsyncContextManager[Share]:
    """Room for a request's body, which is refused as soon as it is known to be over a limit.

    Args:
        request: whose body was not read.
        space: for all such bodies.
        megabytes: most of one of them.
        name: what the body is, for the error.
        remedy: what to do about one that is larger, for the error.

    Returns:
        The body's share of the room, held until the context ends.

    Raises:
        ImageTooLargeError: the body is said to be over the limit.
    """
    over = ImageTooLargeError(f"The {name} is larger than {megabytes} MiB. {remedy}")
    limit = megabytes * MiB
    if _announced_bytes(request) > limit:
        raise over
    return space.share(request.stream(), limit, over)


async def _body(request: Request) -> bytes:
    """The body, which counts as memory in use for as long as the request does.

    What is made of it is as large.
    """
    state = state_of(request)
    remedy = "Send a smaller image, or a URL, or raise INFERENCE_MAX_BODY_MB."
    room = room_for(request, state.bodies, state.settings.max_body_mb, "request body", remedy)
    held: AsyncExitStack = request.state.held
    share = await held.enter_async_context(room)
    return b"".join([chunk async for chunk in share.chunks()])


def _check_structure(raw: bytes, settings: Settings) -> None:
    """Refuses JSON that would become countless objects: 60 MiB of `[],` take gigabytes.

    Base64 has no such characters, and a few commas within texts do not matter.
    """
    most = settings.max_json_values
    count = raw.count(b",") + raw.count(b"[") + raw.count(b"{")
    if count > most:
        raise PromptError(
            f"The body has more than {most:,} JSON values. Send fewer prompts, points or boxes at "
            "a time, or raise INFERENCE_MAX_JSON_VALUES on the server."
        )


def _check_depth(data: Mapping[str, Any], settings: Settings) -> None:
    most = settings.max_json_depth
    level: list[Any] = [data]
    for _ in range(most):
        level = [
            item
            for node in level
            for item in (node.values() if isinstance(node, dict) else node)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise PromptError(
        f"The body is nested more than {most} levels deep, and no field of a request is. Send it "
        "flatter, or raise INFERENCE_MAX_JSON_DEPTH on the server."
    )


@dataclass(slots=True)
class _Caller:
    """Who asks for work.

    Attributes:
        key: of whom.
        receipt: what was paid for it here; a job is paid for where it is kept.
    """

    key: Key
    receipt: Receipt | None = None


def authenticate(
    request: Request,
    body: Mapping[str, Any] | None = None,
    *,
    scope: Scope | None = "segment",
) -> Key:
    """Who is asking, and may ask for this.

    Args:
        request: with the key in its query or headers.
        body: where the key may be too.
        scope: what the key must be good for; None if any key will do.

    Raises:
        AuthError: the key is missing or wrong, has expired or was revoked.
        ScopeError: it is not for this.
        StorageError: it cannot be checked now.
    """
    candidate = key_from_request(request.query_params, request.headers, body)
    key = state_of(request).gate.authenticate(candidate, scope)
    seen(request).tenant = key.tenant.name
    return key


async def admit(request: Request, key: Key) -> Key:
    """Count a request for work, once, against the rate of its key.

    Raises:
        RateError: the key asks more often than it may.
    """
    customer: _Caller | None = getattr(request.state, "customer", None)
    if customer is None or customer.key.id != key.id:
        request.state.customer = _Caller(key)
        await state_of(request).gate.admit(key)
    return key


async def charge(request: Request, work: Iterable[Work]) -> None:
    """Take the credits for work that a request was admitted for.

    Raises:
        CreditsError: the key has not enough.
        StorageError: credits cannot be counted now.
    """
    customer: _Caller = request.state.customer
    gate = state_of(request).gate
    if bill := gate.bill(customer.key, work):
        customer.receipt = await gate.ledger.take(customer.key, bill)


async def settle(request: Request, response: Response, reason: str) -> None:
    """Give credits back where there is no answer for them, and count what the key has used.

    A client that hung up has paid, or its work would be for free; so has one whose request was
    answered with the word that nothing was found.

    Args:
        request: that was answered.
        response: the answer, which is told how many credits are left.
        reason: why it is an error, if it is one.
    """
    customer: _Caller | None = getattr(request.state, "customer", None)
    gate = state_of(request).gate
    if customer is None or gate.is_open:
        return
    receipt = customer.receipt
    failed = response.status_code >= 400 and reason != NothingFoundError.reason
    used = 0
    if receipt is not None and failed and response.status_code != GONE:
        await gate.ledger.refund(receipt)
    elif receipt is not None and receipt.left is None:
        used = receipt.charge.credits
    elif receipt is not None:
        response.headers["x-credits-remaining"] = str(receipt.left)
    gate.ledger.count(customer.key, failed=failed, cost=used)


async def read(
    request: Request, model: type[ModelT], work: Callable[[ModelT], Iterable[Work]]
) -> tuple[Tenant, ModelT]:
    """Authenticate a request for work, parse its JSON body, and take its credits.

    A key in the query or a header is judged before the body is read.

    Args:
        request: with a JSON body.
        model: type of the body.
        work: what a body asks for.

    Returns:
        (who asks, the body).

    Raises:
        AuthError: the key is missing or wrong, has expired or was revoked.
        ScopeError: it is not for this.
        RateError: it asks too often.
        CreditsError: it has not enough credits.
        ImageTooLargeError: the body is over the limit.
        CapacityError: other bodies take all the room.
        SlowBodyError: the body takes too long to arrive.
        ValidationError: the body is not of the type.
        PromptError: the body is no JSON object, or has too many values or levels.
        StorageError: the key cannot be checked, or its credits not be counted, now.
    """
    limits = state_of(request).limits
    key, body = await read_with(request, lambda data: model.model_validate(data, context=limits))
    await charge(request, work(body))
    return key.tenant, body


async def read_with(request: Request, use: Callable[[dict[str, Any]], T]) -> tuple[Key, T]:
    """As `read`, for those who make something else of the JSON object, and take no credits.

    Args:
        request: with a JSON body.
        use: what to make of it; runs in a worker thread if it is large.

    Returns:
        (who asks, what was made).
    """
    if key_from_request(request.query_params, request.headers, None) is not None:
        await admit(request, authenticate(request))
    raw = await _body(request)
    settings = state_of(request).settings
    run = asyncio.to_thread if len(raw) > _SMALL else _now

    def parse() -> tuple[Key, dict[str, Any]]:
        try:
            _check_structure(raw, settings)
            data = orjson.loads(raw)
            if not isinstance(data, dict):
                raise PromptError("The body must be a JSON object.")
            _check_depth(data, settings)
        except (orjson.JSONDecodeError, PromptError) as error:
            authenticate(request)
            if isinstance(error, PromptError):
                raise
            raise PromptError(f"The body is not valid JSON: {error}.") from None
        return authenticate(request, data), data

    key, data = await run(parse)
    await admit(request, key)
    return key, await run(lambda: use(data))


async def _now(work: Callable[[], T]) -> T:
    return work()


def limits_of(settings: Any) -> Limits:
    """The bounds of requests, as the schemas take them."""
    names = Limits.__dataclass_fields__
    return Limits(**{name: getattr(settings, name) for name in names})
