from http import HTTPStatus
from typing import Any

import httpx

from ... import errors
from ...client import AuthenticatedClient, Client
from ...models.error_message import ErrorMessage
from ...models.job_submitted import JobSubmitted
from ...models.validation_error_response import ValidationErrorResponse
from ...models.visual_job_request import VisualJobRequest
from ...types import UNSET, Response, Unset


def _get_kwargs(
    *,
    body: VisualJobRequest,
    idempotency_key: str | Unset = UNSET,
) -> dict[str, Any]:
    headers: dict[str, Any] = {}
    if not isinstance(idempotency_key, Unset):
        headers["Idempotency-Key"] = idempotency_key

    _kwargs: dict[str, Any] = {
        "method": "post",
        "url": "/v2/sam3/visual_segment",
    }

    _kwargs["json"] = body.to_dict()

    headers["Content-Type"] = "application/json"

    _kwargs["headers"] = headers
    return _kwargs


def _parse_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> ErrorMessage | JobSubmitted | ValidationErrorResponse | None:
    if response.status_code == 200:
        response_200 = JobSubmitted.from_dict(response.json())

        return response_200

    if response.status_code == 400:
        response_400 = ErrorMessage.from_dict(response.json())

        return response_400

    if response.status_code == 401:
        response_401 = ErrorMessage.from_dict(response.json())

        return response_401

    if response.status_code == 402:
        response_402 = ErrorMessage.from_dict(response.json())

        return response_402

    if response.status_code == 403:
        response_403 = ErrorMessage.from_dict(response.json())

        return response_403

    if response.status_code == 404:
        response_404 = ErrorMessage.from_dict(response.json())

        return response_404

    if response.status_code == 408:
        response_408 = ErrorMessage.from_dict(response.json())

        return response_408

    if response.status_code == 413:
        response_413 = ErrorMessage.from_dict(response.json())

        return response_413

    if response.status_code == 415:
        response_415 = ErrorMessage.from_dict(response.json())

        return response_415

    if response.status_code == 422:
        response_422 = ValidationErrorResponse.from_dict(response.json())

        return response_422

    if response.status_code == 429:
        response_429 = ErrorMessage.from_dict(response.json())

        return response_429

    if response.status_code == 500:
        response_500 = ErrorMessage.from_dict(response.json())

        return response_500

    if response.status_code == 503:
        response_503 = ErrorMessage.from_dict(response.json())

        return response_503

    if response.status_code == 504:
        response_504 = ErrorMessage.from_dict(response.json())

        return response_504

    if client.raise_on_unexpected_status:
        raise errors.UnexpectedStatus(response.status_code, response.content)
    else:
        return None


def _build_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> Response[ErrorMessage | JobSubmitted | ValidationErrorResponse]:
    return Response(
        status_code=HTTPStatus(response.status_code),
        content=response.content,
        headers=response.headers,
        parsed=_parse_response(client=client, response=response),
    )


def sync_detailed(
    *,
    client: AuthenticatedClient,
    body: VisualJobRequest,
    idempotency_key: str | Unset = UNSET,
) -> Response[ErrorMessage | JobSubmitted | ValidationErrorResponse]:
    """Submit a job: sam3/visual_segment

     Accepts the body of `/sam3/visual_segment` and responds immediately; poll for the result. Accepted
    jobs survive a restart of the server. A submission that is not answered, such as at its deadline,
    creates no job and costs nothing.

    Args:
        idempotency_key (str | Unset):
        body (VisualJobRequest): Segment one object per prompt, as a job.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[ErrorMessage | JobSubmitted | ValidationErrorResponse]
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
    body: VisualJobRequest,
    idempotency_key: str | Unset = UNSET,
) -> ErrorMessage | JobSubmitted | ValidationErrorResponse | None:
    """Submit a job: sam3/visual_segment

     Accepts the body of `/sam3/visual_segment` and responds immediately; poll for the result. Accepted
    jobs survive a restart of the server. A submission that is not answered, such as at its deadline,
    creates no job and costs nothing.

    Args:
        idempotency_key (str | Unset):
        body (VisualJobRequest): Segment one object per prompt, as a job.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        ErrorMessage | JobSubmitted | ValidationErrorResponse
    """

    return sync_detailed(
        client=client,
        body=body,
        idempotency_key=idempotency_key,
    ).parsed


async def asyncio_detailed(
    *,
    client: AuthenticatedClient,
    body: VisualJobRequest,
    idempotency_key: str | Unset = UNSET,
) -> Response[ErrorMessage | JobSubmitted | ValidationErrorResponse]:
    """Submit a job: sam3/visual_segment

     Accepts the body of `/sam3/visual_segment` and responds immediately; poll for the result. Accepted
    jobs survive a restart of the server. A submission that is not answered, such as at its deadline,
    creates no job and costs nothing.

    Args:
        idempotency_key (str | Unset):
        body (VisualJobRequest): Segment one object per prompt, as a job.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[ErrorMessage | JobSubmitted | ValidationErrorResponse]
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
    body: VisualJobRequest,
    idempotency_key: str | Unset = UNSET,
) -> ErrorMessage | JobSubmitted | ValidationErrorResponse | None:
    """Submit a job: sam3/visual_segment

     Accepts the body of `/sam3/visual_segment` and responds immediately; poll for the result. Accepted
    jobs survive a restart of the server. A submission that is not answered, such as at its deadline,
    creates no job and costs nothing.

    Args:
        idempotency_key (str | Unset):
        body (VisualJobRequest): Segment one object per prompt, as a job.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        ErrorMessage | JobSubmitted | ValidationErrorResponse
    """

    return (
        await asyncio_detailed(
            client=client,
            body=body,
            idempotency_key=idempotency_key,
        )
    ).parsed
