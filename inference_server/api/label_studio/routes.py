"""The endpoints that Label Studio calls: health, setup, predict, webhook, versions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from inference_server.api.dependencies import (
    authenticate,
    charge,
    limits_of,
    read_with,
    refund,
    state_of,
    timings_of,
)
from inference_server.api.headers import RESULT_HEADERS
from inference_server.api.label_studio.errors import ERRORS, logged
from inference_server.api.label_studio.images import TaskImages
from inference_server.api.label_studio.keys import with_basic_user
from inference_server.api.label_studio.predictions import Predictor
from inference_server.api.label_studio.projects import Projects
from inference_server.api.label_studio.prompts import interactions
from inference_server.api.label_studio.results import capabilities, empty
from inference_server.api.openapi import SCOPE_ERRORS, Answer, Operation
from inference_server.api.responses import respond
from inference_server.auth import Work
from inference_server.errors import ModelUnavailableError, PromptError
from inference_server.settings import Settings
from schemas.label_studio import (
    LabelStudioContext,
    LabelStudioHealth,
    LabelStudioModelVersion,
    LabelStudioPredictRequest,
    LabelStudioPredictResponse,
    LabelStudioReceived,
    LabelStudioSetupRequest,
    LabelStudioVersions,
)


@dataclass(frozen=True, slots=True)
class Backend:
    """What the endpoints remember between requests.

    Attributes:
        images: images of tasks.
        projects: parameters of projects.
    """

    images: TaskImages
    projects: Projects

    @classmethod
    def of(cls, settings: Settings) -> Backend:
        """Make the backend of a server."""
        return cls(TaskImages(settings), Projects(settings, limits_of(settings)))


def _backend(request: Request) -> Backend:
    backend: Backend = request.app.state.label_studio
    return backend


async def health(request: Request) -> Response:
    """Tell that the backend is up, and that the key is right."""
    request = with_basic_user(request)
    authenticate(request)
    catalog = state_of(request).segmenter.catalog
    return JSONResponse({"status": "UP", "model_class": catalog.label(catalog.concept(None))})


async def setup(request: Request) -> Response:
    """Check a project's configuration, and return the version of its predictions."""
    request = with_basic_user(request)
    state = state_of(request)
    validate = partial(LabelStudioSetupRequest.model_validate, context=state.limits)
    key, body = await read_with(request, validate)
    project = await _backend(request).projects.set_up(
        state.segmenter, key.tenant.name, body.project, body.label_config, body.extra_params
    )
    return JSONResponse({"model_version": project.version})


async def predict(request: Request) -> Response:
    """Predict tasks."""
    request = with_basic_user(request)
    state = state_of(request)
    validate = partial(LabelStudioPredictRequest.model_validate, context=state.limits)
    values = "label_studio_max_json_values", state.settings.label_studio_max_json_values
    key, body = await read_with(request, validate, max_values=values)
    tenant, backend = key.tenant.name, _backend(request)
    most = state.settings.label_studio_max_tasks
    if len(body.tasks) > most:
        raise PromptError(
            f"The request has {len(body.tasks)} tasks; at most {most} are accepted. Select fewer, "
            "or raise INFERENCE_LABEL_STUDIO_MAX_TASKS on the server."
        )
    project = await backend.projects.find(state.segmenter, tenant, body.project, body.label_config)
    predictor = Predictor(state.task_context, backend.images, tenant, project, timings_of(request))
    context = body.params.context
    if context is not None and context.event is not None:
        return _event(request, context.event, project.version)
    if context is not None:
        return await _interactive(request, body, context, predictor)
    if not body.tasks:
        return JSONResponse({"results": []})
    batch = predictor.batch()
    await charge(request, ["concept"] * len(body.tasks))
    results, failures = await batch.run(body.tasks)
    undone: list[Work] = ["concept"] * (len(body.tasks) - len(results) + failures)
    await refund(request, undone)
    return await respond(request, None, lambda: {"results": results})


