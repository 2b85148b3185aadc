"""What every operation reads from a request: server context, API key, JSON body, credits."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from inference_server.api.content_encoding import decoder_of
from inference_server.api.deadline import Deadline
from inference_server.api.json_body import (
    JSON_ONLY,
    MaxValues,
    is_json_type,
    is_mislabelled,
    parse_object,
    unsupported_media_type,
)
from inference_server.api.lifecycle import ServerContext
from inference_server.api.middleware.access_log import GONE, record_of
from inference_server.api.middleware.body_budget import BodyBudget, BodyReservation
from inference_server.auth import Key, Receipt, Tenant, Work, key_from_request
from inference_server.errors import (
    AuthError,
    ImageTooLargeError,
    NothingFoundError,
    PromptError,
    ScopeError,
    StorageError,
)
from inference_server.observability.metrics import Timings
from inference_server.settings import MiB
from inference_server.settings.types import Scope
from schemas.common import Limits

T = TypeVar("T")
ModelT = TypeVar("ModelT", bound=BaseModel)

_SMALL = 64 * 1024
"""Bodies up to this many bytes are parsed on the event loop: a thread would cost more."""

KEY_WITHIN = 64 * 1024
"""Bytes of a body without a key before it, within which a key is looked for as it arrives."""

_KEY_FIELDS = 4
"""Fields that may hold the key: one, and a few with its name inside of other values."""

_KEY_FIELD = re.compile(rb'"api_key"\s{0,9}:\s{0,9}("(?:[^"\\]|\\.){1,512}")')


def state_of(request: Request) -> ServerContext:
    """Return the parts of the server that handles a request."""
    state: ServerContext = request.app.state.server
    return state


def allow_raster_time(request: Request) -> None:
    """Give a request the time for a raster that is read by windows, upload included."""
    deadline: Deadline = request.state.deadline
    deadline.extend(
        state_of(request).settings.raster_timeout,
        "INFERENCE_RASTER_TIMEOUT",
        "Submit the raster as a job, send a part of it or a larger `tile_size`",
    )


def timings_of(request: Request) -> Timings:
    """Return the durations of a request's stages."""
    return record_of(request).timings


def announced_bytes(request: Request) -> int:
    """Return the `Content-Length` in bytes; 0 if it is missing."""
    announced = request.headers.get("content-length", "")
    return int(announced) if announced.isdigit() else 0


def reserve_body(
    request: Request,
    budget: BodyBudget,
    megabytes: int,
    name: str,
    remedy: str,
    *,
    has_key: bool,
    tenant: str | None = None,
    timeout: float | None = None,
) -> AbstractAsyncContextManager[BodyReservation]:
    """Open a reservation for a request's body.

    Args:
        request: a request whose body was not read.
        budget: the budget to reserve from.
        megabytes: maximum size of the body in MiB.
        name: what the body is, for the error message.
        remedy: what to do if it is too large, for the error message.
        has_key: whether the request has shown a valid key.
        tenant: owner of that key, whose share the body is taken from. Default: no share.
        timeout: seconds within which the body must arrive. Default: those of the budget.

    Returns:
        A context manager of the reservation.

    Raises:
        ImageTooLargeError: If `Content-Length` is over the limit.
        EncodingError: If the body's `Content-Encoding` is not supported.
    """
    over = ImageTooLargeError(f"The {name} is larger than {megabytes} MiB. {remedy}")
    limit = megabytes * MiB
    if announced_bytes(request) > limit:
        raise over
    encoding = ",".join(request.headers.getlist("content-encoding"))
    decoder = decoder_of(encoding, state_of(request).settings.max_gzip_members)
    return budget.reserve_for(
        request.stream(),
        limit,
        over,
        has_key=has_key,
        tenant=tenant,
        decoder=decoder,
        timeout=timeout,
    )


