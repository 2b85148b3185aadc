from http import HTTPStatus
from typing import Any

import httpx

from ... import errors
from ...client import AuthenticatedClient, Client
from ...models.x_any_labeling_error import XAnyLabelingError
from ...models.x_any_labeling_models import XAnyLabelingModels
from ...types import Response


def _get_kwargs() -> dict[str, Any]:

    _kwargs: dict[str, Any] = {
        "method": "get",
        "url": "/x-anylabeling/v1/models",
    }

    return _kwargs


def _parse_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> XAnyLabelingError | XAnyLabelingModels | None:
    if response.status_code == 200:
        response_200 = XAnyLabelingModels.from_dict(response.json())

        return response_200

    if response.status_code == 401:
        response_401 = XAnyLabelingError.from_dict(response.json())

        return response_401

    if response.status_code == 503:
        response_503 = XAnyLabelingError.from_dict(response.json())

        return response_503

    if client.raise_on_unexpected_status:
        raise errors.UnexpectedStatus(response.status_code, response.content)
    else:
        return None


def _build_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> Response[XAnyLabelingError | XAnyLabelingModels]:
    return Response(
        status_code=HTTPStatus(response.status_code),
        content=response.content,
        headers=response.headers,
        parsed=_parse_response(client=client, response=response),
    )


def sync_detailed(
    *,
    client: AuthenticatedClient,
) -> Response[XAnyLabelingError | XAnyLabelingModels]:
    """List the models for X-AnyLabeling

     The models of the program's menu, with the controls that it shows for each.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[XAnyLabelingError | XAnyLabelingModels]
    """

    kwargs = _get_kwargs()

    response = client.get_httpx_client().request(
        **kwargs,
    )

    return _build_response(client=client, response=response)


def sync(
    *,
    client: AuthenticatedClient,
) -> XAnyLabelingError | XAnyLabelingModels | None:
    """List the models for X-AnyLabeling

     The models of the program's menu, with the controls that it shows for each.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        XAnyLabelingError | XAnyLabelingModels
    """

    return sync_detailed(
        client=client,
    ).parsed


async def asyncio_detailed(
    *,
    client: AuthenticatedClient,
) -> Response[XAnyLabelingError | XAnyLabelingModels]:
    """List the models for X-AnyLabeling

     The models of the program's menu, with the controls that it shows for each.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[XAnyLabelingError | XAnyLabelingModels]
    """

    kwargs = _get_kwargs()

    response = await client.get_async_httpx_client().request(**kwargs)

    return _build_response(client=client, response=response)


async def asyncio(
    *,
    client: AuthenticatedClient,
) -> XAnyLabelingError | XAnyLabelingModels | None:
    """List the models for X-AnyLabeling

     The models of the program's menu, with the controls that it shows for each.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        XAnyLabelingError | XAnyLabelingModels
    """

    return (
        await asyncio_detailed(
            client=client,
        )
    ).parsed
