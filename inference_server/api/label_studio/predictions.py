"""Predictions of tasks: in batches by the names of labels, and one by one by the user's prompts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from inference_server.api.label_studio.config import Control
from inference_server.api.label_studio.images import Size, TaskImages
from inference_server.api.label_studio.parameters import parameters_of
from inference_server.api.label_studio.projects import Project
from inference_server.api.label_studio.prompts import (
    Interaction,
    concept_prompts,
    label_of,
    label_words,
    visual_options,
    work_of,
)
from inference_server.api.label_studio.results import Prediction, empty, failed, prediction
from inference_server.auth import Work
from inference_server.errors import InferenceServerError, MemoryShortageError
from inference_server.jobs.task import TaskContext
from inference_server.observability.metrics import Timings
from inference_server.segmentation.postprocess import suppress_overlaps
from inference_server.segmentation.types import (
    ConceptOptions,
    ConceptPrompt,
    EncodedImage,
    ImageRef,
    Instance,
)
from inference_server.settings import MiB
from schemas.label_studio import LabelStudioParameters, LabelStudioTask

logger = logging.getLogger(__name__)

Found = tuple[Sequence[tuple[Instance, str]], EncodedImage]


@dataclass(frozen=True, slots=True)
class Predictor:
    """Predicts tasks of one project.

    Attributes:
        context: provides the segmentation service, settings and limits.
        images: loads images of tasks.
        tenant: name of the images' owner.
        project: the project.
        timings: receives the duration of each step.
    """

    context: TaskContext
    images: TaskImages
    tenant: str
    project: Project
    timings: Timings

    def _parameters(self, *controls: Control | None) -> LabelStudioParameters:
        return parameters_of(self.project.extra, controls, self.context.limits)

    def _output(self, image: str | None, prompt: Control | None) -> Control:
        """Return the control that gets the results of a prompt."""
        config = self.project.config
        first = config.output(image)
        return config.output(image, self._parameters(first, prompt).output)

    def batch(self) -> Batch:
        """Prepare a batch, whose prompts are the names of the labels.

        Raises:
            PromptError: the configuration has no control for masks, or too many labels.
        """
        output = self._output(None, None)
        parameters = self._parameters(output)
        limits = self.context.limits
        words = label_words(output, self.context.settings.label_studio_max_words)
        return Batch(self, output, parameters, words, concept_prompts(words, parameters, limits))

    async def concepts(
        self,
        image: ImageRef,
        prompts: Sequence[ConceptPrompt],
        labels: Sequence[str],
        parameters: LabelStudioParameters,
    ) -> Found:
        """Find concepts, a limited number of them at a time, and remove duplicates."""
        step = self.context.limits.max_prompts
        results = []
        found: list[tuple[Instance, str]] = []
        for start in range(0, len(prompts), step):
            result = await self.context.segmenter.concept(
                self.tenant,
                image,
                prompts[start : start + step],
                ConceptOptions(),
                timings=self.timings,
            )
            results.append(result.image)
            found += [(each, labels[start + each.prompt]) for each in result.instances]

        def best() -> list[tuple[Instance, str]]:
            kept = suppress_overlaps([each for each, _ in found], parameters.nms_iou_threshold)
            label = {id(each): name for each, name in found}
            return sorted(
                ((each, label[id(each)]) for each in kept), key=lambda pair: -pair[0].score
            )

        return await self.context.segmenter.in_thread(best), EncodedImage.joined(results)

    async def render(
        self,
        found: Sequence[tuple[Instance, str]],
        output: Control,
        parameters: LabelStudioParameters,
    ) -> Prediction:
        """Render a prediction in a worker thread."""
        most = self.context.settings.label_studio_max_regions

        def work() -> Prediction:
            with self.timings.measure("serialise"):
                return prediction(
                    found,
                    output,
                    self.project.version,
                    epsilon=parameters.simplify_epsilon,
                    most=most,
                )

        return await self.context.segmenter.in_thread(work)

    async def interactive(
        self, task: LabelStudioTask, chosen: Sequence[Interaction], prompt: Control | None
    ) -> tuple[dict[str, Any], EncodedImage | None]:
        """Predict a task by the user's prompts.

        Args:
            task: the task.
            chosen: the prompts by label.
            prompt: the control of the prompts; None if it is not told.

        Returns:
            The prediction, and the image; None if the prompts select nothing.

        Raises:
            PromptError: the configuration has no control for masks.
            InferenceServerError: the image cannot be loaded, or the model cannot be used now.
        """
        output = self._output(prompt.image if prompt else None, prompt)
        parameters = self._parameters(output, prompt)
        column = self.project.config.images[output.image]

        async def segment(image: ImageRef, size: Size) -> Found | None:
            found: list[tuple[Instance, str]] = []
            images: list[EncodedImage] = []
            for one in chosen:
                answer = await self._answer(one, output, parameters, image, size)
                if answer is not None:
                    found += answer[0]
                    images.append(answer[1])
            return (found, EncodedImage.joined(images)) if images else None

        answer = await self.images.use(
            self.context.segmenter, self.tenant, task, column, segment, self.timings
        )
        if answer is None:
            return empty(self.project.version), None
        rendered = await self.render(answer[0], output, parameters)
        return rendered.body, answer[1]

    async def _answer(
        self,
        one: Interaction,
        output: Control,
        parameters: LabelStudioParameters,
        image: ImageRef,
        size: Size,
    ) -> Found | None:
        """Answer the prompts of one label; None if they select nothing."""
        kind = one.kind(parameters.box)
        if kind == "concept":
            # A configuration may have thousands of labels to compare each word with.
            labels = await self.context.segmenter.in_thread(
                lambda: [label_of(output, word, one.label) for word in one.words]
            )
            words = list(zip(labels, one.words, strict=True))
            prompts = concept_prompts(words, parameters, self.context.limits)
            return await self.concepts(image, prompts, labels, parameters)
        label = label_of(output, None, one.label)
        if kind == "exemplar":
            examples = one.exemplars(size, parameters)
            return await self.concepts(image, [examples], [label], parameters)
        objects = one.objects(size)
        if not objects:
            return None
        result = await self.context.segmenter.visual(
            self.tenant, image, objects, visual_options(objects), timings=self.timings
        )
        return [(each, label) for each in result.instances], result.image

    def work(self, chosen: Sequence[Interaction], prompt: Control | None) -> list[Work]:
        """Return the kinds of work that the user's prompts ask for; none if they select nothing.

        Args:
            chosen: the prompts by label.
            prompt: the control of the prompts; None if it is not told.

        Raises:
            PromptError: there are too many prompts, or the configuration has no control for masks.
        """
        output = self._output(prompt.image if prompt else None, prompt)
        return work_of(chosen, self._parameters(output, prompt).box, self.context.limits)


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of tasks of one project, whose prompts are the names of the labels.

    Attributes:
        predictor: predicts tasks.
        output: the control that gets the results.
        parameters: the backend's parameters.
        words: (label, words).
        prompts: one concept per label and words.
    """

    predictor: Predictor
    output: Control
    parameters: LabelStudioParameters
    words: Sequence[tuple[str, str]]
    prompts: Sequence[ConceptPrompt]

    async def run(self, tasks: Sequence[LabelStudioTask]) -> tuple[list[dict[str, Any]], int]:
        """Predict all tasks, or only the first if all would take too long.

        Label Studio takes one result for several tasks as a sign to send them one by one.

        Args:
            tasks: at least one task.

        Returns:
            The predictions, and how many of them failed.
        """
        settings = self.predictor.context.settings
        loop = asyncio.get_running_loop()
        state = _Progress(
            len(tasks),
            min(settings.label_studio_batch_tasks, len(tasks)),
            settings.label_studio_batch_seconds,
            settings.label_studio_batch_mb * MiB,
            loop.time(),
        )
        results: list[Prediction | None] = [None] * len(tasks)
        bodies: list[dict[str, Any]] = [{}] * len(tasks)
        first_done, too_large = asyncio.Event(), asyncio.Event()

        async def work(indices: Iterator[int]) -> None:
            for index in indices:
                results[index] = done = await self._one(tasks[index])
                bodies[index] = failed(self.predictor.project.version) if not done else done.body
                if index == 0:
                    first_done.set()
                if state.count(done.nbytes if done else 0, loop.time()):
                    too_large.set()

        order = iter(range(len(tasks)))
        workers = [asyncio.create_task(work(order)) for _ in range(state.workers)]
        every = asyncio.gather(*workers)
        waiting = asyncio.ensure_future(too_large.wait())
        try:
            ends: list[asyncio.Future[Any]] = [every, waiting]
            await asyncio.wait(
                ends,
                timeout=state.seconds if len(tasks) > 1 else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if every.done():
                every.result()
            if state.done < len(tasks):
                # The first worker has the first task; the others are not answered.
                for each in workers[1:]:
                    each.cancel()
                await first_done.wait()
                logger.info(
                    "A batch of %d tasks of Label Studio would exceed "
                    "INFERENCE_LABEL_STUDIO_BATCH_SECONDS or INFERENCE_LABEL_STUDIO_BATCH_MB; "
                    "only the first is answered, so that it sends one at a time",
                    len(tasks),
                )
                bodies, results = bodies[:1], results[:1]
        finally:
            waiting.cancel()
            for each in workers:
                each.cancel()
            await asyncio.gather(every, waiting, *workers, return_exceptions=True)
        return bodies, sum(each is None for each in results)

    async def _one(self, task: LabelStudioTask) -> Prediction | None:
        """Predict a task; None if that fails, which is logged."""
        predictor = self.predictor
        column = predictor.project.config.images[self.output.image]

        async def segment(image: ImageRef, size: Size) -> Found:
            del size
            labels = [label for label, _ in self.words]
            return await predictor.concepts(image, self.prompts, labels, self.parameters)

        try:
            found, _ = await predictor.images.use(
                predictor.context.segmenter,
                predictor.tenant,
                task,
                column,
                segment,
                predictor.timings,
            )
            return await predictor.render(found, self.output, self.parameters)
        except MemoryError:
            await predictor.context.segmenter.evict_half()
            message = MemoryShortageError.of_request().message
        except InferenceServerError as error:
            message = error.message
        except Exception:
            logger.exception("Task %s of Label Studio failed", task.id)
            return None
        logger.warning("Task %s of Label Studio failed: %s", task.id, message)
        return None


@dataclass(slots=True)
class _Progress:
    """Decides whether a batch can be answered in one response.

    Attributes:
        tasks: number of tasks.
        workers: number of tasks in progress.
        seconds: maximum duration of the batch.
        max_bytes: maximum bytes of the regions.
        begin: when the batch began, in seconds.
        done: number of predicted tasks.
        nbytes: bytes of their regions.
    """

    tasks: int
    workers: int
    seconds: float
    max_bytes: int
    begin: float
    done: int = 0
    nbytes: int = 0

    def count(self, nbytes: int, now: float) -> bool:
        """Count a predicted task, and tell whether the batch is too large to go on.

        Args:
            nbytes: bytes of its regions.
            now: time in seconds.
        """
        self.done += 1
        self.nbytes += nbytes
        if self.tasks == 1:
            return False
        # From the first tasks, in progress together, the rest can be foretold.
        foretold = (now - self.begin) / self.done * self.tasks
        late = self.done >= self.workers and foretold > self.seconds
        return self.done < self.tasks and (late or self.nbytes > self.max_bytes)
