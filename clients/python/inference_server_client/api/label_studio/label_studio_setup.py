from http import HTTPStatus
from typing import Any

import httpx

from ... import errors
from ...client import AuthenticatedClient, Client
from ...models.label_studio_error import LabelStudioError
from ...models.label_studio_model_version import LabelStudioModelVersion
from ...models.label_studio_setup_request import LabelStudioSetupRequest
from ...types import Response


def _get_kwargs(
    *,
    body: LabelStudioSetupRequest,
) -> dict[str, Any]:
    headers: dict[str, Any] = {}

    _kwargs: dict[str, Any] = {
        "method": "post",
        "url": "/label-studio/setup",
    }

    _kwargs["json"] = body.to_dict()

    headers["Content-Type"] = "application/json"

    _kwargs["headers"] = headers
    return _kwargs


def _parse_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> LabelStudioError | LabelStudioModelVersion | None:
    if response.status_code == 200:
        response_200 = LabelStudioModelVersion.from_dict(response.json())

        return response_200

    if response.status_code == 400:
        response_400 = LabelStudioError.from_dict(response.json())

        return response_400

    if response.status_code == 401:
        response_401 = LabelStudioError.from_dict(response.json())

        return response_401

    if response.status_code == 402:
        response_402 = LabelStudioError.from_dict(response.json())

        return response_402

    if response.status_code == 403:
        response_403 = LabelStudioError.from_dict(response.json())

        return response_403

    if response.status_code == 408:
        response_408 = LabelStudioError.from_dict(response.json())

        return response_408

    if response.status_code == 413:
        response_413 = LabelStudioError.from_dict(response.json())

        return response_413

    if response.status_code == 415:
        response_415 = LabelStudioError.from_dict(response.json())

        return response_415

    if response.status_code == 429:
        response_429 = LabelStudioError.from_dict(response.json())

        return response_429

    if response.status_code == 500:
        response_500 = LabelStudioError.from_dict(response.json())

        return response_500

    if response.status_code == 503:
        response_503 = LabelStudioError.from_dict(response.json())

        return response_503

    if response.status_code == 504:
        response_504 = LabelStudioError.from_dict(response.json())

        return response_504

    if client.raise_on_unexpected_status:
        raise errors.UnexpectedStatus(response.status_code, response.content)
    else:
        return None


def _build_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> Response[LabelStudioError | LabelStudioModelVersion]:
    return Response(
        status_code=HTTPStatus(response.status_code),
        content=response.content,
        headers=response.headers,
        parsed=_parse_response(client=client, response=response),
    )


def sync_detailed(
    *,
    client: AuthenticatedClient,
    body: LabelStudioSetupRequest,
) -> Response[LabelStudioError | LabelStudioModelVersion]:
    """Check a project's configuration

     Checks the label configuration and remembers `extra_params`. The fields `hostname` and
    `access_token` are ignored: images are fetched from `INFERENCE_LABEL_STUDIO_URL`.

    Args:
        body (LabelStudioSetupRequest): A project's configuration, which Label Studio sends before
            batches.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[LabelStudioError | LabelStudioModelVersion]
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
    body: LabelStudioSetupRequest,
) -> LabelStudioError | LabelStudioModelVersion | None:
    """Check a project's configuration

     Checks the label configuration and remembers `extra_params`. The fields `hostname` and
    `access_token` are ignored: images are fetched from `INFERENCE_LABEL_STUDIO_URL`.

    Args:
        body (LabelStudioSetupRequest): A project's configuration, which Label Studio sends before
            batches.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        LabelStudioError | LabelStudioModelVersion
    """

    return sync_detailed(
        client=client,
        body=body,
    ).parsed


async def asyncio_detailed(
    *,
    client: AuthenticatedClient,
    body: LabelStudioSetupRequest,
) -> Response[LabelStudioError | LabelStudioModelVersion]:
    """Check a project's configuration

     Checks the label configuration and remembers `extra_params`. The fields `hostname` and
    `access_token` are ignored: images are fetched from `INFERENCE_LABEL_STUDIO_URL`.

    Args:
        body (LabelStudioSetupRequest): A project's configuration, which Label Studio sends before
            batches.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[LabelStudioError | LabelStudioModelVersion]
    """

    kwargs = _get_kwargs(
        body=body,
    )

    response = await client.get_async_httpx_client().request(**kwargs)

    return _build_response(client=client, response=response)


async def asyncio(
    *,
    client: AuthenticatedClient,
    body: LabelStudioSetupRequest,
) -> LabelStudioError | LabelStudioModelVersion | None:
    """Check a project's configuration

     Checks the label configuration and remembers `extra_params`. The fields `hostname` and
    `access_token` are ignored: images are fetched from `INFERENCE_LABEL_STUDIO_URL`.

    Args:
        body (LabelStudioSetupRequest): A project's configuration, which Label Studio sends before
            batches.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        LabelStudioError | LabelStudioModelVersion
    """

    return (
        await asyncio_detailed(
            client=client,
            body=body,
        )
    ).parsed
