from http import HTTPStatus
from typing import Any

import httpx

from ... import errors
from ...client import AuthenticatedClient, Client
from ...models.embedding_response import EmbeddingResponse
from ...models.error_message import ErrorMessage
from ...models.sam_2_embedding_form import Sam2EmbeddingForm
from ...models.sam_2_embedding_request import Sam2EmbeddingRequest
from ...models.validation_error_response import ValidationErrorResponse
from ...types import Response


def _get_kwargs(
    *,
    body: Sam2EmbeddingRequest | Sam2EmbeddingForm,
) -> dict[str, Any]:
    headers: dict[str, Any] = {}

    _kwargs: dict[str, Any] = {
        "method": "post",
        "url": "/sam2/embed_image",
    }

    if isinstance(body, Sam2EmbeddingRequest):
        _kwargs["json"] = body.to_dict()

        headers["Content-Type"] = "application/json"
    if isinstance(body, Sam2EmbeddingForm):
        _kwargs["files"] = body.to_multipart()

        headers["Content-Type"] = "multipart/form-data; boundary=+++"

    _kwargs["headers"] = headers
    return _kwargs


def _parse_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> EmbeddingResponse | ErrorMessage | ValidationErrorResponse | None:
    if response.status_code == 200:
        response_200 = EmbeddingResponse.from_dict(response.json())

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
) -> Response[EmbeddingResponse | ErrorMessage | ValidationErrorResponse]:
    return Response(
        status_code=HTTPStatus(response.status_code),
        content=response.content,
        headers=response.headers,
        parsed=_parse_response(client=client, response=response),
    )


def sync_detailed(
    *,
    client: AuthenticatedClient,
    body: Sam2EmbeddingRequest | Sam2EmbeddingForm,
) -> Response[EmbeddingResponse | ErrorMessage | ValidationErrorResponse]:
    """Encode an image ahead of time for SAM 2

     Later requests with the returned `image_id` reuse the embedding.

    Args:
        body (Sam2EmbeddingRequest): Encode an image for SAM 2.
        body (Sam2EmbeddingForm): Encode an image for SAM 2; `request` has the fields of
            `Sam2EmbeddingRequest` but `image`.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[EmbeddingResponse | ErrorMessage | ValidationErrorResponse]
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
    body: Sam2EmbeddingRequest | Sam2EmbeddingForm,
) -> EmbeddingResponse | ErrorMessage | ValidationErrorResponse | None:
    """Encode an image ahead of time for SAM 2

     Later requests with the returned `image_id` reuse the embedding.

    Args:
        body (Sam2EmbeddingRequest): Encode an image for SAM 2.
        body (Sam2EmbeddingForm): Encode an image for SAM 2; `request` has the fields of
            `Sam2EmbeddingRequest` but `image`.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        EmbeddingResponse | ErrorMessage | ValidationErrorResponse
    """

    return sync_detailed(
        client=client,
        body=body,
    ).parsed


async def asyncio_detailed(
    *,
    client: AuthenticatedClient,
    body: Sam2EmbeddingRequest | Sam2EmbeddingForm,
) -> Response[EmbeddingResponse | ErrorMessage | ValidationErrorResponse]:
    """Encode an image ahead of time for SAM 2

     Later requests with the returned `image_id` reuse the embedding.

    Args:
        body (Sam2EmbeddingRequest): Encode an image for SAM 2.
        body (Sam2EmbeddingForm): Encode an image for SAM 2; `request` has the fields of
            `Sam2EmbeddingRequest` but `image`.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[EmbeddingResponse | ErrorMessage | ValidationErrorResponse]
    """

    kwargs = _get_kwargs(
        body=body,
    )

    response = await client.get_async_httpx_client().request(**kwargs)

    return _build_response(client=client, response=response)


async def asyncio(
    *,
    client: AuthenticatedClient,
    body: Sam2EmbeddingRequest | Sam2EmbeddingForm,
) -> EmbeddingResponse | ErrorMessage | ValidationErrorResponse | None:
    """Encode an image ahead of time for SAM 2

     Later requests with the returned `image_id` reuse the embedding.

    Args:
        body (Sam2EmbeddingRequest): Encode an image for SAM 2.
        body (Sam2EmbeddingForm): Encode an image for SAM 2; `request` has the fields of
            `Sam2EmbeddingRequest` but `image`.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        EmbeddingResponse | ErrorMessage | ValidationErrorResponse
    """

    return (
        await asyncio_detailed(
            client=client,
            body=body,
        )
    ).parsed
