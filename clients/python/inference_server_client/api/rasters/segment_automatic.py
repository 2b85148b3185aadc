from http import HTTPStatus
from typing import Any

import httpx

from ... import errors
from ...client import AuthenticatedClient, Client
from ...models.automatic_request import AutomaticRequest
from ...models.box_collection import BoxCollection
from ...models.detection_list import DetectionList
from ...models.error_detail import ErrorDetail
from ...models.mask_collection import MaskCollection
from ...models.validation_error_response import ValidationErrorResponse
from ...types import Response


def _get_kwargs(
    *,
    body: AutomaticRequest,
) -> dict[str, Any]:
    headers: dict[str, Any] = {}

    _kwargs: dict[str, Any] = {
        "method": "post",
        "url": "/segment/automatic",
    }

    _kwargs["files"] = body.to_multipart()

    headers["Content-Type"] = "multipart/form-data; boundary=+++"

    _kwargs["headers"] = headers
    return _kwargs


def _parse_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> BoxCollection | DetectionList | MaskCollection | ErrorDetail | ValidationErrorResponse | None:
    if response.status_code == 200:

        def _parse_response_200(data: object) -> BoxCollection | DetectionList | MaskCollection:
            try:
                if not isinstance(data, dict):
                    raise TypeError()
                componentsschemas_segmentation_result_type_0 = DetectionList.from_dict(data)

                return componentsschemas_segmentation_result_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            try:
                if not isinstance(data, dict):
                    raise TypeError()
                componentsschemas_segmentation_result_type_1 = BoxCollection.from_dict(data)

                return componentsschemas_segmentation_result_type_1
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            if not isinstance(data, dict):
                raise TypeError()
            componentsschemas_segmentation_result_type_2 = MaskCollection.from_dict(data)

            return componentsschemas_segmentation_result_type_2

        response_200 = _parse_response_200(response.json())

        return response_200

    if response.status_code == 400:
        response_400 = ErrorDetail.from_dict(response.json())

        return response_400

    if response.status_code == 401:
        response_401 = ErrorDetail.from_dict(response.json())

        return response_401

    if response.status_code == 402:
        response_402 = ErrorDetail.from_dict(response.json())

        return response_402

    if response.status_code == 403:
        response_403 = ErrorDetail.from_dict(response.json())

        return response_403

    if response.status_code == 404:
        response_404 = ErrorDetail.from_dict(response.json())

        return response_404

    if response.status_code == 408:
        response_408 = ErrorDetail.from_dict(response.json())

        return response_408

    if response.status_code == 413:
        response_413 = ErrorDetail.from_dict(response.json())

        return response_413

    if response.status_code == 415:
        response_415 = ErrorDetail.from_dict(response.json())

        return response_415

    if response.status_code == 422:
        response_422 = ValidationErrorResponse.from_dict(response.json())

        return response_422

    if response.status_code == 429:
        response_429 = ErrorDetail.from_dict(response.json())

        return response_429

    if response.status_code == 500:
        response_500 = ErrorDetail.from_dict(response.json())

        return response_500

    if response.status_code == 503:
        response_503 = ErrorDetail.from_dict(response.json())

        return response_503

    if response.status_code == 504:
        response_504 = ErrorDetail.from_dict(response.json())

        return response_504

    if client.raise_on_unexpected_status:
        raise errors.UnexpectedStatus(response.status_code, response.content)
    else:
        return None


def _build_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> Response[
    BoxCollection | DetectionList | MaskCollection | ErrorDetail | ValidationErrorResponse
]:
    return Response(
        status_code=HTTPStatus(response.status_code),
        content=response.content,
        headers=response.headers,
        parsed=_parse_response(client=client, response=response),
    )


def sync_detailed(
    *,
    client: AuthenticatedClient,
    body: AutomaticRequest,
) -> Response[
    BoxCollection | DetectionList | MaskCollection | ErrorDetail | ValidationErrorResponse
]:
    """Segment everything

     Finds every object in the image, without a prompt.

    Args:
        body (AutomaticRequest): Segment everything: SAM 1 and 2 with a grid of points, SAM 3 with
            the prompt `everything`.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[BoxCollection | DetectionList | MaskCollection | ErrorDetail | ValidationErrorResponse]
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
    body: AutomaticRequest,
) -> BoxCollection | DetectionList | MaskCollection | ErrorDetail | ValidationErrorResponse | None:
    """Segment everything

     Finds every object in the image, without a prompt.

    Args:
        body (AutomaticRequest): Segment everything: SAM 1 and 2 with a grid of points, SAM 3 with
            the prompt `everything`.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        BoxCollection | DetectionList | MaskCollection | ErrorDetail | ValidationErrorResponse
    """

    return sync_detailed(
        client=client,
        body=body,
    ).parsed


async def asyncio_detailed(
    *,
    client: AuthenticatedClient,
    body: AutomaticRequest,
) -> Response[
    BoxCollection | DetectionList | MaskCollection | ErrorDetail | ValidationErrorResponse
]:
    """Segment everything

     Finds every object in the image, without a prompt.

    Args:
        body (AutomaticRequest): Segment everything: SAM 1 and 2 with a grid of points, SAM 3 with
            the prompt `everything`.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[BoxCollection | DetectionList | MaskCollection | ErrorDetail | ValidationErrorResponse]
    """

    kwargs = _get_kwargs(
        body=body,
    )

    response = await client.get_async_httpx_client().request(**kwargs)

    return _build_response(client=client, response=response)


async def asyncio(
    *,
    client: AuthenticatedClient,
    body: AutomaticRequest,
) -> BoxCollection | DetectionList | MaskCollection | ErrorDetail | ValidationErrorResponse | None:
    """Segment everything

     Finds every object in the image, without a prompt.

    Args:
        body (AutomaticRequest): Segment everything: SAM 1 and 2 with a grid of points, SAM 3 with
            the prompt `everything`.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        BoxCollection | DetectionList | MaskCollection | ErrorDetail | ValidationErrorResponse
    """

    return (
        await asyncio_detailed(
            client=client,
            body=body,
        )
    ).parsed
