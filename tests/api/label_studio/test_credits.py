"""Credits of Label Studio's requests: each task that is answered costs one request."""

from __future__ import annotations

from tests.api.label_studio.projects import PREDICT, body, config, data_url, point, task, words
from tests.api.pictures import Picture
from tests.api.stored_keys import Keyed
from tests.waiting import until

RED = "red circle"


def test_tasks_that_fail_cost_nothing(running: Keyed, picture: Picture) -> None:
    key, made = running.create("label studio", credits=20)
    image = data_url(picture.data)
    for tasks, context, left in (
        ([task(1, image), task(2, None), task(3, image)], None, 16),
        ([task(1, None)], None, 16),
        ([task(1, image)], {"result": [words(RED)]}, 14),
        ([task(1, image)], {"result": [point(9, 9, RED)]}, 11),
        ([task(1, image)], {"result": [point(9, 9, RED, positive=False)]}, 11),
        # Words, and a point of another label: two kinds of work.
        ([task(1, image)], {"result": [words(RED), point(9, 9, RED)]}, 6),
        ([task(1, image)], {"event": "capabilities"}, 6),
    ):
        response = running.server.post(PREDICT, body(tasks, config(RED), context), key=key)
        assert response.status_code == 200, response.text
        if context is None or "result" in context:
            assert response.headers["x-credits-remaining"] == str(left)
        until(lambda left=left: running.credits_left(made) == left)  # type: ignore[misc]
    tasks = [task(number, image) for number in range(6)]
    response = running.server.post(PREDICT, body(tasks, config(RED)), key=key)
    assert response.status_code == 402
    assert "credits" in response.json()["detail"]
    assert running.credits_left(made) == 6
