from http import HTTPStatus
from typing import Any

import httpx

from ... import errors
from ...client import AuthenticatedClient, Client
from ...models.label_studio_error import LabelStudioError
from ...models.label_studio_health import LabelStudioHealth
from ...types import Response


def _get_kwargs() -> dict[str, Any]:

    _kwargs: dict[str, Any] = {
        "method": "get",
        "url": "/label-studio/health",
    }

    return _kwargs


def _parse_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> LabelStudioError | LabelStudioHealth | None:
    if response.status_code == 200:
        response_200 = LabelStudioHealth.from_dict(response.json())

        return response_200

    if response.status_code == 401:
        response_401 = LabelStudioError.from_dict(response.json())

        return response_401

    if response.status_code == 403:
        response_403 = LabelStudioError.from_dict(response.json())

        return response_403

    if response.status_code == 503:
        response_503 = LabelStudioError.from_dict(response.json())

        return response_503

    if client.raise_on_unexpected_status:
        raise errors.UnexpectedStatus(response.status_code, response.content)
    else:
        return None


def _build_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> Response[LabelStudioError | LabelStudioHealth]:
    return Response(
        status_code=HTTPStatus(response.status_code),
        content=response.content,
        headers=response.headers,
        parsed=_parse_response(client=client, response=response),
    )


def sync_detailed(
    *,
    client: AuthenticatedClient,
) -> Response[LabelStudioError | LabelStudioHealth]:
    """Tell whether the ML backend is up

     Label Studio calls it before `/setup`, and reports a wrong key to its user.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[LabelStudioError | LabelStudioHealth]
    """

    kwargs = _get_kwargs()

    response = client.get_httpx_client().request(
        **kwargs,
    )

    return _build_response(client=client, response=response)


def sync(
    *,
    client: AuthenticatedClient,
) -> LabelStudioError | LabelStudioHealth | None:
    """Tell whether the ML backend is up

     Label Studio calls it before `/setup`, and reports a wrong key to its user.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        LabelStudioError | LabelStudioHealth
    """

    return sync_detailed(
        client=client,
    ).parsed


async def asyncio_detailed(
    *,
    client: AuthenticatedClient,
) -> Response[LabelStudioError | LabelStudioHealth]:
    """Tell whether the ML backend is up

     Label Studio calls it before `/setup`, and reports a wrong key to its user.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[LabelStudioError | LabelStudioHealth]
    """

    kwargs = _get_kwargs()

    response = await client.get_async_httpx_client().request(**kwargs)

    return _build_response(client=client, response=response)


async def asyncio(
    *,
    client: AuthenticatedClient,
) -> LabelStudioError | LabelStudioHealth | None:
    """Tell whether the ML backend is up

     Label Studio calls it before `/setup`, and reports a wrong key to its user.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        LabelStudioError | LabelStudioHealth
    """

    return (
        await asyncio_detailed(
            client=client,
        )
    ).parsed
