from http import HTTPStatus
from typing import Any

import httpx

from ... import errors
from ...client import AuthenticatedClient, Client
from ...models.job_submitted import JobSubmitted
from ...models.sam_3_image_request import Sam3ImageRequest
from ...models.segmind_failure import SegmindFailure
from ...types import UNSET, Response, Unset


def _get_kwargs(
    *,
    body: Sam3ImageRequest,
    idempotency_key: str | Unset = UNSET,
) -> dict[str, Any]:
    headers: dict[str, Any] = {}
    if not isinstance(idempotency_key, Unset):
        headers["Idempotency-Key"] = idempotency_key

    _kwargs: dict[str, Any] = {
        "method": "post",
        "url": "/v2/sam3-image",
    }

    _kwargs["json"] = body.to_dict()

    headers["Content-Type"] = "application/json"

    _kwargs["headers"] = headers
    return _kwargs


def _parse_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> JobSubmitted | SegmindFailure | None:
    if response.status_code == 200:
        response_200 = JobSubmitted.from_dict(response.json())

        return response_200

    if response.status_code == 400:
        response_400 = SegmindFailure.from_dict(response.json())

        return response_400

    if response.status_code == 401:
        response_401 = SegmindFailure.from_dict(response.json())

        return response_401

    if response.status_code == 403:
        response_403 = SegmindFailure.from_dict(response.json())

        return response_403

    if response.status_code == 406:
        response_406 = SegmindFailure.from_dict(response.json())

        return response_406

    if response.status_code == 415:
        response_415 = SegmindFailure.from_dict(response.json())

        return response_415

    if response.status_code == 429:
        response_429 = SegmindFailure.from_dict(response.json())

        return response_429

    if response.status_code == 500:
        response_500 = SegmindFailure.from_dict(response.json())

        return response_500

    if response.status_code == 502:
        response_502 = SegmindFailure.from_dict(response.json())

        return response_502

    if response.status_code == 504:
        response_504 = SegmindFailure.from_dict(response.json())

        return response_504

    if client.raise_on_unexpected_status:
        raise errors.UnexpectedStatus(response.status_code, response.content)
    else:
        return None


def _build_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> Response[JobSubmitted | SegmindFailure]:
    return Response(
        status_code=HTTPStatus(response.status_code),
        content=response.content,
        headers=response.headers,
        parsed=_parse_response(client=client, response=response),
    )


def sync_detailed(
    *,
    client: AuthenticatedClient,
    body: Sam3ImageRequest,
    idempotency_key: str | Unset = UNSET,
) -> Response[JobSubmitted | SegmindFailure]:
    """Submit a job: sam3-image

     Accepts the body of `/v1/sam3-image` and responds immediately; poll for the result. Accepted jobs
    survive a restart of the server. A submission that is not answered, such as at its deadline, creates
    no job and costs nothing.

    Args:
        idempotency_key (str | Unset):
        body (Sam3ImageRequest): Segment by text, exemplar boxes or points; without a prompt,
            segment everything.

            Text and boxes find all instances of a concept; points select one object. With both, the
            response contains the masks of both, without duplicates.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[JobSubmitted | SegmindFailure]
    """

    kwargs = _get_kwargs(
        body=body,
        idempotency_key=idempotency_key,
    )

    response = client.get_httpx_client().request(
        **kwargs,
    )

    return _build_response(client=client, response=response)


def sync(
    *,
    client: AuthenticatedClient,
    body: Sam3ImageRequest,
    idempotency_key: str | Unset = UNSET,
) -> JobSubmitted | SegmindFailure | None:
    """Submit a job: sam3-image

     Accepts the body of `/v1/sam3-image` and responds immediately; poll for the result. Accepted jobs
    survive a restart of the server. A submission that is not answered, such as at its deadline, creates
    no job and costs nothing.

    Args:
        idempotency_key (str | Unset):
        body (Sam3ImageRequest): Segment by text, exemplar boxes or points; without a prompt,
            segment everything.

            Text and boxes find all instances of a concept; points select one object. With both, the
            response contains the masks of both, without duplicates.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        JobSubmitted | SegmindFailure
    """

    return sync_detailed(
        client=client,
        body=body,
        idempotency_key=idempotency_key,
    ).parsed


async def asyncio_detailed(
    *,
    client: AuthenticatedClient,
    body: Sam3ImageRequest,
    idempotency_key: str | Unset = UNSET,
) -> Response[JobSubmitted | SegmindFailure]:
    """Submit a job: sam3-image

     Accepts the body of `/v1/sam3-image` and responds immediately; poll for the result. Accepted jobs
    survive a restart of the server. A submission that is not answered, such as at its deadline, creates
    no job and costs nothing.

    Args:
        idempotency_key (str | Unset):
        body (Sam3ImageRequest): Segment by text, exemplar boxes or points; without a prompt,
            segment everything.

            Text and boxes find all instances of a concept; points select one object. With both, the
            response contains the masks of both, without duplicates.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[JobSubmitted | SegmindFailure]
    """

    kwargs = _get_kwargs(
        body=body,
        idempotency_key=idempotency_key,
    )

    response = await client.get_async_httpx_client().request(**kwargs)

    return _build_response(client=client, response=response)


async def asyncio(
    *,
    client: AuthenticatedClient,
    body: Sam3ImageRequest,
    idempotency_key: str | Unset = UNSET,
) -> JobSubmitted | SegmindFailure | None:
    """Submit a job: sam3-image

     Accepts the body of `/v1/sam3-image` and responds immediately; poll for the result. Accepted jobs
    survive a restart of the server. A submission that is not answered, such as at its deadline, creates
    no job and costs nothing.

    Args:
        idempotency_key (str | Unset):
        body (Sam3ImageRequest): Segment by text, exemplar boxes or points; without a prompt,
            segment everything.

            Text and boxes find all instances of a concept; points select one object. With both, the
            response contains the masks of both, without duplicates.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        JobSubmitted | SegmindFailure
    """

    return (
        await asyncio_detailed(
            client=client,
            body=body,
            idempotency_key=idempotency_key,
        )
    ).parsed
