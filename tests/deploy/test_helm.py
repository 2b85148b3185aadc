"""The Helm chart: linted and rendered by Helm's library, against Kubernetes' schemas and the code.

No Kubernetes takes part; docs/deployment.md tells what was run.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

import helm_python
import pytest
import yaml
from helm_python.errors import HelmError
from kubernetes_validate.utils import validate

from inference_server import __version__
from inference_server.settings import Settings
from tests.api.serving import Running
from tests.deploy.generated import CHART, FIXED, NAMES, SECRET, example, values_schema
from tests.deploy.test_container import VARIABLES, arguments, environment
from tests.deploy.test_ray import KUBERNETES

KEYS = {"secrets": {"INFERENCE_API_KEYS": "a-key"}}
SHARED = {
    "secrets": {
        "INFERENCE_API_KEYS": "a-key",
        "INFERENCE_DATABASE_URL": "postgresql://inference:x@postgres/inference",
        "INFERENCE_REDIS_URL": "redis://:x@redis:6379/0",
        "HF_TOKEN": "hf_x",
    }
}
EVERYTHING: dict[str, Any] = {
    **SHARED,
    "image": {"repository": "registry.example.com/inference-server", "tag": "1"},
    "imagePullSecrets": [{"name": "registry"}],
    "settings": {
        "sam3_weights": "facebook/sam3",
        "sam2_weights": "none",
        "sam3_models": {"crops/3": "/weights/crops"},
        "max_body_mb": 1000000,
        "drain_seconds": 30,
    },
    "extraEnv": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"}],
    "gpu": {"enabled": True, "runtimeClassName": "nvidia"},
    "weights": {"accessModes": ["ReadWriteMany"], "storageClass": "nfs"},
    "ingress": {
        "enabled": True,
        "className": "haproxy",
        "host": "masks.example.com",
        "tlsSecret": "masks-tls",
        "annotations": {"cert-manager.io/cluster-issuer": "letsencrypt"},
        "affinity": {"controller": "haproxy"},
    },
    "autoscaling": {"enabled": True},
    "networkPolicy": {
        "from": [{"namespaceSelector": {}}],
        "restrictEgress": True,
        "egress": [{"ports": [{"port": 5432, "protocol": "TCP"}]}],
    },
    "podAnnotations": {"example.com/team": "vision"},
    "podLabels": {"team": "vision"},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "batch", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
    "serviceAccountName": "inference",
    "service": {"annotations": {"example.com/a": "b"}},
}
PINNED = {**KEYS, "data": {"persistence": True}, "service": {"affinity": {"clientIP": False}}}
EXISTING = {
    "existingSecret": "own",
    "replicas": 2,
    "weights": {"existingClaim": "models", "readOnly": True},
}
CASES = {"least": KEYS, "everything": EVERYTHING, "pinned": PINNED, "existing": EXISTING}

Manifests = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def chart() -> Iterator[helm_python.Chart]:
    with helm_python.Chart.load(CHART) as loaded:
        yield loaded


def render(chart: helm_python.Chart, values: Mapping[str, Any]) -> Manifests:
    """Return the manifests by kind; a second one of a kind has its name's last word added."""
    found: Manifests = {}
    for file, text in chart.render(dict(values), name="demo", namespace="masks").items():
        if file.endswith(".txt"):
            continue
        for manifest in yaml.safe_load_all(text):
            if manifest is None:
                continue
            kind = manifest["kind"]
            name = manifest["metadata"]["name"]
            found[f"{kind} {name.rpartition('-')[2]}" if kind in found else kind] = manifest
    return found


def pod(manifests: Manifests) -> dict[str, Any]:
    spec: dict[str, Any] = manifests["Deployment"]["spec"]["template"]["spec"]
    return spec


def container(manifests: Manifests) -> dict[str, Any]:
    (only,) = pod(manifests)["containers"]
    assert isinstance(only, dict)
    return only


def variables(manifests: Manifests) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container(manifests)["env"]}


def test_versions_are_those_of_the_server() -> None:
    described = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert described["version"] == described["appVersion"] == __version__
    assert described["kubeVersion"].startswith(f">={KUBERNETES}.")


