from http import HTTPStatus
from typing import Any

import httpx

from ... import errors
from ...client import AuthenticatedClient, Client
from ...models.x_any_labeling_error import XAnyLabelingError
from ...models.x_any_labeling_request import XAnyLabelingRequest
from ...models.x_any_labeling_response import XAnyLabelingResponse
from ...types import Response


def _get_kwargs(
    *,
    body: XAnyLabelingRequest,
) -> dict[str, Any]:
    headers: dict[str, Any] = {}

    _kwargs: dict[str, Any] = {
        "method": "post",
        "url": "/x-anylabeling/v1/predict",
    }

    _kwargs["json"] = body.to_dict()

    headers["Content-Type"] = "application/json"

    _kwargs["headers"] = headers
    return _kwargs


def _parse_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> XAnyLabelingError | XAnyLabelingResponse | None:
    if response.status_code == 200:
        response_200 = XAnyLabelingResponse.from_dict(response.json())

        return response_200

    if response.status_code == 400:
        response_400 = XAnyLabelingError.from_dict(response.json())

        return response_400

    if response.status_code == 401:
        response_401 = XAnyLabelingError.from_dict(response.json())

        return response_401

    if response.status_code == 402:
        response_402 = XAnyLabelingError.from_dict(response.json())

        return response_402

    if response.status_code == 403:
        response_403 = XAnyLabelingError.from_dict(response.json())

        return response_403

    if response.status_code == 404:
        response_404 = XAnyLabelingError.from_dict(response.json())

        return response_404

    if response.status_code == 408:
        response_408 = XAnyLabelingError.from_dict(response.json())

        return response_408

    if response.status_code == 413:
        response_413 = XAnyLabelingError.from_dict(response.json())

        return response_413

    if response.status_code == 415:
        response_415 = XAnyLabelingError.from_dict(response.json())

        return response_415

    if response.status_code == 422:
        response_422 = XAnyLabelingError.from_dict(response.json())

        return response_422

    if response.status_code == 429:
        response_429 = XAnyLabelingError.from_dict(response.json())

        return response_429

    if response.status_code == 500:
        response_500 = XAnyLabelingError.from_dict(response.json())

        return response_500

    if response.status_code == 503:
        response_503 = XAnyLabelingError.from_dict(response.json())

        return response_503

    if response.status_code == 504:
        response_504 = XAnyLabelingError.from_dict(response.json())

        return response_504

    if client.raise_on_unexpected_status:
        raise errors.UnexpectedStatus(response.status_code, response.content)
    else:
        return None


def _build_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> Response[XAnyLabelingError | XAnyLabelingResponse]:
    return Response(
        status_code=HTTPStatus(response.status_code),
        content=response.content,
        headers=response.headers,
        parsed=_parse_response(client=client, response=response),
    )


def sync_detailed(
    *,
    client: AuthenticatedClient,
    body: XAnyLabelingRequest,
) -> Response[XAnyLabelingError | XAnyLabelingResponse]:
    """Find shapes for X-AnyLabeling

     `segment_anything_3` finds every instance of words or of exemplars (SAM 3). `segment_anything_2`
    segments the object at points or in each rectangle (SAM 3's visual head, or SAM 2).

    Args:
        body (XAnyLabelingRequest): An image, the id of a model, and prompts.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[XAnyLabelingError | XAnyLabelingResponse]
    """

    kwargs = _get_kwargs(
        body=body,
    )

    response = client.get_httpx_client().request(
        **kwargs,
    )

    return _build_response(client=client, response=response)


def sync(
    *,
    client: AuthenticatedClient,
    body: XAnyLabelingRequest,
) -> XAnyLabelingError | XAnyLabelingResponse | None:
    """Find shapes for X-AnyLabeling

     `segment_anything_3` finds every instance of words or of exemplars (SAM 3). `segment_anything_2`
    segments the object at points or in each rectangle (SAM 3's visual head, or SAM 2).

    Args:
        body (XAnyLabelingRequest): An image, the id of a model, and prompts.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        XAnyLabelingError | XAnyLabelingResponse
    """

    return sync_detailed(
        client=client,
        body=body,
    ).parsed


async def asyncio_detailed(
    *,
    client: AuthenticatedClient,
    body: XAnyLabelingRequest,
) -> Response[XAnyLabelingError | XAnyLabelingResponse]:
    """Find shapes for X-AnyLabeling

     `segment_anything_3` finds every instance of words or of exemplars (SAM 3). `segment_anything_2`
    segments the object at points or in each rectangle (SAM 3's visual head, or SAM 2).

    Args:
        body (XAnyLabelingRequest): An image, the id of a model, and prompts.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[XAnyLabelingError | XAnyLabelingResponse]
    """

    kwargs = _get_kwargs(
        body=body,
    )

    response = await client.get_async_httpx_client().request(**kwargs)

    return _build_response(client=client, response=response)


async def asyncio(
    *,
    client: AuthenticatedClient,
    body: XAnyLabelingRequest,
) -> XAnyLabelingError | XAnyLabelingResponse | None:
    """Find shapes for X-AnyLabeling

     `segment_anything_3` finds every instance of words or of exemplars (SAM 3). `segment_anything_2`
    segments the object at points or in each rectangle (SAM 3's visual head, or SAM 2).

    Args:
        body (XAnyLabelingRequest): An image, the id of a model, and prompts.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        XAnyLabelingError | XAnyLabelingResponse
    """

    return (
        await asyncio_detailed(
            client=client,
            body=body,
        )
    ).parsed
