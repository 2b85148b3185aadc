from http import HTTPStatus
from typing import Any

import httpx

from ... import errors
from ...client import AuthenticatedClient, Client
from ...models.space_error import SpaceError
from ...models.space_request import SpaceRequest
from ...models.space_response import SpaceResponse
from ...types import Response


def _get_kwargs(
    *,
    body: SpaceRequest,
) -> dict[str, Any]:
    headers: dict[str, Any] = {}

    _kwargs: dict[str, Any] = {
        "method": "post",
        "url": "/api/sam2_compatible",
    }

    _kwargs["json"] = body.to_dict()

    headers["Content-Type"] = "application/json"

    _kwargs["headers"] = headers
    return _kwargs


def _parse_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> SpaceError | SpaceResponse | None:
    if response.status_code == 200:
        response_200 = SpaceResponse.from_dict(response.json())

        return response_200

    if response.status_code == 400:
        response_400 = SpaceError.from_dict(response.json())

        return response_400

    if response.status_code == 401:
        response_401 = SpaceError.from_dict(response.json())

        return response_401

    if response.status_code == 402:
        response_402 = SpaceError.from_dict(response.json())

        return response_402

    if response.status_code == 403:
        response_403 = SpaceError.from_dict(response.json())

        return response_403

    if response.status_code == 408:
        response_408 = SpaceError.from_dict(response.json())

        return response_408

    if response.status_code == 413:
        response_413 = SpaceError.from_dict(response.json())

        return response_413

    if response.status_code == 415:
        response_415 = SpaceError.from_dict(response.json())

        return response_415

    if response.status_code == 429:
        response_429 = SpaceError.from_dict(response.json())

        return response_429

    if response.status_code == 500:
        response_500 = SpaceError.from_dict(response.json())

        return response_500

    if response.status_code == 503:
        response_503 = SpaceError.from_dict(response.json())

        return response_503

    if response.status_code == 504:
        response_504 = SpaceError.from_dict(response.json())

        return response_504

    if client.raise_on_unexpected_status:
        raise errors.UnexpectedStatus(response.status_code, response.content)
    else:
        return None


def _build_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> Response[SpaceError | SpaceResponse]:
    return Response(
        status_code=HTTPStatus(response.status_code),
        content=response.content,
        headers=response.headers,
        parsed=_parse_response(client=client, response=response),
    )


def sync_detailed(
    *,
    client: AuthenticatedClient,
    body: SpaceRequest,
) -> Response[SpaceError | SpaceResponse]:
    """Segment by text, points and boxes

     Each text finds every instance of a concept (SAM 3). Each positive box, together with the points
    inside it, selects one object; all points outside these boxes select one more object (SAM 3's visual
    head, or SAM 2). Pixels in a negative box are removed from all masks.

    Args:
        body (SpaceRequest): A request to the Space's SAM 2 compatible API.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[SpaceError | SpaceResponse]
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
    body: SpaceRequest,
) -> SpaceError | SpaceResponse | None:
    """Segment by text, points and boxes

     Each text finds every instance of a concept (SAM 3). Each positive box, together with the points
    inside it, selects one object; all points outside these boxes select one more object (SAM 3's visual
    head, or SAM 2). Pixels in a negative box are removed from all masks.

    Args:
        body (SpaceRequest): A request to the Space's SAM 2 compatible API.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        SpaceError | SpaceResponse
    """

    return sync_detailed(
        client=client,
        body=body,
    ).parsed


async def asyncio_detailed(
    *,
    client: AuthenticatedClient,
    body: SpaceRequest,
) -> Response[SpaceError | SpaceResponse]:
    """Segment by text, points and boxes

     Each text finds every instance of a concept (SAM 3). Each positive box, together with the points
    inside it, selects one object; all points outside these boxes select one more object (SAM 3's visual
    head, or SAM 2). Pixels in a negative box are removed from all masks.

    Args:
        body (SpaceRequest): A request to the Space's SAM 2 compatible API.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[SpaceError | SpaceResponse]
    """

    kwargs = _get_kwargs(
        body=body,
    )

    response = await client.get_async_httpx_client().request(**kwargs)

    return _build_response(client=client, response=response)


async def asyncio(
    *,
    client: AuthenticatedClient,
    body: SpaceRequest,
) -> SpaceError | SpaceResponse | None:
    """Segment by text, points and boxes

     Each text finds every instance of a concept (SAM 3). Each positive box, together with the points
    inside it, selects one object; all points outside these boxes select one more object (SAM 3's visual
    head, or SAM 2). Pixels in a negative box are removed from all masks.

    Args:
        body (SpaceRequest): A request to the Space's SAM 2 compatible API.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        SpaceError | SpaceResponse
    """

    return (
        await asyncio_detailed(
            client=client,
            body=body,
        )
    ).parsed
