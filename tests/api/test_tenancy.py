"""No tenant can use or detect the images, saved logits, jobs and results of another tenant.

The two keys of one tenant share all of them.
"""

from __future__ import annotations

import base64
import io
import itertools
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.api.pictures import Picture, click, noise
from tests.api.serving import ALICE, CONCEPT, SAM2_EMBED, SAM3_EMBED, VISUAL, steps, until
from tests.api.stored_keys import Keyed

SEGMIND = "/v2/sam3-image"

UNSEEN = itertools.count(20_000)
"""Seeds of images that no other test sends."""


@pytest.fixture(scope="module")
def victim(running: Keyed) -> str:
    """A key of the tenant `acme`."""
    return running.create("victim", tenant="acme")[0]


@pytest.fixture(scope="module")
def colleague(running: Keyed) -> str:
    """Another key of the tenant `acme`."""
    return running.create("colleague", tenant="acme")[0]


@pytest.fixture(
    params=["own tenant", "other tenant", "named as the key", "of the settings", "admin"]
)
def attacker(request: pytest.FixtureRequest, running: Keyed, victim: str) -> str:
    """A key of another tenant, which resembles the victim's in some way."""
    key_id = victim.split("_")[1]
    if request.param == "of the settings":
        return ALICE
    options: dict[str, dict[str, Any]] = {
        "own tenant": {},
        "other tenant": {"tenant": "Acme"},
        "named as the key": {"tenant": key_id},
        "admin": {"tenant": "acme.", "scopes": ("segment", "admin")},
    }
    return running.create("acme", **options[request.param])[0]


def test_guessed_image_ids(running: Keyed, victim: str, colleague: str, attacker: str) -> None:
    server, image = running.server, noise(20)
    for path in (SAM3_EMBED, VISUAL):
        body = {"image": image, "image_id": "secret-plan"}
        assert server.post(path, body, key=victim).status_code == 200
    asks: list[tuple[str, dict[str, Any]]] = [
        (VISUAL, {}),
        (CONCEPT, {"prompts": [{"text": "x"}]}),
        (SAM3_EMBED, {}),
        (SAM2_EMBED, {}),
        ("/sam2/segment_image", {}),
        (VISUAL, {"load_logits_from_cache": True}),
    ]
    for path, fields in asks:
        asked = {"image_id": "secret-plan", **fields}
        refused = server.post(path, asked, key=attacker)
        unknown = server.post(path, {**asked, "image_id": "there-is-none"}, key=attacker)
        assert refused.status_code == unknown.status_code == 404
        # The response is the same as for an id that no tenant uses.
        assert refused.text.replace("secret-plan", "") == unknown.text.replace("there-is-none", "")
        assert server.post(path, asked, key=colleague).status_code == 200


def test_an_id_of_another_tenant_cannot_be_overwritten(
    running: Keyed, victim: str, colleague: str, attacker: str, picture: Picture
) -> None:
    """Each tenant's requests use its own image."""
    server, item = running.server, picture.scene.objects[0]
    asked = {"prompts": [click(item)], "format": "rle"}
    name = {"image_id": "poisoned"}
    mine = server.answer(VISUAL, victim, image=picture.sent, **name, **asked)["predictions"]
    stolen = server.post(VISUAL, {"image": noise(21), **name, **asked}, key=attacker)
    assert stolen.status_code == 200
    assert "x-image-mismatch" not in stolen.headers
    for key in (victim, colleague):
        assert server.answer(VISUAL, key, **name, **asked)["predictions"] == mine
    colleagues = server.post(VISUAL, {"image": noise(21), **name, **asked}, key=colleague)
    assert colleagues.headers["x-image-mismatch"] == "true"


def test_headers_do_not_reveal_images_of_other_tenants(
    running: Keyed, victim: str, colleague: str, attacker: str
) -> None:
    """The same bytes are encoded again for another tenant, so the duration reveals nothing."""
    server = running.server
    asks: list[tuple[str, dict[str, Any]]] = [
        (VISUAL, {}),
        (CONCEPT, {"prompts": [{"text": "circle"}]}),
        (SAM2_EMBED, {}),
    ]
    for path, body in asks:
        image = {"image": noise(next(UNSEEN))}
        assert server.post(path, {**image, **body}, key=victim).status_code == 200
        shared = server.post(path, {**image, **body}, key=colleague)
        assert shared.headers["x-embedding-cache"] == "hit"
        assert "encode" not in steps(shared)
        probe = server.post(path, {**image, **body}, key=attacker)
        assert probe.headers["x-embedding-cache"] == "miss"
        assert "encode" in steps(probe)


def test_uploads_belong_to_their_tenant(
    running: Keyed, victim: str, colleague: str, attacker: str
) -> None:
    server = running.server
    data = base64.b64decode(noise(next(UNSEEN))["value"].split(",")[-1])

    def cache(key: str) -> str:
        answer = server.http.post(
            "/segment/automatic",
            files={"file": ("a.png", data)},
            data={"points_per_side": "2"},
            headers={"x-api-key": key},
        )
        assert answer.status_code == 200
        return str(answer.headers["x-embedding-cache"])

    assert [cache(key) for key in (victim, colleague, attacker)] == ["miss", "hit", "miss"]