async def _interactive(
    request: Request,
    body: LabelStudioPredictRequest,
    context: LabelStudioContext,
    predictor: Predictor,
) -> Response:
    """Predict a task by the user's prompts; a failure is an error, as there is only one task."""
    chosen = interactions(context.result, predictor.context.limits)
    if not chosen or not body.tasks:
        return JSONResponse({"results": [empty(predictor.project.version)]})
    config = predictor.project.config
    prompt = next(
        (found for item in context.result if (found := config.control(item.from_name))), None
    )
    # Negative prompts alone need credits too, which they get back.
    work: list[Work] = predictor.work(chosen, prompt) or ["visual"]
    await charge(request, work)
    result, image = await predictor.interactive(body.tasks[0], chosen, prompt)
    if image is None:
        await refund(request, work)
    return await respond(request, image, lambda: {"results": [result]})


def _event(request: Request, event: str, version: str) -> Response:
    """Answer an event of the editor; unknown ones have an empty result."""
    result = empty(version)
    if event == "capabilities":
        catalog = state_of(request).segmenter.catalog
        try:
            model = catalog.label(catalog.visual(None))
        except ModelUnavailableError:
            model = catalog.label(catalog.concept(None))
        result["result"] = [{"value": capabilities(model)}]
    return JSONResponse({"results": [result]})


async def webhook(request: Request) -> Response:
    """Acknowledge an event of a project; nothing is trained, and the body is not read."""
    del request
    return JSONResponse({"result": None, "status": "ok"}, 201)


async def versions(request: Request) -> Response:
    """List the versions of the predictions that the key's projects get now."""
    request = with_basic_user(request)
    key = authenticate(request)
    return JSONResponse({"versions": _backend(request).projects.versions(key.tenant.name)})


_KEY_ERRORS = {status: ERRORS[status] for status in SCOPE_ERRORS}

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "get",
        "/label-studio/health",
        "labelStudioHealth",
        "Tell whether the ML backend is up",
        "Label Studio calls it before `/setup`, and reports a wrong key to its user.",
        ("Label Studio",),
        health,
        {200: Answer("The backend is up.", LabelStudioHealth), **_KEY_ERRORS},
    ),
    Operation(
        "post",
        "/label-studio/setup",
        "labelStudioSetup",
        "Check a project's configuration",
        "Checks the label configuration and remembers `extra_params`. The fields `hostname` and "
        "`access_token` are ignored: images are fetched from `INFERENCE_LABEL_STUDIO_URL`.",
        ("Label Studio",),
        logged(setup),
        {200: Answer("The configuration is usable.", LabelStudioModelVersion), **ERRORS},
        request=LabelStudioSetupRequest,
    ),
    Operation(
        "post",
        "/label-studio/predict",
        "labelStudioPredict",
        "Predict tasks, or one task by the user's prompts",
        "Without a `context`, the labels of the control are the concepts (SAM 3), and every task "
        "is answered: a failed one without regions, or only the first task if all would take too "
        "long. With a `context`, its points and rectangles select objects (SAM 3's visual head, or "
        "SAM 2), and words and exemplars find all instances of a concept.",
        ("Label Studio",),
        logged(predict),
        {
            200: Answer("The predictions.", LabelStudioPredictResponse, headers=RESULT_HEADERS),
            **ERRORS,
        },
        request=LabelStudioPredictRequest,
    ),
    Operation(
        "post",
        "/label-studio/webhook",
        "labelStudioWebhook",
        "Acknowledge an event of a project",
        "Label Studio sends it without credentials. The body is ignored.",
        ("Label Studio",),
        webhook,
        {201: Answer("The event was received.", LabelStudioReceived)},
        secured=False,
    ),
    Operation(
        "get",
        "/label-studio/versions",
        "labelStudioVersions",
        "List the versions of predictions",
        "The versions that `/setup` returned for the key's projects.",
        ("Label Studio",),
        versions,
        {200: Answer("The versions.", LabelStudioVersions), **_KEY_ERRORS},
    ),
)
