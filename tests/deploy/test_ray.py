"""Ray Serve configuration and KubeRay manifests, checked against schemas and the code.

These tests start neither Ray nor Kubernetes; docs/cluster.md lists manual tests.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate.utils import ValidationError, validate
from openapi_schema_validator import OAS31Validator
from ray.serve.schema import ServeDeploySchema

from inference_server.settings import Settings
from inference_server.settings.types import replica_bounds
from tests.deploy.test_container import OTHERS, VARIABLES, arguments

ROOT = Path(__file__).parents[2]
RAY = ROOT / "deploy/ray"
KUBERNETES = "1.30"
"""The oldest supported version; later schemas have all of its fields."""


def load(name: str) -> dict[str, Any]:
    """Load a file of deploy/ray, which has one document."""
    loaded: dict[str, Any] = yaml.safe_load((RAY / name).read_text())
    return loaded


SERVE = load("serve.yaml")
SERVICE = load("rayservice.yaml")["spec"]
CLUSTER = SERVICE["rayClusterConfig"]
WORKERS = {group["groupName"]: group for group in CLUSTER["workerGroupSpecs"]}
GROUPS = {"head": CLUSTER["headGroupSpec"], **WORKERS}
(APPLICATION,) = SERVE["applications"]
ARGS = APPLICATION["args"]


def closed(required: str, optional: str = "", **kinds: Any) -> dict[str, Any]:
    """Return the schema of an object with exactly these fields.

    Args:
        required: names of required fields, separated by spaces.
        optional: names of optional fields, separated by spaces. Default: none.
        kinds: schemas of fields by name. Default: anything.
    """
    names = [*required.split(), *optional.split()]
    return {
        "type": "object",
        "required": required.split(),
        "properties": {name: kinds.get(name, {}) for name in names},
        "additionalProperties": False,
    }


TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT = {"type": "integer", "minimum": 0}
# Fields of `ray.io/v1` in the reference of KubeRay 1.6 and 1.7, without deprecated ones. Pods are
# validated by the schema of Kubernetes.
_GROUP = "rayStartParams template"
RAY_SERVICE = closed(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayService"},
    metadata=closed("name", "namespace labels annotations"),
    spec=closed(
        "rayClusterConfig serveConfigV2",
        "excludeHeadPodFromServeSvc rayClusterDeletionDelaySeconds serveService suspend "
        "upgradeStrategy",
        excludeHeadPodFromServeSvc={"type": "boolean"},
        rayClusterDeletionDelaySeconds=COUNT,
        serveConfigV2={"type": "string"},
        upgradeStrategy=closed(
            "type",
            "clusterUpgradeOptions",
            type={"enum": ["NewCluster", "NewClusterWithIncrementalUpgrade", "None"]},
        ),
        rayClusterConfig=closed(
            "headGroupSpec workerGroupSpecs rayVersion",
            "authOptions autoscalerOptions enableInTreeAutoscaling gcsFaultToleranceOptions "
            "headServiceAnnotations managedBy suspend",
            rayVersion={"type": "string"},
            enableInTreeAutoscaling={"type": "boolean"},
            authOptions=closed("mode", "secretName", mode={"enum": ["token", "disabled"]}),
            autoscalerOptions=closed(
                "",
                "env envFrom idleTimeoutSeconds image imagePullPolicy resources securityContext "
                "upscalingMode version volumeMounts",
                idleTimeoutSeconds=COUNT,
            ),
            gcsFaultToleranceOptions=closed(
                "redisAddress", "externalStorageNamespace redisPassword redisUsername"
            ),
            headGroupSpec=closed(
                _GROUP,
                "enableIngress headService labels resources serviceType",
                rayStartParams=TEXTS,
            ),
            workerGroupSpecs={
                "type": "array",
                "items": closed(
                    f"groupName minReplicas maxReplicas {_GROUP}",
                    "idleTimeoutSeconds labels numOfHosts replicas resources scaleStrategy suspend",
                    replicas=COUNT,
                    minReplicas=COUNT,
                    maxReplicas=COUNT,
                    rayStartParams=TEXTS,
                ),
            },
        ),
    ),
)


def pod(group: str) -> dict[str, Any]:
    """Return the pod spec of a group."""
    spec: dict[str, Any] = GROUPS[group]["template"]["spec"]
    return spec


def container(group: str) -> dict[str, Any]:
    """Return the only container of a group's pods."""
    (only,) = pod(group)["containers"]
    assert isinstance(only, dict)
    return only


