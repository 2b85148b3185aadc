from http import HTTPStatus
from io import BytesIO
from typing import Any

import httpx

from ... import errors
from ...client import AuthenticatedClient, Client
from ...models.sam_3_image_request import Sam3ImageRequest
from ...models.segmind_failure import SegmindFailure
from ...types import File, Response


def _get_kwargs(
    *,
    body: Sam3ImageRequest,
) -> dict[str, Any]:
    headers: dict[str, Any] = {}

    _kwargs: dict[str, Any] = {
        "method": "post",
        "url": "/v1/sam3-image",
    }

    _kwargs["json"] = body.to_dict()

    headers["Content-Type"] = "application/json"

    _kwargs["headers"] = headers
    return _kwargs


def _parse_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> File | SegmindFailure | None:
    if response.status_code == 200:
        response_200 = File(payload=BytesIO(response.content))

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
) -> Response[File | SegmindFailure]:
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
) -> Response[File | SegmindFailure]:
    """Segment an image; the response is images

     Finds every instance of a concept given by text and exemplar boxes, one object given by points, or
    every object. The response is a PNG if exactly one of `return_preview` and `return_overlay` is true
    and `return_masks` is false; otherwise it is JSON. If nothing is found, the preview is black, the
    overlay is the input image, and `masks` is empty.

    Args:
        body (Sam3ImageRequest): Segment by text, exemplar boxes or points; without a prompt,
            segment everything.

            Text and boxes find all instances of a concept; points select one object. With both, the
            response contains the masks of both, without duplicates.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[File | SegmindFailure]
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
    body: Sam3ImageRequest,
) -> File | SegmindFailure | None:
    """Segment an image; the response is images

     Finds every instance of a concept given by text and exemplar boxes, one object given by points, or
    every object. The response is a PNG if exactly one of `return_preview` and `return_overlay` is true
    and `return_masks` is false; otherwise it is JSON. If nothing is found, the preview is black, the
    overlay is the input image, and `masks` is empty.

    Args:
        body (Sam3ImageRequest): Segment by text, exemplar boxes or points; without a prompt,
            segment everything.

            Text and boxes find all instances of a concept; points select one object. With both, the
            response contains the masks of both, without duplicates.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        File | SegmindFailure
    """

    return sync_detailed(
        client=client,
        body=body,
    ).parsed


async def asyncio_detailed(
    *,
    client: AuthenticatedClient,
    body: Sam3ImageRequest,
) -> Response[File | SegmindFailure]:
    """Segment an image; the response is images

     Finds every instance of a concept given by text and exemplar boxes, one object given by points, or
    every object. The response is a PNG if exactly one of `return_preview` and `return_overlay` is true
    and `return_masks` is false; otherwise it is JSON. If nothing is found, the preview is black, the
    overlay is the input image, and `masks` is empty.

    Args:
        body (Sam3ImageRequest): Segment by text, exemplar boxes or points; without a prompt,
            segment everything.

            Text and boxes find all instances of a concept; points select one object. With both, the
            response contains the masks of both, without duplicates.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[File | SegmindFailure]
    """

    kwargs = _get_kwargs(
        body=body,
    )

    response = await client.get_async_httpx_client().request(**kwargs)

    return _build_response(client=client, response=response)


async def asyncio(
    *,
    client: AuthenticatedClient,
    body: Sam3ImageRequest,
) -> File | SegmindFailure | None:
    """Segment an image; the response is images

     Finds every instance of a concept given by text and exemplar boxes, one object given by points, or
    every object. The response is a PNG if exactly one of `return_preview` and `return_overlay` is true
    and `return_masks` is false; otherwise it is JSON. If nothing is found, the preview is black, the
    overlay is the input image, and `masks` is empty.

    Args:
        body (Sam3ImageRequest): Segment by text, exemplar boxes or points; without a prompt,
            segment everything.

            Text and boxes find all instances of a concept; points select one object. With both, the
            response contains the masks of both, without duplicates.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        File | SegmindFailure
    """

    return (
        await asyncio_detailed(
            client=client,
            body=body,
        )
    ).parsed
