from http import HTTPStatus
from io import BytesIO
from typing import Any
from urllib.parse import quote

import httpx

from ... import errors
from ...client import AuthenticatedClient, Client
from ...models.segmind_failure import SegmindFailure
from ...types import UNSET, File, Response


def _get_kwargs(
    request_id: str,
    name: str,
    *,
    expires: str,
    signature: str,
) -> dict[str, Any]:

    params: dict[str, Any] = {}

    params["expires"] = expires

    params["signature"] = signature

    params = {k: v for k, v in params.items() if v is not UNSET and v is not None}

    _kwargs: dict[str, Any] = {
        "method": "get",
        "url": "/v2/requests/{request_id}/files/{name}".format(
            request_id=quote(str(request_id), safe=""),
            name=quote(str(name), safe=""),
        ),
        "params": params,
    }

    return _kwargs


def _parse_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> File | SegmindFailure | None:
    if response.status_code == 200:
        response_200 = File(payload=BytesIO(response.content))

        return response_200

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
) -> Response[File | SegmindFailure]:
    return Response(
        status_code=HTTPStatus(response.status_code),
        content=response.content,
        headers=response.headers,
        parsed=_parse_response(client=client, response=response),
    )


def sync_detailed(
    request_id: str,
    name: str,
    *,
    client: AuthenticatedClient | Client,
    expires: str,
    signature: str,
) -> Response[File | SegmindFailure]:
    """Get a file of a result

     The result contains the signed URL, which needs no API key.

    Args:
        request_id (str):
        name (str):
        expires (str):
        signature (str):

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[File | SegmindFailure]
    """

    kwargs = _get_kwargs(
        request_id=request_id,
        name=name,
        expires=expires,
        signature=signature,
    )

    response = client.get_httpx_client().request(
        **kwargs,
    )

    return _build_response(client=client, response=response)


def sync(
    request_id: str,
    name: str,
    *,
    client: AuthenticatedClient | Client,
    expires: str,
    signature: str,
) -> File | SegmindFailure | None:
    """Get a file of a result

     The result contains the signed URL, which needs no API key.

    Args:
        request_id (str):
        name (str):
        expires (str):
        signature (str):

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        File | SegmindFailure
    """

    return sync_detailed(
        request_id=request_id,
        name=name,
        client=client,
        expires=expires,
        signature=signature,
    ).parsed


async def asyncio_detailed(
    request_id: str,
    name: str,
    *,
    client: AuthenticatedClient | Client,
    expires: str,
    signature: str,
) -> Response[File | SegmindFailure]:
    """Get a file of a result

     The result contains the signed URL, which needs no API key.

    Args:
        request_id (str):
        name (str):
        expires (str):
        signature (str):

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[File | SegmindFailure]
    """

    kwargs = _get_kwargs(
        request_id=request_id,
        name=name,
        expires=expires,
        signature=signature,
    )

    response = await client.get_async_httpx_client().request(**kwargs)

    return _build_response(client=client, response=response)


async def asyncio(
    request_id: str,
    name: str,
    *,
    client: AuthenticatedClient | Client,
    expires: str,
    signature: str,
) -> File | SegmindFailure | None:
    """Get a file of a result

     The result contains the signed URL, which needs no API key.

    Args:
        request_id (str):
        name (str):
        expires (str):
        signature (str):

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        File | SegmindFailure
    """

    return (
        await asyncio_detailed(
            request_id=request_id,
            name=name,
            client=client,
            expires=expires,
            signature=signature,
        )
    ).parsed