def test_serve_takes_the_configuration() -> None:
    """Ray ignores unknown fields, so a typing error would go unnoticed."""
    read = ServeDeploySchema.model_validate(SERVE)
    assert read.model_dump(mode="json", exclude_unset=True) == SERVE


def test_kubernetes_has_the_same_configuration() -> None:
    assert yaml.safe_load(SERVICE["serveConfigV2"]) == SERVE


def test_the_application_can_be_imported() -> None:
    module, _, name = APPLICATION["import_path"].partition(":")
    assert callable(getattr(import_module(module), name))
    assert APPLICATION["name"] == "inference-server"
    assert APPLICATION["route_prefix"] == "/"


def test_arguments_are_settings_that_load() -> None:
    assert set(ARGS) <= set(Settings.model_fields)
    read = Settings(**ARGS)
    assert {name: getattr(read, name) for name in ARGS} == ARGS
    secrets = {name for name, field in Settings.model_fields.items() if not field.repr}
    assert {"api_keys", "database_url", "redis_url"} <= secrets
    assert not secrets & set(ARGS), "secrets come from the environment"


def test_all_ports_agree() -> None:
    port = ARGS["port"]
    assert SERVE["proxy_location"] == "Disabled", "the ingresses listen themselves"
    assert port == Settings.model_fields["port"].default
    for group in GROUPS:
        ports = {each["name"]: each["containerPort"] for each in container(group)["ports"]}
        # KubeRay's service uses the port of this name.
        assert ports["serve"] == port
        for probe in ("readinessProbe", "livenessProbe"):
            assert container(group)[probe]["httpGet"]["port"] in ports
    for group in WORKERS:
        assert container(group)["readinessProbe"]["httpGet"]["port"] == "serve"


def test_a_manifest_has_the_fields_of_kuberay() -> None:
    errors = OAS31Validator(RAY_SERVICE).iter_errors(load("rayservice.yaml"))
    assert [f"{error.json_path}: {error.message}" for error in errors] == []


