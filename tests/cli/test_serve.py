"""`inference-server serve`, and behaviour that all commands share."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result
from starlette.applications import Starlette
from uvicorn.importer import import_from_string

from inference_server import __version__
from inference_server.cli import main
from inference_server.cli.console import url_of
from inference_server.settings import Settings
from tests.readme import ROOT, serving


def invoke(*arguments: str, **environment: str) -> Result:
    """Run a command that ends by itself; `serve` must have ended before it listens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inference_server.api.server.Server.run", never)
        return CliRunner().invoke(main, arguments, env=environment)


def never(*_: object, **__: object) -> None:
    """What would serve until the end of the tests, because pytest's timeout cannot end it."""
    raise AssertionError("the server has started")


@pytest.mark.parametrize(
    "command", [[], ["serve"], ["models"], ["keys"], ["keys", "create"], ["openapi"]]
)
def test_help(command: list[str]) -> None:
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")


def test_help_is_quick_and_needs_no_torch() -> None:
    code = "import sys, inference_server.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_version() -> None:
    assert __version__ in invoke("--version").output


def test_models_are_listed() -> None:
    result = invoke("models", INFERENCE_DEVICE="cpu", INFERENCE_DTYPE="float32")
    assert result.exit_code == 0
    lines = [line.split() for line in result.output.splitlines()]
    assert ["sam3", "sam3/sam3_final", "demo"] in lines
    for version in ("hiera_tiny", "hiera_small", "hiera_b_plus", "hiera_large"):
        assert ["sam2", version, "demo"] in lines
    assert lines[-3] == ["words:", "sam3/demo"]
    assert lines[-2][:3] == ["points", "and", "boxes:"]
    assert lines[-1] == ["on", "cpu", "in", "torch.float32"]


def test_models_take_the_options_for_weights(published_sam3: Path) -> None:
    options = ("--sam2-weights", "none", "--sam3-weights", str(published_sam3), "--device", "cpu")
    result = invoke("models", *options, INFERENCE_DTYPE="float32", INFERENCE_SAM2_WEIGHTS="demo")
    assert result.exit_code == 0
    assert "sam2 " not in result.output
    assert "words: sam3/published" in result.output
    assert "on cpu in" in result.output


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({}, "points and boxes: sam3/published, with the image encoding of words"),
        ({"VISUAL_MODEL": "sam2"}, "points and boxes: sam2/demo (hiera_large)"),
        ({"SAM2_WEIGHTS": "none"}, "points and boxes: sam3/published, with"),
    ],
)
def test_models_tell_who_answers(published_sam3: Path, chosen: dict[str, str], told: str) -> None:
    settings = {"SAM3_WEIGHTS": str(published_sam3), **chosen}
    result = invoke("models", **{f"INFERENCE_{name}": text for name, text in settings.items()})
    assert "words: sam3/published" in result.output
    assert told in result.output


def test_the_openapi_document_is_written(tmp_path: Path) -> None:
    printed = invoke("openapi")
    file = tmp_path / "openapi.json"
    assert invoke("openapi", "-o", str(file)).exit_code == 0
    assert json.loads(printed.stdout) == json.loads(file.read_bytes())
    assert printed.stdout == file.read_text()
    assert json.loads(printed.stdout)["openapi"].startswith("3.1")


@pytest.mark.parametrize("command", ["serve", "models"])
@pytest.mark.parametrize("setting", ["INFERENCE_SAM2_WEIGHTS", "INFERENCE_SAM3_WEIGHTS"])
def test_missing_weights_stop_the_start(command: str, setting: str) -> None:
    result = invoke(command, **{setting: "/not/there"})
    assert result.exit_code == 1
    assert f"{setting}=/not/there" in result.stderr
    assert "Set it to demo" in result.stderr


@pytest.mark.parametrize(
    ("options", "environment", "told"),
    [
        (["--preload", "sam2"], "", "INFERENCE_PRELOAD=sam2: no such model"),
        (["--preload", "sam2:hiera_tiny", "--preload", "sam:vit_x"], "", "sam:vit_x: no such"),
        ([], "sam3:facebook/sam3,sam2:big", "INFERENCE_PRELOAD=sam2:big: no such model"),
    ],
)
def test_unknown_models_to_preload_stop_the_start(
    options: list[str], environment: str, told: str
) -> None:
    result = invoke("serve", *options, INFERENCE_PRELOAD=environment)
    assert result.exit_code == 1
    assert told in result.stderr
    assert "Preload any of sam2:sam2-hiera-tiny, sam2:sam2-hiera-small" in result.stderr
    assert "sam3:facebook/sam3" in result.stderr