def test_saved_logits_belong_to_their_tenant(
    running: Keyed, victim: str, colleague: str, attacker: str, picture: Picture
) -> None:
    """A second click gives another mask with the first one's logits than without."""
    server, (one, other) = running.server, picture.scene.objects[:2]
    first, second = click(one), click(other)
    both = {"points": first["points"] + second["points"]}
    base = {"image": picture.sent, "format": "binary", "multimask_output": False}

    def low_res(key: str, prompt: Any, **fields: Any) -> NDArray[np.float32]:
        answer = server.post(VISUAL, {**base, "prompts": [prompt], **fields}, key=key)
        assert answer.status_code == 200, answer.text
        with np.load(io.BytesIO(answer.content)) as arrays:
            logits: NDArray[np.float32] = arrays["low_res_masks"]
            return logits

    def differ(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
        """By more than rounding differences between numbers of threads."""
        return float(np.abs(one - other).max()) > 0.01

    alone = low_res(victim, both)
    low_res(victim, first, save_logits_to_cache=True)
    refined = low_res(victim, both, load_logits_from_cache=True)
    assert differ(refined, alone)
    assert not differ(low_res(colleague, both, load_logits_from_cache=True), refined)
    assert not differ(low_res(attacker, both, load_logits_from_cache=True), alone)


def submitted(running: Keyed, key: str, seed: int) -> dict[str, str]:
    """Submit a job with a key, and wait until it has completed."""
    body = {"image": noise(seed)["value"], "coordinates": "[9, 9]"}
    response = running.server.post("/v2/sam-v2-image", body, key=key)
    assert response.status_code == 200, response.text
    job: dict[str, str] = response.json()

    def done() -> bool:
        return bool(running.server.get(job["status_url"], key=key).json()["status"] == "COMPLETED")

    until(done)
    return job


def test_guessed_job_ids(running: Keyed, victim: str, colleague: str, attacker: str) -> None:
    server, job = running.server, submitted(running, victim, 26)
    for url in (job["status_url"], job["response_url"]):
        unknown_url = url.replace(job["request_id"], "0" * 32)
        refused, unknown = server.get(url, key=attacker), server.get(unknown_url, key=attacker)
        assert refused.status_code == unknown.status_code == 404
        ids = (job["request_id"], "0" * 32)
        assert refused.text.replace(ids[0], "") == unknown.text.replace(ids[1], "")
        assert server.get(url, key=colleague).status_code == 200
        assert server.get(url, key=None).status_code == 401


def test_result_links_cannot_be_forged(running: Keyed, victim: str, attacker: str) -> None:
    """A link is signed for one file of one job and one expiry; no key replaces the signature."""
    server = running.server
    theirs, mine = submitted(running, victim, 27), submitted(running, attacker, 28)
    link = server.get(theirs["response_url"], key=victim).json()["output"]
    own = server.get(mine["response_url"], key=attacker).json()["output"]
    assert server.get(link, key=None).status_code == 200
    signature = parse_qs(urlsplit(own).query)["signature"][0]
    bare = urlunsplit(urlsplit(link)._replace(query=""))
    expires = parse_qs(urlsplit(link).query)["expires"][0]
    guesses = [
        own.replace(mine["request_id"], theirs["request_id"]),
        f"{bare}?expires={expires}&signature={signature}",
        f"{bare}?expires={int(expires) + 60}&{urlsplit(link).query.split('&')[1]}",
        f"{bare}?expires={expires}",
        f"{bare}?expires={expires}&signature=",
        bare,
        link.replace("overlay.png", "mask.png"),
        link.replace("overlay.png", "output.json"),
        link.replace("overlay.png", "..%2Foverlay.png"),
    ]
    for guess in guesses:
        assert guess != link
        for key in (attacker, None):
            response = server.get(guess, key=key)
            assert response.status_code == 404, guess
            assert response.headers["content-type"] == "application/json"


def models_of(running: Keyed, key: str) -> tuple[dict[str, Any], set[Any]]:
    """What `/models` tells a key, and the times of the last use apart from it."""
    models = running.server.get("/models", key=key).json()
    return models, {each.pop("last_used", None) for each in models["checkpoints"]}


def test_only_an_operator_is_told_when_models_were_last_used(running: Keyed, victim: str) -> None:
    """The time would tell what others do."""
    body = {"image": noise(31)}
    assert running.server.post(VISUAL, body, key=victim).status_code == 200
    admin = running.create("operator", scopes=("segment", "admin"))[0]
    assert any(models_of(running, admin)[1])
    assert models_of(running, victim)[1] == {None}


def test_models_reveal_no_images(running: Keyed, victim: str, attacker: str) -> None:
    server = running.server
    before, _ = models_of(running, attacker)
    body = {"image": noise(29), "image_id": "listed-nowhere"}
    assert server.post(VISUAL, body, key=victim).status_code == 200
    after, _ = models_of(running, attacker)
    assert after == before
    assert "listed-nowhere" not in str(after)


def test_metrics_reveal_no_images_or_tenants(running: Keyed, victim: str) -> None:
    server = running.server
    body = {"image": noise(30), "image_id": "in-no-metric"}
    assert server.post(VISUAL, body, key=victim).status_code == 200
    metrics = server.get("/metrics").text
    for secret in ("in-no-metric", victim, victim.split("_", 2)[2], "acme"):
        assert secret not in metrics


def test_the_image_of_a_job_belongs_to_its_tenant(
    running: Keyed, victim: str, colleague: str, attacker: str
) -> None:
    """Only this tenant can use it by its id."""
    server, name = running.server, f"by-a-job-{next(UNSEEN)}"
    body = {"image": noise(31), "image_id": name, "prompts": [{"text": "x"}]}
    job = server.post(f"/v2{CONCEPT}", body, key=victim).json()
    until(lambda: server.get(job["status_url"], key=victim).json()["status"] == "COMPLETED")
    assert server.post(VISUAL, {"image_id": name}, key=attacker).status_code == 404
    assert server.post(VISUAL, {"image_id": name}, key=colleague).status_code == 200
    stolen = server.post(f"/v2{CONCEPT}", {**body, "image": None}, key=attacker)
    assert stolen.status_code == 404
    assert "image_id" in stolen.json()["message"]
