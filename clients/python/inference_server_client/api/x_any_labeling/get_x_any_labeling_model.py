from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx

from ... import errors
from ...client import AuthenticatedClient, Client
from ...models.x_any_labeling_error import XAnyLabelingError
from ...models.x_any_labeling_model_info import XAnyLabelingModelInfo
from ...types import Response


def _get_kwargs(
    model_id: str,
) -> dict[str, Any]:

    _kwargs: dict[str, Any] = {
        "method": "get",
        "url": "/x-anylabeling/v1/models/{model_id}/info".format(
            model_id=quote(str(model_id), safe=""),
        ),
    }

    return _kwargs


def _parse_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> XAnyLabelingError | XAnyLabelingModelInfo | None:
    if response.status_code == 200:
        response_200 = XAnyLabelingModelInfo.from_dict(response.json())

        return response_200

    if response.status_code == 401:
        response_401 = XAnyLabelingError.from_dict(response.json())

        return response_401

    if response.status_code == 404:
        response_404 = XAnyLabelingError.from_dict(response.json())

        return response_404

    if response.status_code == 503:
        response_503 = XAnyLabelingError.from_dict(response.json())

        return response_503

    if client.raise_on_unexpected_status:
        raise errors.UnexpectedStatus(response.status_code, response.content)
    else:
        return None


def _build_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> Response[XAnyLabelingError | XAnyLabelingModelInfo]:
    return Response(
        status_code=HTTPStatus(response.status_code),
        content=response.content,
        headers=response.headers,
        parsed=_parse_response(client=client, response=response),
    )


def sync_detailed(
    model_id: str,
    *,
    client: AuthenticatedClient,
) -> Response[XAnyLabelingError | XAnyLabelingModelInfo]:
    """Get a model for X-AnyLabeling

     One model, with its controls.

    Args:
        model_id (str):

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[XAnyLabelingError | XAnyLabelingModelInfo]
    """

    kwargs = _get_kwargs(
        model_id=model_id,
    )

    response = client.get_httpx_client().request(
        **kwargs,
    )

    return _build_response(client=client, response=response)


def sync(
    model_id: str,
    *,
    client: AuthenticatedClient,
) -> XAnyLabelingError | XAnyLabelingModelInfo | None:
    """Get a model for X-AnyLabeling

     One model, with its controls.

    Args:
        model_id (str):

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        XAnyLabelingError | XAnyLabelingModelInfo
    """

    return sync_detailed(
        model_id=model_id,
        client=client,
    ).parsed


async def asyncio_detailed(
    model_id: str,
    *,
    client: AuthenticatedClient,
) -> Response[XAnyLabelingError | XAnyLabelingModelInfo]:
    """Get a model for X-AnyLabeling

     One model, with its controls.

    Args:
        model_id (str):

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[XAnyLabelingError | XAnyLabelingModelInfo]
    """

    kwargs = _get_kwargs(
        model_id=model_id,
    )

    response = await client.get_async_httpx_client().request(**kwargs)

    return _build_response(client=client, response=response)


async def asyncio(
    model_id: str,
    *,
    client: AuthenticatedClient,
) -> XAnyLabelingError | XAnyLabelingModelInfo | None:
    """Get a model for X-AnyLabeling

     One model, with its controls.

    Args:
        model_id (str):

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        XAnyLabelingError | XAnyLabelingModelInfo
    """

    return (
        await asyncio_detailed(
            model_id=model_id,
            client=client,
        )
    ).parsed