@pytest.mark.parametrize("group", GROUPS)
def test_pods_match_the_kubernetes_schema(group: str) -> None:
    template = GROUPS[group]["template"]
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": group}, **template}
    made["metadata"] = {"name": group, **template["metadata"]}
    validate(made, KUBERNETES, strict=True)
    with pytest.raises(ValidationError):
        validate(made | {"Spec": {}}, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", ["secret.example.yaml", "weights.yaml", "network-policy.yaml"])
def test_other_manifests_match_the_kubernetes_schema(name: str) -> None:
    validate(load(name), KUBERNETES, strict=True)


@pytest.mark.parametrize("group", GROUPS)
def test_pods_are_as_restricted_as_the_image(group: str) -> None:
    (making,) = [given for given in arguments("RUN") if "useradd" in given]
    assert f"--uid {pod(group)['securityContext']['runAsUser']} " in making
    assert pod(group)["securityContext"]["runAsNonRoot"] is True
    own = container(group)["securityContext"]
    assert own["readOnlyRootFilesystem"] is True
    assert own["allowPrivilegeEscalation"] is False
    assert own["capabilities"] == {"drop": ["ALL"]}
    places = {each["mountPath"] for each in container(group)["volumeMounts"]}
    # Ray's sockets and logs; the server's data.
    assert {"/tmp", "/data"} <= places <= {"/tmp", "/data", "/weights"}
    assert ("/weights" in places) == (group == "gpu")
    volumes = {each["name"] for each in pod(group)["volumes"]}
    assert {each["name"] for each in container(group)["volumeMounts"]} == volumes
    for volume in pod(group)["volumes"]:
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        assert claim in (None, load("weights.yaml")["metadata"]["name"])


@pytest.mark.parametrize("group", GROUPS)
def test_secrets_come_from_kubernetes_only(group: str) -> None:
    secret = load("secret.example.yaml")
    assert container(group)["envFrom"] == [{"secretRef": {"name": secret["metadata"]["name"]}}]
    assert {"INFERENCE_API_KEYS", "INFERENCE_DATABASE_URL", "INFERENCE_REDIS_URL"} <= set(
        secret["stringData"]
    )
    assert set(secret["stringData"]) <= VARIABLES | OTHERS
    assert set(secret["stringData"].values()) == {""}
    given = {each["name"]: each["value"] for each in container(group)["env"]}
    assert given["RAY_USAGE_STATS_ENABLED"] == "0"
    assert set(given) - {"RAY_USAGE_STATS_ENABLED"} <= VARIABLES


def test_ray_requires_a_token_and_has_a_network_policy() -> None:
    assert CLUSTER["authOptions"] == {"mode": "token"}
    policy = load("network-policy.yaml")["spec"]
    selected = policy["podSelector"]["matchLabels"]
    for group in GROUPS.values():
        assert selected.items() <= group["template"]["metadata"]["labels"].items()
    everyone = [rule["ports"] for rule in policy["ingress"] if "from" not in rule]
    assert everyone == [[{"port": ARGS["port"]}]]


def test_replicas_fit_into_the_pods() -> None:
    """Minimum replicas fit into minimum pods, and maximum replicas into maximum pods."""

    def cpus(kind: str, end: int) -> float:
        count: int = replica_bounds(ARGS[f"cluster_{kind}_replicas"])[end]
        return count * float(ARGS[f"cluster_{kind}_cpus"])

    def gpus(end: int) -> float:
        kinds = ("concept", "visual")
        counts = [replica_bounds(ARGS[f"cluster_{kind}_replicas"])[end] for kind in kinds]
        parts = [float(ARGS[f"cluster_{kind}_gpus"]) for kind in kinds]
        return sum(count * part for count, part in zip(counts, parts, strict=True))

    for end, bound in enumerate(("minReplicas", "maxReplicas")):
        gpu, ingress = WORKERS["gpu"], WORKERS["ingress"]
        engines = cpus("concept", end) + cpus("visual", end)
        assert engines <= gpu[bound] * int(gpu["rayStartParams"]["num-cpus"])
        assert cpus("ingress", end) <= ingress[bound] * int(ingress["rayStartParams"]["num-cpus"])
        each = int(container("gpu")["resources"]["limits"]["nvidia.com/gpu"])
        assert gpus(end) <= gpu[bound] * each
    for group in WORKERS:
        asked = container(group)["resources"]["requests"]["cpu"]
        assert asked == WORKERS[group]["rayStartParams"]["num-cpus"]
    assert GROUPS["head"]["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in container("ingress")["resources"]["limits"]


def test_pod_timeouts_cover_a_drain() -> None:
    for group in WORKERS:
        farewell = container(group)["lifecycle"]["preStop"]["exec"]["command"]
        assert farewell[0] == "sleep"
        least = int(farewell[1]) + ARGS["shutdown_timeout"] + 20
        assert pod(group)["terminationGracePeriodSeconds"] >= least
    longest = Settings.model_fields["request_timeout"].default
    assert SERVICE["rayClusterDeletionDelaySeconds"] >= longest + 20


def test_ray_has_the_pinned_version() -> None:
    pins = (ROOT / "requirements/cluster.txt").read_text()
    assert f"\nray=={CLUSTER['rayVersion']}\n" in pins
    # Builds select extras, and each extra has a pin file.
    (extras,) = [given for given in arguments("ARG") if given.startswith("EXTRAS=")]
    documented = re.findall(r'--build-arg EXTRAS="([\w ]+)"', (ROOT / "Dockerfile").read_text())
    names = {*extras.split("=")[1].strip('"').split(), *" ".join(documented).split()}
    assert names == {"tracing", "cluster"}
    copied = " ".join(arguments("COPY"))
    for name in names:
        assert f"requirements/{name}.txt" in copied
    assert len({container(group)["image"] for group in GROUPS}) == 1