def test_only_configured_models_are_preloaded(tmp_path: Path) -> None:
    """Options override the environment."""
    names = ["--preload", "sam2:sam2-hiera-small", "--preload", "sam2:hiera_small"]
    with serving(*names, INFERENCE_PRELOAD="sam3:facebook/sam3") as (_, said):
        assert "Loaded sam2/demo" in said
        assert "Loaded sam3" not in said
        # Without a terminal there is no progress bar.
        assert "Loading weights" not in said
    chosen = "a-key-of-the-operator"
    with serving("--preload", "sam3:facebook/sam3", INFERENCE_API_KEYS=chosen) as (address, said):
        assert "Loaded sam3/demo" in said
        # Only a generated key is printed.
        assert chosen not in said
        assert "#key=" not in said
        assert f"Playground: {address}/\n" in said
        assert "Loaded sam2" not in said
        assert "Loading weights" not in said


@pytest.mark.parametrize("command", ["serve", "models"])
def test_bad_settings_stop_the_start(command: str) -> None:
    result = invoke(command, INFERENCE_PORT="http", INFERENCE_QUEUE_SIZES="1")
    assert result.exit_code == 2
    assert "INFERENCE_PORT=http: Input should be a valid integer" in result.stderr
    assert "Ignoring INFERENCE_QUEUE_SIZES: unknown setting." in result.stderr
    assert "Did you mean INFERENCE_QUEUE_SIZE?" in result.stderr


def test_a_port_in_use_stops_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = invoke("serve", "--port", str(port))
    assert result.exit_code == 1
    assert f"Cannot listen on http://127.0.0.1:{port}: choose another --port." in result.stderr


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:9001"),
        ("0.0.0.0", "http://127.0.0.1:9001"),
        ("::", "http://[::1]:9001"),
        ("fd00::7", "http://[fd00::7]:9001"),
        ("gpu.example", "http://gpu.example:9001"),
    ],
)
def test_the_announced_url_is_reachable(host: str, url: str) -> None:
    assert url_of(host, 9001) == url


def test_serve_generates_a_key_and_prints_a_working_command() -> None:
    with serving() as (address, said):
        found = re.search(r"^curl .*?^END$", said, re.MULTILINE | re.DOTALL)
        assert found, said
        done = subprocess.run(
            ["bash", "-c", found[0]], capture_output=True, text=True, timeout=120, check=False
        )
        key = re.search(r"the API key of this run is (\S+)", said)
    assert key
    assert address in found[0]
    assert key[1] in found[0]
    assert f"{address}/#key={key[1]}\n" in said
    (result,) = json.loads(done.stdout)["prompt_results"]
    assert result["echo"]["text"] == "red circle"


def test_serve_generates_no_key_if_one_is_stored(tmp_path: Path) -> None:
    where = {"INFERENCE_DATA_DIR": str(tmp_path)}
    stored = invoke("keys", "create", "--name", "mine", **where).stdout.strip()
    with serving("--preload", "sam2:hiera_tiny", **where) as (address, said):
        assert "the API key of this run" not in said
        assert stored not in said
        assert stored.split("_", 2)[2] not in said
        assert "1 API keys in the database are active" in said
        with httpx.Client(base_url=address, timeout=120) as http:
            assert http.get("/models", headers={"x-api-key": stored}).status_code == 200
            assert http.get("/models").status_code == 401


def test_uvicorn_finds_the_application() -> None:
    assert isinstance(import_from_string("inference_server.api.app:app"), Starlette)


def test_options_are_settings() -> None:
    """Every option of `serve` except `--cluster` is a setting of the same name."""
    options = {option.name for option in main.commands["serve"].params} - {"cluster"}
    assert options <= Settings.model_fields.keys()
    assert {"host", "port", "sam2_weights", "sam3_weights", "device"} <= options
