from http import HTTPStatus
from typing import Any

import httpx

from ... import errors
from ...client import AuthenticatedClient, Client
from ...models.space_error import SpaceError
from ...models.space_predict_request import SpacePredictRequest
from ...models.space_predict_response import SpacePredictResponse
from ...types import Response


def _get_kwargs(
    *,
    body: SpacePredictRequest,
) -> dict[str, Any]:
    headers: dict[str, Any] = {}

    _kwargs: dict[str, Any] = {
        "method": "post",
        "url": "/api/predict",
    }

    _kwargs["json"] = body.to_dict()

    headers["Content-Type"] = "application/json"

    _kwargs["headers"] = headers
    return _kwargs


def _parse_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> SpaceError | SpacePredictResponse | None:
    if response.status_code == 200:
        response_200 = SpacePredictResponse.from_dict(response.json())

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
) -> Response[SpaceError | SpacePredictResponse]:
    return Response(
        status_code=HTTPStatus(response.status_code),
        content=response.content,
        headers=response.headers,
        parsed=_parse_response(client=client, response=response),
    )


def sync_detailed(
    *,
    client: AuthenticatedClient,
    body: SpacePredictRequest,
) -> Response[SpaceError | SpacePredictResponse]:
    """Segment by text, in the envelope of Gradio's API

     Finds every instance of a concept. Uses SAM 3.

    Args:
        body (SpacePredictRequest): A text prompt in Gradio's request format.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[SpaceError | SpacePredictResponse]
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
    body: SpacePredictRequest,
) -> SpaceError | SpacePredictResponse | None:
    """Segment by text, in the envelope of Gradio's API

     Finds every instance of a concept. Uses SAM 3.

    Args:
        body (SpacePredictRequest): A text prompt in Gradio's request format.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        SpaceError | SpacePredictResponse
    """

    return sync_detailed(
        client=client,
        body=body,
    ).parsed


async def asyncio_detailed(
    *,
    client: AuthenticatedClient,
    body: SpacePredictRequest,
) -> Response[SpaceError | SpacePredictResponse]:
    """Segment by text, in the envelope of Gradio's API

     Finds every instance of a concept. Uses SAM 3.

    Args:
        body (SpacePredictRequest): A text prompt in Gradio's request format.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[SpaceError | SpacePredictResponse]
    """

    kwargs = _get_kwargs(
        body=body,
    )

    response = await client.get_async_httpx_client().request(**kwargs)

    return _build_response(client=client, response=response)


async def asyncio(
    *,
    client: AuthenticatedClient,
    body: SpacePredictRequest,
) -> SpaceError | SpacePredictResponse | None:
    """Segment by text, in the envelope of Gradio's API

     Finds every instance of a concept. Uses SAM 3.

    Args:
        body (SpacePredictRequest): A text prompt in Gradio's request format.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        SpaceError | SpacePredictResponse
    """

    return (
        await asyncio_detailed(
            client=client,
            body=body,
        )
    ).parsed