async def _body(request: Request, *, has_key: bool) -> bytes:
    """Receive the body, and reserve its bytes until the request ends.

    What is parsed from it takes about as much memory.

    Args:
        request: the request.
        has_key: whether it has shown a valid key.
    """
    state = state_of(request)
    remedy = "Send a smaller image or its URL, or raise INFERENCE_MAX_BODY_MB."
    context = reserve_body(
        request,
        state.bodies,
        state.settings.max_body_mb,
        "request body",
        remedy,
        has_key=has_key,
    )
    held: AsyncExitStack = request.state.held
    reservation = await held.enter_async_context(context)
    chunks = []
    looked = has_key
    async for chunk in reservation.chunks():
        chunks.append(chunk)
        if not looked and reservation.nbytes >= KEY_WITHIN:
            looked = True
            if _shows_key(request, b"".join(chunks)[:KEY_WITHIN]):
                reservation.show_key()
            elif reservation.is_compressed:
                # Strangers cannot make the server decompress more than that.
                authenticate(request)
    return b"".join(chunks)


def _shows_key(request: Request, begin: bytes) -> bool:
    """Tell whether the beginning of a JSON body contains a valid key.

    This only decides about the budget for the body: the key counts when the body is parsed.

    Args:
        request: the request.
        begin: the first bytes of its body.
    """
    for found in islice(_KEY_FIELD.finditer(begin), _KEY_FIELDS):
        with suppress(ValueError, AuthError, ScopeError, StorageError):
            state_of(request).auth.authenticate(orjson.loads(found[1]), "segment")
            return True
    return False


@dataclass(slots=True)
class _Caller:
    """Who sent the request, and what it was charged.

    Attributes:
        key: the caller's API key.
        receipt: the charge of this request; None if there is none. Jobs are charged separately.
    """

    key: Key
    receipt: Receipt | None = None


def authenticate(
    request: Request,
    body: Mapping[str, Any] | None = None,
    *,
    scope: Scope | None = "segment",
) -> Key:
    """Authenticate a request and return its key.

    Args:
        request: a request with a key in its query or headers.
        body: a parsed JSON object or form that may hold the key instead. Default: None.
        scope: scope that the key needs; None allows any key. Default: `segment`.

    Raises:
        AuthError: If the key is missing, wrong, expired or revoked.
        ScopeError: If the key lacks the scope.
        StorageError: If the key cannot be checked now.
    """
    candidate = key_from_request(request.query_params, request.headers, body)
    key = state_of(request).auth.authenticate(candidate, scope)
    record_of(request).tenant = key.tenant.name
    return key


async def admit(request: Request, key: Key) -> Key:
    """Count a request once against the rate limit of its key.

    Raises:
        RateError: If the key exceeds its rate limit.
    """
    caller: _Caller | None = getattr(request.state, "caller", None)
    if caller is None or caller.key.id != key.id:
        request.state.caller = _Caller(key)
        await state_of(request).auth.admit(key)
    return key


async def charge(request: Request, work: Iterable[Work]) -> None:
    """Charge the credits of an admitted request.

    Raises:
        CreditsError: If the key has insufficient credits.
        StorageError: If credits cannot be counted now.
    """
    caller: _Caller = request.state.caller
    auth = state_of(request).auth
    if bill := auth.bill(caller.key, work):
        caller.receipt = await auth.ledger.take(caller.key, bill)


async def refund(request: Request, work: Iterable[Work]) -> None:
    """Refund a part of what a request was charged.

    Args:
        request: a request that `charge` has charged.
        work: what was not done of the work that it was charged for.
    """
    caller: _Caller = request.state.caller
    auth = state_of(request).auth
    bill = auth.bill(caller.key, work)
    receipt = caller.receipt
    if bill is None or receipt is None:
        return
    rest = replace(receipt.charge, credits=receipt.charge.credits - bill.credits)
    left = None if receipt.left is None else receipt.left + bill.credits
    caller.receipt = Receipt(rest, left)
    await auth.ledger.refund(Receipt(bill, receipt.left))


