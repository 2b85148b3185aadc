from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx

from ... import errors
from ...client import AuthenticatedClient, Client
from ...models.job_deleted import JobDeleted
from ...models.segmind_failure import SegmindFailure
from ...types import Response


def _get_kwargs(
    request_id: str,
) -> dict[str, Any]:

    _kwargs: dict[str, Any] = {
        "method": "delete",
        "url": "/v2/requests/{request_id}".format(
            request_id=quote(str(request_id), safe=""),
        ),
    }

    return _kwargs


def _parse_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> JobDeleted | SegmindFailure | None:
    if response.status_code == 200:
        response_200 = JobDeleted.from_dict(response.json())

        return response_200

    if response.status_code == 401:
        response_401 = SegmindFailure.from_dict(response.json())

        return response_401

    if response.status_code == 403:
        response_403 = SegmindFailure.from_dict(response.json())

        return response_403

    if response.status_code == 404:
        response_404 = SegmindFailure.from_dict(response.json())

        return response_404

    if response.status_code == 500:
        response_500 = SegmindFailure.from_dict(response.json())

        return response_500

    if response.status_code == 502:
        response_502 = SegmindFailure.from_dict(response.json())

        return response_502

    if client.raise_on_unexpected_status:
        raise errors.UnexpectedStatus(response.status_code, response.content)
    else:
        return None


def _build_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> Response[JobDeleted | SegmindFailure]:
    return Response(
        status_code=HTTPStatus(response.status_code),
        content=response.content,
        headers=response.headers,
        parsed=_parse_response(client=client, response=response),
    )


def sync_detailed(
    request_id: str,
    *,
    client: AuthenticatedClient,
) -> Response[JobDeleted | SegmindFailure]:
    """Cancel a job, or delete its result

     A waiting or running job is stopped: its worker drops it at once, or within a second if another
    server runs it. A result is deleted, and its links become invalid. Credits are refunded if no worker
    has begun the job.

    Args:
        request_id (str):

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[JobDeleted | SegmindFailure]
    """

    kwargs = _get_kwargs(
        request_id=request_id,
    )

    response = client.get_httpx_client().request(
        **kwargs,
    )

    return _build_response(client=client, response=response)


def sync(
    request_id: str,
    *,
    client: AuthenticatedClient,
) -> JobDeleted | SegmindFailure | None:
    """Cancel a job, or delete its result

     A waiting or running job is stopped: its worker drops it at once, or within a second if another
    server runs it. A result is deleted, and its links become invalid. Credits are refunded if no worker
    has begun the job.

    Args:
        request_id (str):

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        JobDeleted | SegmindFailure
    """

    return sync_detailed(
        request_id=request_id,
        client=client,
    ).parsed


async def asyncio_detailed(
    request_id: str,
    *,
    client: AuthenticatedClient,
) -> Response[JobDeleted | SegmindFailure]:
    """Cancel a job, or delete its result

     A waiting or running job is stopped: its worker drops it at once, or within a second if another
    server runs it. A result is deleted, and its links become invalid. Credits are refunded if no worker
    has begun the job.

    Args:
        request_id (str):

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[JobDeleted | SegmindFailure]
    """

    kwargs = _get_kwargs(
        request_id=request_id,
    )

    response = await client.get_async_httpx_client().request(**kwargs)

    return _build_response(client=client, response=response)


async def asyncio(
    request_id: str,
    *,
    client: AuthenticatedClient,
) -> JobDeleted | SegmindFailure | None:
    """Cancel a job, or delete its result

     A waiting or running job is stopped: its worker drops it at once, or within a second if another
    server runs it. A result is deleted, and its links become invalid. Credits are refunded if no worker
    has begun the job.

    Args:
        request_id (str):

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        JobDeleted | SegmindFailure
    """

    return (
        await asyncio_detailed(
            request_id=request_id,
            client=client,
        )
    ).parsed
