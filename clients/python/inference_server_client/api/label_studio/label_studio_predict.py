from http import HTTPStatus
from typing import Any

import httpx

from ... import errors
from ...client import AuthenticatedClient, Client
from ...models.label_studio_error import LabelStudioError
from ...models.label_studio_predict_request import LabelStudioPredictRequest
from ...models.label_studio_predict_response import LabelStudioPredictResponse
from ...types import Response


def _get_kwargs(
    *,
    body: LabelStudioPredictRequest,
) -> dict[str, Any]:
    headers: dict[str, Any] = {}

    _kwargs: dict[str, Any] = {
        "method": "post",
        "url": "/label-studio/predict",
    }

    _kwargs["json"] = body.to_dict()

    headers["Content-Type"] = "application/json"

    _kwargs["headers"] = headers
    return _kwargs


def _parse_response(
    *, client: AuthenticatedClient | Client, response: httpx.Response
) -> LabelStudioError | LabelStudioPredictResponse | None:
    if response.status_code == 200:
        response_200 = LabelStudioPredictResponse.from_dict(response.json())

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
) -> Response[LabelStudioError | LabelStudioPredictResponse]:
    return Response(
        status_code=HTTPStatus(response.status_code),
        content=response.content,
        headers=response.headers,
        parsed=_parse_response(client=client, response=response),
    )


def sync_detailed(
    *,
    client: AuthenticatedClient,
    body: LabelStudioPredictRequest,
) -> Response[LabelStudioError | LabelStudioPredictResponse]:
    """Predict tasks, or one task by the user's prompts

     Without a `context`, the labels of the control are the concepts (SAM 3), and every task is answered:
    a failed one without regions, or only the first task if all would take too long. With a `context`,
    its points and rectangles select objects (SAM 3's visual head, or SAM 2), and words and exemplars
    find all instances of a concept.

    Args:
        body (LabelStudioPredictRequest): Tasks to predict: a batch, or one task with the user's
            prompts.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[LabelStudioError | LabelStudioPredictResponse]
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
    body: LabelStudioPredictRequest,
) -> LabelStudioError | LabelStudioPredictResponse | None:
    """Predict tasks, or one task by the user's prompts

     Without a `context`, the labels of the control are the concepts (SAM 3), and every task is answered:
    a failed one without regions, or only the first task if all would take too long. With a `context`,
    its points and rectangles select objects (SAM 3's visual head, or SAM 2), and words and exemplars
    find all instances of a concept.

    Args:
        body (LabelStudioPredictRequest): Tasks to predict: a batch, or one task with the user's
            prompts.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        LabelStudioError | LabelStudioPredictResponse
    """

    return sync_detailed(
        client=client,
        body=body,
    ).parsed


async def asyncio_detailed(
    *,
    client: AuthenticatedClient,
    body: LabelStudioPredictRequest,
) -> Response[LabelStudioError | LabelStudioPredictResponse]:
    """Predict tasks, or one task by the user's prompts

     Without a `context`, the labels of the control are the concepts (SAM 3), and every task is answered:
    a failed one without regions, or only the first task if all would take too long. With a `context`,
    its points and rectangles select objects (SAM 3's visual head, or SAM 2), and words and exemplars
    find all instances of a concept.

    Args:
        body (LabelStudioPredictRequest): Tasks to predict: a batch, or one task with the user's
            prompts.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[LabelStudioError | LabelStudioPredictResponse]
    """

    kwargs = _get_kwargs(
        body=body,
    )

    response = await client.get_async_httpx_client().request(**kwargs)

    return _build_response(client=client, response=response)


async def asyncio(
    *,
    client: AuthenticatedClient,
    body: LabelStudioPredictRequest,
) -> LabelStudioError | LabelStudioPredictResponse | None:
    """Predict tasks, or one task by the user's prompts

     Without a `context`, the labels of the control are the concepts (SAM 3), and every task is answered:
    a failed one without regions, or only the first task if all would take too long. With a `context`,
    its points and rectangles select objects (SAM 3's visual head, or SAM 2), and words and exemplars
    find all instances of a concept.

    Args:
        body (LabelStudioPredictRequest): Tasks to predict: a batch, or one task with the user's
            prompts.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        LabelStudioError | LabelStudioPredictResponse
    """

    return (
        await asyncio_detailed(
            client=client,
            body=body,
        )
    ).parsed
