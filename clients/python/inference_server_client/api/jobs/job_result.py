from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx

from ... import errors
from ...client import AuthenticatedClient, Client
from ...models.job_failed import JobFailed
from ...models.job_result import JobResult
from ...models.segmind_failure import SegmindFailure
from ...types import Response


def _get_kwargs(
    request_id: str,
) -> dict[str, Any]:

    _kwargs: dict[str, Any] = {
        "method": "get",
        "url": "/v2/requests/{request_id}".format(
            request_id=quote(str(request_id), safe=""),
        ),
    }

    return _kwargs


def _parse_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> JobFailed | JobResult | SegmindFailure | None:
    if response.status_code == 200:
        response_200 = JobResult.from_dict(response.json())

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

    if response.status_code == 422:
        response_422 = JobFailed.from_dict(response.json())

        return response_422

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
) -> Response[JobFailed | JobResult | SegmindFailure]:
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
) -> Response[JobFailed | JobResult | SegmindFailure]:
    """Get a job's result

     `output` is null until the job is completed; then the headers are those of the synchronous response,
    such as `x-image-mismatch`. By default, results expire after one hour.

    Args:
        request_id (str):

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[JobFailed | JobResult | SegmindFailure]
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
) -> JobFailed | JobResult | SegmindFailure | None:
    """Get a job's result

     `output` is null until the job is completed; then the headers are those of the synchronous response,
    such as `x-image-mismatch`. By default, results expire after one hour.

    Args:
        request_id (str):

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        JobFailed | JobResult | SegmindFailure
    """

    return sync_detailed(
        request_id=request_id,
        client=client,
    ).parsed


async def asyncio_detailed(
    request_id: str,
    *,
    client: AuthenticatedClient,
) -> Response[JobFailed | JobResult | SegmindFailure]:
    """Get a job's result

     `output` is null until the job is completed; then the headers are those of the synchronous response,
    such as `x-image-mismatch`. By default, results expire after one hour.

    Args:
        request_id (str):

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[JobFailed | JobResult | SegmindFailure]
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
) -> JobFailed | JobResult | SegmindFailure | None:
    """Get a job's result

     `output` is null until the job is completed; then the headers are those of the synchronous response,
    such as `x-image-mismatch`. By default, results expire after one hour.

    Args:
        request_id (str):

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        JobFailed | JobResult | SegmindFailure
    """

    return (
        await asyncio_detailed(
            request_id=request_id,
            client=client,
        )
    ).parsed
