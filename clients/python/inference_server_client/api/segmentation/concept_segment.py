from http import HTTPStatus
from typing import Any

import httpx

from ... import errors
from ...client import AuthenticatedClient, Client
from ...models.error_message import ErrorMessage
from ...models.sam_3_segmentation_form import Sam3SegmentationForm
from ...models.sam_3_segmentation_request import Sam3SegmentationRequest
from ...models.sam_3_segmentation_response import Sam3SegmentationResponse
from ...models.validation_error_response import ValidationErrorResponse
from ...types import Response


def _get_kwargs(
    *,
    body: Sam3SegmentationRequest | Sam3SegmentationForm,
) -> dict[str, Any]:
    headers: dict[str, Any] = {}

    _kwargs: dict[str, Any] = {
        "method": "post",
        "url": "/sam3/concept_segment",
    }

    if isinstance(body, Sam3SegmentationRequest):
        _kwargs["json"] = body.to_dict()

        headers["Content-Type"] = "application/json"
    if isinstance(body, Sam3SegmentationForm):
        _kwargs["files"] = body.to_multipart()

        headers["Content-Type"] = "multipart/form-data; boundary=+++"

    _kwargs["headers"] = headers
    return _kwargs


def _parse_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> ErrorMessage | Sam3SegmentationResponse | ValidationErrorResponse | None:
    if response.status_code == 200:
        response_200 = Sam3SegmentationResponse.from_dict(response.json())

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
) -> Response[ErrorMessage | Sam3SegmentationResponse | ValidationErrorResponse]:
    return Response(
        status_code=HTTPStatus(response.status_code),
        content=response.content,
        headers=response.headers,
        parsed=_parse_response(client=client, response=response),
    )


def sync_detailed(
    *,
    client: AuthenticatedClient,
    body: Sam3SegmentationRequest | Sam3SegmentationForm,
) -> Response[ErrorMessage | Sam3SegmentationResponse | ValidationErrorResponse]:
    """Promptable concept segmentation (PCS)

     Finds every instance of each concept, given by text, exemplar boxes or both. Uses SAM 3.

    Args:
        body (Sam3SegmentationRequest): Find all instances of each concept.
        body (Sam3SegmentationForm): Find all instances; `request` has the fields of
            `Sam3SegmentationRequest` but `image`.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[ErrorMessage | Sam3SegmentationResponse | ValidationErrorResponse]
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
    body: Sam3SegmentationRequest | Sam3SegmentationForm,
) -> ErrorMessage | Sam3SegmentationResponse | ValidationErrorResponse | None:
    """Promptable concept segmentation (PCS)

     Finds every instance of each concept, given by text, exemplar boxes or both. Uses SAM 3.

    Args:
        body (Sam3SegmentationRequest): Find all instances of each concept.
        body (Sam3SegmentationForm): Find all instances; `request` has the fields of
            `Sam3SegmentationRequest` but `image`.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        ErrorMessage | Sam3SegmentationResponse | ValidationErrorResponse
    """

    return sync_detailed(
        client=client,
        body=body,
    ).parsed


async def asyncio_detailed(
    *,
    client: AuthenticatedClient,
    body: Sam3SegmentationRequest | Sam3SegmentationForm,
) -> Response[ErrorMessage | Sam3SegmentationResponse | ValidationErrorResponse]:
    """Promptable concept segmentation (PCS)

     Finds every instance of each concept, given by text, exemplar boxes or both. Uses SAM 3.

    Args:
        body (Sam3SegmentationRequest): Find all instances of each concept.
        body (Sam3SegmentationForm): Find all instances; `request` has the fields of
            `Sam3SegmentationRequest` but `image`.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[ErrorMessage | Sam3SegmentationResponse | ValidationErrorResponse]
    """

    kwargs = _get_kwargs(
        body=body,
    )

    response = await client.get_async_httpx_client().request(**kwargs)

    return _build_response(client=client, response=response)


async def asyncio(
    *,
    client: AuthenticatedClient,
    body: Sam3SegmentationRequest | Sam3SegmentationForm,
) -> ErrorMessage | Sam3SegmentationResponse | ValidationErrorResponse | None:
    """Promptable concept segmentation (PCS)

     Finds every instance of each concept, given by text, exemplar boxes or both. Uses SAM 3.

    Args:
        body (Sam3SegmentationRequest): Find all instances of each concept.
        body (Sam3SegmentationForm): Find all instances; `request` has the fields of
            `Sam3SegmentationRequest` but `image`.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        ErrorMessage | Sam3SegmentationResponse | ValidationErrorResponse
    """

    return (
        await asyncio_detailed(
            client=client,
            body=body,
        )
    ).parsed
