"""Generate the parts of deployment files that list the server's settings.

`python -m tests.readme --settings` writes them, with the tables of settings.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from inference_server.settings import Settings
from inference_server.settings.types import PREFIX, variable_of

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm/inference-server"
EXAMPLE = DEPLOY / "example.env"
SCHEMA = CHART / "values.schema.json"

MARK = "# --- All settings; written by: python -m tests.readme --settings ---\n"
"""In `example.env`, the line before the settings."""

SECRET = {name for name, field in Settings.model_fields.items() if not field.repr}
"""Settings with passwords or keys."""

FIXED = {"host", "port", "data_dir"}
"""Settings that an image or a chart sets, because other parts of it rely on them."""

NAMES = [name for name in Settings.model_fields if not name.startswith("cluster_")]
"""Settings of a server without Ray, in the order of docs/settings.md."""


def _written(value: object) -> str:
    """Return a default as an environment variable has it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def example_settings() -> str:
    """Return every setting as a comment with its default, for an environment file."""
    lines = []
    for name in NAMES:
        if name in FIXED:
            continue
        field = Settings.model_fields[name]
        lines += ["", f"# {field.description}", f"#{variable_of(name)}={_written(field.default)}"]
    return "\n".join(lines[1:]) + "\n"


def example() -> str:
    """Return `deploy/example.env` with its settings generated."""
    return EXAMPLE.read_text().partition(MARK)[0] + MARK + example_settings()


def _schema_of(value: object) -> dict[str, Any]:
    """Return the schema of the values with the type of a default; `{}` may have any fields."""
    if isinstance(value, dict):
        schema: dict[str, Any] = {"type": "object"}
        if value:
            schema["properties"] = {name: _schema_of(inner) for name, inner in value.items()}
            schema["additionalProperties"] = False
        return schema
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, int):
        return {"type": "integer", "minimum": 0}
    return {"type": "array" if isinstance(value, list) else "string"}


def values_schema() -> str:
    """Return the JSON schema of the chart's values: those of `values.yaml`, and the settings."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = _schema_of(values)
    properties = schema["properties"]
    properties["global"] = {"type": "object"}  # Helm adds it
    properties["resources"] = {"type": "object"}
    properties["settings"] = {
        "type": "object",
        "properties": {
            name: {
                "description": Settings.model_fields[name].description,
                "type": ["string", "number", "boolean", "object"],
            }
            for name in NAMES
            if name not in FIXED | SECRET
        },
        "additionalProperties": False,
    }
    properties["secrets"] = {
        "type": "object",
        "propertyNames": {
            "pattern": "^[A-Z][A-Z0-9_]*$",
            "anyOf": [
                {"not": {"pattern": f"^{PREFIX}"}},
                {"enum": [variable_of(name) for name in NAMES if name not in FIXED]},
            ],
        },
        "additionalProperties": {"type": "string"},
    }
    properties["autoscaling"]["properties"]["minReplicas"]["minimum"] = 1
    properties["weights"]["properties"]["accessModes"]["items"] = {
        "enum": ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"]
    }
    properties["ingress"]["properties"]["affinity"]["properties"]["controller"]["enum"] = [
        *("none", "haproxy", "haproxy-ingress", "nginx", "ingress-nginx")
    ]
    properties["podDisruptionBudget"]["properties"]["maxUnavailable"] = {
        "type": ["integer", "string"]
    }
    full = {"$schema": "http://json-schema.org/draft-07/schema#", **schema}
    return json.dumps(full, indent=2) + "\n"


def write() -> list[Path]:
    """Write the files that differ, and return them."""
    changed = []
    for path, text in ((EXAMPLE, example()), (SCHEMA, values_schema())):
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            changed.append(path)
    return changed
