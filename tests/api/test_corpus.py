"""A server answers every file of the corpus of hostile images, and keeps working."""

from __future__ import annotations

from schemas.common import ErrorMessage
from tests.api.pictures import Picture, in_base64
from tests.api.rasters import TEXT, post
from tests.api.serving import SAM2_EMBED, RunningHere
from tests.fuzz import TIMES
from tests.images.hostile_files import corpus, seeds
from tests.waiting import until

FILES = [(name, data) for name, data in corpus().items() if len(data) < 1 << 20]
SOME = FILES if TIMES > 1 else FILES[::6]


def test_every_file_is_answered(server: RunningHere, picture: Picture) -> None:
    statuses = []
    for name, data in SOME:
        response = server.post(SAM2_EMBED, {"image": in_base64(data)})
        assert response.status_code in (200, 400, 413), (name, response.text)
        statuses.append(response.status_code)
        if response.status_code != 200:
            message = ErrorMessage.model_validate(response.json()).message
            assert message.startswith("Could not load input image. Cause: "), name
    assert len(statuses) > 250
    assert {statuses.count(status) > 5 for status in (200, 400, 413)} == {True}
    # All memory is released, and the next request is served.
    until(lambda: server.state.bodies.nbytes == 0)
    assert len(server.concept(picture.sent, "red circle")[0]) == 2


def test_every_kind_of_file_in_a_form(server: RunningHere) -> None:
    for name, data in [*seeds().items(), *FILES[::40]]:
        response = post(server, TEXT, data, prompt="circle")
        assert response.status_code in (200, 400, 404, 413), (name, response.text)
        if name in seeds():
            assert response.status_code in (200, 404)
    until(lambda: server.state.uploads.nbytes == 0)
