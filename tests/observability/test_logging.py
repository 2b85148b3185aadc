"""Log lines: formats, handlers, and the request id of each line."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr

import pytest

from inference_server.engines.batch_queue import BatchQueue
from inference_server.executor import Threads
from inference_server.observability.logging import _Handler, _Json, _Text, about, configure_logging
from inference_server.settings import Settings

logger = logging.getLogger("inference_server.tests")


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    """Captured standard error; restores the loggers afterwards."""
    stream = io.StringIO()
    names = ("inference_server", "uvicorn", "uvicorn.error", "uvicorn.access", "httpx")
    loggers = [*map(logging.getLogger, names)]
    before = [(each, list(each.handlers), each.level, each.propagate) for each in loggers]
    try:
        yield stream
    finally:
        logging.captureWarnings(False)
        logging.getLogger().handlers.clear()  # pytest adds its own for every phase of a test
        for each, handlers, level, propagate in before:
            each.handlers[:] = handlers
            each.setLevel(level)
            each.propagate = propagate


def configure(output: io.StringIO, form: str) -> logging.Logger:
    """Configure logging as in a new process; return the root logger."""
    root = logging.getLogger()
    root.handlers.clear()
    with redirect_stderr(output):
        configure_logging(Settings(log_format=form))
    return root


def lines(output: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


class TestJson:
    def test_a_line_is_an_object(self, output: io.StringIO) -> None:
        configure(output, "json")
        with about(request_id="abc", trace_id=""):
            logger.warning("%d\nwords", 2, extra={"route": "/x", "marks": " route=/x"})
        logger.debug("not at this level")
        (line,) = lines(output)
        assert re.fullmatch(
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", str(line.pop("timestamp"))
        )
        assert line == {
            "level": "WARNING",
            "logger": "inference_server.tests",
            "message": "2\nwords",
            "route": "/x",
            "request_id": "abc",
        }

    def test_an_exception_is_in_its_line(self, output: io.StringIO) -> None:
        configure(output, "json")
        try:
            raise ValueError("it broke")
        except ValueError:
            logger.exception("Ouch")
        (line,) = lines(output)
        assert str(line["exc_info"]).endswith("ValueError: it broke")

    def test_uvicorn_and_libraries_use_the_same_handler(self, output: io.StringIO) -> None:
        uvicorn = logging.getLogger("uvicorn")
        uvicorn.addHandler(logging.StreamHandler(output))
        uvicorn.propagate = False
        configure(output, "json")
        logging.getLogger("uvicorn.error").error("Oh", extra={"color_message": "\x1b[31mOh"})
        access = logging.getLogger("uvicorn.access")
        access.setLevel(logging.INFO)
        access.info('%s - "%s %s HTTP/%s" %d', "me:1", "GET", "/x?api_key=s3cret", "1.1", 200)
        logging.getLogger("somebody").warning("Beware")
        logging.getLogger("somebody").info("chatter")
        found = [(line["logger"], line["message"]) for line in lines(output)]
        assert found == [
            ("uvicorn.error", "Oh"),
            ("uvicorn.access", 'me:1 - "GET /x HTTP/1.1" 200'),
            ("somebody", "Beware"),
        ]
        assert "color_message" not in output.getvalue()

    def test_configuring_twice_does_not_duplicate_lines(self, output: io.StringIO) -> None:
        root = configure(output, "text")
        with redirect_stderr(output):
            configure_logging(Settings(log_format="json"))
        logger.warning("once")
        assert len(lines(output)) == len(root.handlers) == 1


class TestText:
    def test_a_line_is_readable(self, output: io.StringIO) -> None:
        configure(output, "text")
        with about(request_id="abc"), about(job_id="d"):
            logger.warning("words", extra={"marks": " in=3"})
        logger.warning("more")
        first, second = output.getvalue().splitlines()
        assert first.endswith("WARNING inference_server.tests: words in=3 request_id=abc job_id=d")
        assert second.endswith("inference_server.tests: more")

    @pytest.mark.parametrize(
        ("form", "terminal", "text"),
        [
            ("auto", True, True),
            ("auto", False, False),
            ("text", False, True),
            ("json", True, False),
        ],
    )
    def test_is_what_a_terminal_gets(
        self, output: io.StringIO, form: str, terminal: bool, text: bool
    ) -> None:
        output.isatty = lambda: terminal  # type: ignore[method-assign]
        root = configure(output, form)
        assert isinstance(root.handlers[0].formatter, _Text if text else _Json)


def test_handlers_of_a_program_around_the_server_stay(output: io.StringIO) -> None:
    own = logging.StreamHandler(output)
    root = logging.getLogger()
    root.handlers[:] = [own]
    configure_logging(Settings())
    assert root.handlers == [own]
    assert not any(isinstance(h, _Handler) for h in logging.getLogger("uvicorn").handlers)


@pytest.mark.anyio
class TestAbout:
    async def test_tasks_and_worker_threads_know_the_request(self, output: io.StringIO) -> None:
        configure(output, "json")
        threads = Threads(1)

        def work() -> None:
            logger.warning("in a thread")

        async def request(name: str) -> None:
            with about(request_id=name):
                await asyncio.sleep(0)
                await threads.run(work)
                await threads.run_in_background(work)
                await asyncio.create_task(asyncio.to_thread(work))

        try:
            await asyncio.gather(*map(request, "abc"))
            await threads.run(work)
        finally:
            threads.close()
        found = [line.get("request_id") for line in lines(output)]
        assert sorted(map(str, found)) == sorted([*"aaabbbccc", "None"])

    async def test_a_queue_knows_the_request_of_a_batch_of_one(self, output: io.StringIO) -> None:
        configure(output, "json")

        def work(items: Sequence[int]) -> Sequence[int]:
            logger.warning("%s", sorted(items))
            return items

        lane = BatchQueue("test", work, max_batch=4, capacity=8)

        async def submit(name: str, *items: int) -> None:
            with about(request_id=name):
                await lane.submit_all(items)

        try:
            await submit("alone", 1, 2)
            await asyncio.gather(submit("one", 3), submit("other", 4))
        finally:
            lane.close()
        found = {str(line["message"]): line.get("request_id") for line in lines(output)}
        assert found == {"[1, 2]": "alone", "[3, 4]": None}