async def settle(request: Request, response: Response, reason: str) -> None:
    """Refund the credits of a failed request, and record the key's usage.

    There is no refund if the client disconnected, because the work was done, nor if nothing was
    found, because that is a result.

    Args:
        request: the request.
        response: its response, to which `x-credits-remaining` is added.
        reason: reason of the error; empty if there was none.
    """
    caller: _Caller | None = getattr(request.state, "caller", None)
    auth = state_of(request).auth
    if caller is None or auth.is_open:
        return
    receipt = caller.receipt
    failed = response.status_code >= 400 and reason != NothingFoundError.reason
    used = 0
    if receipt is not None and failed and response.status_code != GONE:
        await auth.ledger.refund(receipt)
    elif receipt is not None and receipt.left is None:
        used = receipt.charge.credits
    elif receipt is not None:
        response.headers["x-credits-remaining"] = str(receipt.left)
    auth.ledger.count(caller.key, failed=failed, cost=used)


async def read(
    request: Request,
    model: type[ModelT],
    work: Callable[[ModelT], Iterable[Work]],
    *,
    types: str = JSON_ONLY,
) -> tuple[Tenant, ModelT]:
    """Authenticate a request, parse and validate its JSON body, and charge its credits.

    A key in the query or a header is checked before the body is read.

    Args:
        request: a request with a JSON body.
        model: schema of the body.
        work: returns the kinds of work that a body asks for.
        types: what to send in place of a body of another type, for the error message. Default:
            JSON.

    Returns:
        (tenant of the key, validated body).

    Raises:
        AuthError: If the key is missing, wrong, expired or revoked.
        ScopeError: If the key lacks the scope.
        RateError: If the key exceeds its rate limit.
        CreditsError: If the key has insufficient credits.
        ImageTooLargeError: If the body is over the limit.
        CapacityError: If other bodies use up the budget.
        SlowBodyError: If the body does not arrive in time.
        EncodingError: If the body's `Content-Encoding` is not supported.
        MediaTypeError: If the body's `Content-Type` is not that of JSON.
        ValidationError: If the body does not match the schema.
        PromptError: If the body is not a JSON object, or has too many values or levels.
        StorageError: If the key cannot be checked or charged now.
    """
    limits = state_of(request).limits
    key, body = await read_with(
        request, lambda data: model.model_validate(data, context=limits), types=types
    )
    await charge(request, work(body))
    return key.tenant, body


async def read_with(
    request: Request,
    use: Callable[[dict[str, Any]], T],
    *,
    scope: Scope | None = "segment",
    optional: bool = False,
    types: str = JSON_ONLY,
    max_values: MaxValues | None = None,
) -> tuple[Key, T]:
    """Like `read`, but with a custom conversion of the JSON object, and without a charge.

    Args:
        request: a request with a JSON body.
        use: converts the JSON object; called in a worker thread if the body is large.
        scope: scope that the key needs; None allows any key. Only requests that need `segment`
            count against the key's rate limit. Default: `segment`.
        optional: whether no body means an empty JSON object. Default: False.
        types: what to send in place of a body of another type, for the error message. Default:
            JSON.
        max_values: limit on the number of values in the body. Default: `max_json_values`.

    Returns:
        (key, result of `use`).
    """
    has_key = key_from_request(request.query_params, request.headers, None) is not None
    is_work = scope == "segment"
    if has_key:
        key = authenticate(request, scope=scope)
        if is_work:
            await admit(request, key)
    if not is_json_type(request):
        authenticate(request, scope=scope)
        raise unsupported_media_type(request, types)
    raw = await _body(request, has_key=has_key or state_of(request).auth.is_open)
    settings = state_of(request).settings
    run = asyncio.to_thread if len(raw) > _SMALL else _now

    def parse() -> tuple[Key, dict[str, Any]]:
        try:
            data = parse_object(raw or (b"{}" if optional else raw), settings, max_values)
        except PromptError:
            authenticate(request, scope=scope)
            if is_mislabelled(request, raw):
                raise unsupported_media_type(request, types) from None
            raise
        return authenticate(request, data, scope=scope), data

    key, data = await run(parse)
    if is_work:
        await admit(request, key)
    return key, await run(lambda: use(data))


async def _now(work: Callable[[], T]) -> T:
    return work()


def limits_of(settings: Any) -> Limits:
    """Return the limits of requests that the schemas are validated against."""
    names = Limits.__dataclass_fields__
    return Limits(**{name: getattr(settings, name) for name in names})
