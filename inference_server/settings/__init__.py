"""All settings: name, type, default and meaning.

A setting is read from the environment variable `INFERENCE_<NAME>`. `docs/settings.md` contains the
same table, generated from this package. Each module has the settings of one subject.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from inference_server.settings.caches import CacheSettings
from inference_server.settings.cluster import ClusterSettings
from inference_server.settings.connections import ConnectionSettings
from inference_server.settings.database import DatabaseSettings
from inference_server.settings.fetching import FetchSettings
from inference_server.settings.gpu import GpuSettings
from inference_server.settings.jobs import JobSettings
from inference_server.settings.keys import KeySettings
from inference_server.settings.label_studio import LabelStudioSettings
from inference_server.settings.models import ModelSettings
from inference_server.settings.proxy import ProxySettings
from inference_server.settings.queues import QueueSettings
from inference_server.settings.rasters import RasterSettings
from inference_server.settings.requests import RequestSettings
from inference_server.settings.samgeo import SamgeoSettings
from inference_server.settings.serving import ServingSettings
from inference_server.settings.tiling import TilingSettings
from inference_server.settings.types import PREFIX, variable_of

MiB = 1024 * 1024


class Settings(
    ClusterSettings,
    LabelStudioSettings,
    SamgeoSettings,
    ProxySettings,
    DatabaseSettings,
    JobSettings,
    QueueSettings,
    FetchSettings,
    RasterSettings,
    TilingSettings,
    RequestSettings,
    ConnectionSettings,
    CacheSettings,
    GpuSettings,
    ModelSettings,
    KeySettings,
    ServingSettings,
):
    """The server's settings, from keyword arguments and from the environment.

    Pydantic collects the fields from the last base to the first, so the bases are in the reverse
    order of the table.
    """


def misspelled(variables: Iterable[str]) -> dict[str, str | None]:
    """Find variables that begin with `INFERENCE_` and are not a setting.

    Args:
        variables: names of environment variables.

    Returns:
        Each such variable with the most similar setting's variable, or None.
    """
    known = {name.upper() for name in Settings.model_fields}
    found: dict[str, str | None] = {}
    for variable in sorted(v for v in variables if v.startswith(PREFIX)):
        name = variable.removeprefix(PREFIX)
        if name.upper() not in known:
            close = difflib.get_close_matches(name, known, 1)
            found[variable] = variable_of(close[0]) if close else None
    return found