def test_generated_files_have_every_setting() -> None:
    hint = "run `python -m tests.readme --settings`"
    assert (CHART / "values.schema.json").read_text() == values_schema(), hint
    assert (CHART.parents[1] / "example.env").read_text() == example(), hint
    known = set(json.loads(values_schema())["properties"]["settings"]["properties"])
    assert known == set(NAMES) - FIXED - SECRET
    assert {"api_keys", "database_url", "redis_url"} <= SECRET


@pytest.mark.parametrize("case", CASES)
def test_helm_lints_it(case: str) -> None:
    found = helm_python.lint(CHART, CASES[case], strict=True, kube_version="1.30.0")
    assert found["errors"] == []
    assert [each for each in found["messages"] if each["severity"] > 1] == []


@pytest.mark.parametrize("version", [KUBERNETES, "1.35"])
@pytest.mark.parametrize("case", CASES)
def test_manifests_match_the_kubernetes_schema(
    chart: helm_python.Chart, case: str, version: str
) -> None:
    manifests = render(chart, CASES[case])
    assert {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", "Pod"} <= set(
        manifests
    )
    for manifest in manifests.values():
        validate(manifest, version, strict=True)


def test_resources_belong_together(chart: helm_python.Chart) -> None:
    for values in CASES.values():
        manifests = render(chart, values)
        labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
        for selector in (
            manifests["Deployment"]["spec"]["selector"]["matchLabels"],
            manifests["Service"]["spec"]["selector"],
            manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
            manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
            pod(manifests)["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
        ):
            assert selector
            assert selector.items() <= labels
        # The pod of `helm test` must not get requests.
        assert not (
            manifests["Service"]["spec"]["selector"].items()
            <= manifests["Pod"]["metadata"]["labels"].items()
        )
        (port,) = manifests["Service"]["spec"]["ports"]
        (own,) = container(manifests)["ports"]
        assert port["targetPort"] == own["name"]
        assert own["containerPort"] == Settings.model_fields["port"].default
        secret = container(manifests)["envFrom"][0]["secretRef"]["name"]
        if "existingSecret" in values:
            assert secret == values["existingSecret"]
            assert "Secret" not in manifests
        else:
            assert manifests["Secret"]["metadata"]["name"] == secret
        claims = {
            each["persistentVolumeClaim"]["claimName"]
            for each in pod(manifests)["volumes"]
            if "persistentVolumeClaim" in each
        }
        made = {m["metadata"]["name"] for kind, m in manifests.items() if "VolumeClaim" in kind}
        assert claims - made == ({"models"} if values is EXISTING else set())
        assert made <= claims
        assert manifests["Pod"]["spec"]["containers"][0]["image"] == container(manifests)["image"]


@pytest.mark.parametrize("case", CASES)
def test_pods_are_as_restricted_as_the_image(chart: helm_python.Chart, case: str) -> None:
    manifests = render(chart, CASES[case])
    (making,) = [given for given in arguments("RUN") if "useradd" in given]
    for spec in (pod(manifests), manifests["Pod"]["spec"]):
        assert f"--uid {spec['securityContext']['runAsUser']} " in making
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        own = spec["containers"][0]["securityContext"]
        assert own["readOnlyRootFilesystem"] is True
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
    places = {each["mountPath"] for each in container(manifests)["volumeMounts"]}
    assert places == {"/tmp", *json.loads(arguments("VOLUME")[0])}
    assert environment()["INFERENCE_DATA_DIR"] in places
    # Otherwise the Service's variables look like settings.
    assert pod(manifests)["enableServiceLinks"] is False


@pytest.mark.parametrize("case", CASES)
def test_variables_are_settings_that_load(
    chart: helm_python.Chart, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = render(chart, CASES[case])
    given = variables(manifests) | manifests.get("Secret", {}).get("stringData", {})
    assert {name for name in given if name.startswith("INFERENCE_")} <= VARIABLES
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.log_format == "json"
    if case == "everything":
        assert settings.sam3_weights == "facebook/sam3"
        assert settings.sam3_models == {"crops/3": "/weights/crops"}
        assert settings.max_body_mb == 1000000
        assert settings.device == "cuda"
        assert given["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector:4318"
    else:
        assert settings.device == "cpu"
    grace = pod(manifests)["terminationGracePeriodSeconds"]
    assert grace == settings.drain_seconds + settings.shutdown_timeout + 20
    # While /readyz is 503 the probe runs at least twice, and endpoints are removed.
    assert settings.drain_seconds >= 2 * container(manifests)["readinessProbe"]["periodSeconds"]


def test_probes_are_endpoints(chart: helm_python.Chart, server: Running) -> None:
    own = container(render(chart, KEYS))
    paths = {name: own[name]["httpGet"]["path"] for name in own if name.endswith("Probe")}
    assert paths == {
        "startupProbe": "/livez",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }
    server.until_ready()
    for path in paths.values():
        assert server.get(path, key=None).status_code == 200


def test_memory_covers_the_embedding_cache(chart: helm_python.Chart) -> None:
    limit = container(render(chart, KEYS))["resources"]["limits"]["memory"]
    # On a CPU the cache has 2 GiB by default.
    assert int(limit.removesuffix("Gi")) >= 2 + 2 + 1


def test_a_gpu_is_requested_and_its_taint_tolerated(chart: helm_python.Chart) -> None:
    assert "nvidia.com/gpu" not in json.dumps(render(chart, KEYS))
    manifests = render(chart, EVERYTHING)
    assert container(manifests)["resources"]["limits"] == {"memory": "6Gi", "nvidia.com/gpu": 1}
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod(
        manifests
    )["tolerations"]
    assert pod(manifests)["runtimeClassName"] == "nvidia"


def test_a_client_reaches_the_same_pod(chart: helm_python.Chart) -> None:
    service = render(chart, KEYS)["Service"]["spec"]
    assert service["sessionAffinity"] == "ClientIP"
    assert service["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"] == 10800
    assert "sessionAffinity" not in render(chart, PINNED)["Service"]["spec"]
    expected = {
        "none": ("Service", {}),
        "haproxy": ("Service", {"haproxy.org/load-balance": "hdr(x-user)"}),
        "haproxy-ingress": (
            "Ingress",
            {"haproxy-ingress.github.io/balance-algorithm": "hdr(x-user)"},
        ),
        "nginx": (
            "Ingress",
            {"nginx.org/lb-method": "hash $http_x_user$remote_addr consistent"},
        ),
        "ingress-nginx": (
            "Ingress",
            {"nginx.ingress.kubernetes.io/upstream-hash-by": "$http_x_user$remote_addr"},
        ),
    }
    for controller, (kind, added) in expected.items():
        affinity = {"controller": controller, "header": "X-User"}
        ingress = {"enabled": True, "host": "masks.example.com", "affinity": affinity}
        manifests = render(chart, {**KEYS, "ingress": ingress})
        assert manifests[kind]["metadata"].get("annotations", {}) == added
        other = "Ingress" if kind == "Service" else "Service"
        assert "annotations" not in manifests[other]["metadata"]


def test_replicas_are_left_to_the_autoscaler(chart: helm_python.Chart) -> None:
    manifests = render(chart, EVERYTHING)
    assert "replicas" not in manifests["Deployment"]["spec"]
    scaled = manifests["HorizontalPodAutoscaler"]["spec"]
    assert scaled["scaleTargetRef"]["name"] == manifests["Deployment"]["metadata"]["name"]
    assert (scaled["minReplicas"], scaled["maxReplicas"]) == (2, 8)
    assert manifests["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    own = {"type": "Pods", "pods": {"metric": {"name": "inference_queue_depth"}}}
    own["pods"] |= {"target": {"type": "AverageValue", "averageValue": "4"}}  # type: ignore[operator]
    asked = {**SHARED, "autoscaling": {"enabled": True, "metrics": [own]}}
    scaler = render(chart, asked)["HorizontalPodAutoscaler"]
    validate(scaler, KUBERNETES, strict=True)
    assert scaler["spec"]["metrics"] == [own]


def test_a_volume_of_one_machine_is_released_before_a_new_pod_starts(
    chart: helm_python.Chart,
) -> None:
    kinds = {
        case: render(chart, values)["Deployment"]["spec"]["strategy"]["type"]
        for case, values in CASES.items()
    }
    assert kinds == {
        "least": "Recreate",
        "everything": "RollingUpdate",
        "pinned": "Recreate",
        "existing": "RollingUpdate",
    }


def test_egress_is_restricted_on_request(chart: helm_python.Chart) -> None:
    assert render(chart, KEYS)["NetworkPolicy"]["spec"]["policyTypes"] == ["Ingress"]
    restricted = render(chart, EVERYTHING)["NetworkPolicy"]["spec"]
    assert restricted["policyTypes"] == ["Ingress", "Egress"]
    # The metadata service of clouds gives credentials.
    assert "169.254.0.0/16" in restricted["egress"][1]["to"][0]["ipBlock"]["except"]
    assert restricted["egress"][-1] == EVERYTHING["networkPolicy"]["egress"][0]


def test_pods_are_replaced_after_a_change_of_secrets(chart: helm_python.Chart) -> None:
    def checksum(values: Mapping[str, Any]) -> str:
        template = render(chart, values)["Deployment"]["spec"]["template"]
        text: str = template["metadata"]["annotations"]["checksum/secrets"]
        return text

    assert checksum(KEYS) != checksum({"secrets": {"INFERENCE_API_KEYS": "another"}})
    assert render(chart, KEYS)["Secret"]["stringData"] == {"INFERENCE_API_KEYS": "a-key"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "there are no API keys"),
        ({**KEYS, "replicas": 2}, "several pods need a shared database"),
        ({**KEYS, "autoscaling": {"enabled": True}}, "several pods need a shared database"),
        (
            {**SHARED, "replicas": 2, "data": {"persistence": True}},
            "data.persistence is for one pod",
        ),
        ({**SHARED, "autoscaling": {"enabled": True, "maxReplicas": 1}}, "is less than"),
        ({**KEYS, "ingress": {"enabled": True}}, "ingress.enabled needs ingress.host"),
        ({**KEYS, "settings": {"sam3_weight": "x"}}, "sam3_weight"),
        ({**KEYS, "settings": {"database_url": "x"}}, "database_url"),
        ({**KEYS, "replica": 2}, "replica"),
        ({"secrets": {"INFERENCE_API_KEY": "a-key"}}, "INFERENCE_API_KEY"),
        ({**KEYS, "existingSecret": "own"}, "move INFERENCE_API_KEYS into it"),
        ({**KEYS, "ingress": {"affinity": {"controller": "other"}}}, "controller"),
    ],
)
def test_values_that_cannot_work_are_refused(
    chart: helm_python.Chart,
    values: dict[str, Any],
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)
    with pytest.raises(HelmError, match=message):
        render(chart, values)


def test_a_server_without_keys_may_be_open_or_have_stored_keys(chart: helm_python.Chart) -> None:
    for values in ({"settings": {"auth": "off"}}, {"data": {"persistence": True}}):
        assert render(chart, values)["Secret"]["stringData"] is None


def test_the_values_of_the_docs_render(chart: helm_python.Chart) -> None:
    page = (CHART.parents[2] / "docs/kubernetes.md").read_text()
    shown = dict(re.findall(r'```yaml title="([a-z.]+)"\n(.*?)```', page, re.DOTALL))
    assert set(shown) == {"values.yaml", "scaled.yaml"}
    used = SHARED | yaml.safe_load(shown["values.yaml"])
    manifests = render(chart, used)
    assert manifests["Deployment"]["spec"]["replicas"] == 2
    assert container(manifests)["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "haproxy.org/load-balance" in manifests["Service"]["metadata"]["annotations"]
    added = yaml.safe_load(shown["scaled.yaml"])
    more = render(chart, used | added)
    scaled = more["HorizontalPodAutoscaler"]["spec"]
    assert scaled["metrics"] == added["autoscaling"]["metrics"]
    egress = more["NetworkPolicy"]["spec"]["egress"]
    assert egress[-2:] == added["networkPolicy"]["egress"]
    for manifest in [*manifests.values(), *more.values()]:
        validate(manifest, KUBERNETES, strict=True)
