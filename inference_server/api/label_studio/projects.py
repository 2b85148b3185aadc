"""Projects: their configuration, their parameters, and the version of their predictions."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson

from inference_server.api.label_studio.config import LabelConfig, read_config
from inference_server.api.label_studio.parameters import parameters_of
from inference_server.engines.catalog import Catalog, ModelKey
from inference_server.errors import ModelUnavailableError, PromptError
from inference_server.segmentation.service import SegmentationService
from inference_server.settings import Settings
from schemas.common import Limits

_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Project:
    """A project as a request describes it.

    Attributes:
        config: its label configuration.
        extra: the backend's `extra_params`.
        version: version of its predictions.
    """

    config: LabelConfig
    extra: Mapping[str, Any]
    version: str


@dataclass(frozen=True, slots=True)
class Setup:
    """What is remembered of a project.

    Attributes:
        extra: the backend's `extra_params`.
        version: version of its predictions.
    """

    extra: Mapping[str, Any]
    version: str


class Setups:
    """Setups by tenant and project: bounded per tenant and in all.

    A tenant that has too many loses its own least recently used one. If there are too many in all,
    the tenant with the most of them loses one, so that no tenant can evict a smaller one's.

    Args:
        most: maximum number in all.
        tenant_most: maximum number per tenant.
    """

    def __init__(self, most: int, tenant_most: int) -> None:
        self._most = most
        self._tenant_most = tenant_most
        self._count = 0
        self._tenants: OrderedDict[str, OrderedDict[str, Setup]] = OrderedDict()

    def get(self, tenant: str, name: str) -> Setup | None:
        """Return the setup of a project, and mark it as used; None if it is not remembered.

        Args:
            tenant: owner of the API key.
            name: Label Studio's id of the project.
        """
        owned = self._tenants.get(tenant)
        if owned is None or name not in owned:
            return None
        self._tenants.move_to_end(tenant)
        owned.move_to_end(name)
        return owned[name]

    def of(self, tenant: str) -> Iterable[Setup]:
        """Return the setups of a tenant.

        Args:
            tenant: owner of the API key.
        """
        return self._tenants.get(tenant, OrderedDict()).values()

    def put(self, tenant: str, name: str, project: Project) -> None:
        """Remember a project.

        Args:
            tenant: owner of the API key.
            name: Label Studio's id of the project.
            project: the project.
        """
        owned = self._tenants.setdefault(tenant, OrderedDict())
        self._tenants.move_to_end(tenant)
        self._count += name not in owned
        owned[name] = Setup(project.extra, project.version)
        owned.move_to_end(name)
        if len(owned) > self._tenant_most:
            self._evict(tenant)
        if self._count > self._most:
            # Of several that have the most, the least recently used one comes first.
            self._evict(max(self._tenants, key=lambda each: len(self._tenants[each])))

    def _evict(self, tenant: str) -> None:
        owned = self._tenants[tenant]
        owned.popitem(last=False)
        self._count -= 1
        if not owned:
            del self._tenants[tenant]


class Projects:
    """Remembers `extra_params`, which Label Studio sends on `/setup` only.

    Args:
        settings: bounds of the memory and of configurations.
        limits: limits of texts.
    """

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self._settings = settings
        self._limits = limits
        self._known = Setups(settings.label_studio_projects, settings.label_studio_tenant_projects)
        self._fingerprints: dict[ModelKey, str] = {}

    async def set_up(
        self,
        segmenter: SegmentationService,
        tenant: str,
        name: str | None,
        config: str,
        extra: Mapping[str, Any] | None,
    ) -> Project:
        """Read a project's configuration, and remember its parameters.

        Args:
            segmenter: knows the models.
            tenant: owner of the API key.
            name: Label Studio's id of the project; None remembers nothing.
            config: the label configuration.
            extra: the backend's `extra_params`; None stands for none.

        Raises:
            PromptError: the configuration or a parameter is invalid.
        """
        most = self._settings.label_studio_max_params_kb
        if len(orjson.dumps(extra or {})) > most * 1024:
            raise PromptError(
                f"The backend's extra_params exceed {most} KiB. Shorten them, or raise "
                "INFERENCE_LABEL_STUDIO_MAX_PARAMS_KB on the server."
            )
        project = await self._project(segmenter, config, extra or {})
        output = project.config.output()
        parameters = parameters_of(project.extra, (output,), self._limits)
        project.config.output(name=parameters.output)
        if name is not None:
            self._known.put(tenant, name, project)
        return project

    async def find(
        self, segmenter: SegmentationService, tenant: str, name: str | None, config: str
    ) -> Project:
        """Read the configuration of a request, with the parameters that are remembered.

        Args:
            segmenter: knows the models.
            tenant: owner of the API key.
            name: Label Studio's id of the project.
            config: the label configuration.

        Raises:
            PromptError: the configuration is invalid.
        """
        known = self._known.get(tenant, name or "")
        return await self._project(segmenter, config, known.extra if known is not None else {})

    def versions(self, tenant: str) -> Sequence[str]:
        """Return the versions of a tenant's projects, without duplicates.

        Args:
            tenant: owner of the API key.
        """
        return sorted({each.version for each in self._known.of(tenant)})

    async def _project(
        self, segmenter: SegmentationService, config: str, extra: Mapping[str, Any]
    ) -> Project:
        settings = self._settings

        def read() -> Project:
            parsed = read_config(
                config,
                max_bytes=settings.label_studio_max_config_kb * 1024,
                max_tags=settings.label_studio_max_config_tags,
                max_controls=settings.label_studio_max_controls,
            )
            return Project(parsed, extra, self._version(segmenter.catalog, parsed, extra))

        return await segmenter.in_thread(read)

    def _version(self, catalog: Catalog, config: LabelConfig, extra: Mapping[str, Any]) -> str:
        """Name the words' model, with a digest of all that predictions depend on."""
        keys = [catalog.concept(None)]
        with suppress(ModelUnavailableError):  # words are answered all the same
            keys.append(catalog.visual(None))
        digest = hashlib.sha256(config.digest.encode())
        digest.update(orjson.dumps(extra, option=orjson.OPT_SORT_KEYS))
        for key in keys:
            digest.update(f"\0{key}\0{catalog.label(key)}\0{self._weights(catalog, key)}".encode())
        return f"{catalog.label(keys[0])}-{digest.hexdigest()[:_DIGITS]}"

    def _weights(self, catalog: Catalog, key: ModelKey) -> str:
        """Return the digest of a model's weights as they were when it was first asked for."""
        if key not in self._fingerprints:
            self._fingerprints[key] = catalog.checkpoint(key).fingerprint
        return self._fingerprints[key]
