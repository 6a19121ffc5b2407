"""The Helm chart: linted and rendered by Helm, and held against the schemas of Kubernetes.

Each file in `values` is one way to use it. What only a cluster could show (scheduling, GPUs, the
operator's own reading of a ServiceMonitor) is not shown here.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.workers import OVER
from policies import TABLE
from router.config import parse
from tests.deploy.dockerfile import ROOT, read
from tests.deploy.tools import checked, installed, run, tool

CHART = ROOT / "deploy" / "helm" / "tandem"
VALUES = sorted((Path(__file__).parent / "values").glob("*.yaml"))
OPERATORS = "monitoring.coreos.com/v1"
VERSIONS = ("1.27", "1.37")
"""The oldest Kubernetes that the chart takes, and the newest whose schemas there are."""
KUBERNETES = """
import sys, yaml
from kubernetes_validate import validate
for one in yaml.safe_load_all(sys.stdin):
    validate(one, "VERSION", strict=True)
    print(one["kind"])
"""
OPERATOR = """
import sys, yaml
from cloudcoil.models.prometheus_operator import v1
for one in yaml.safe_load_all(sys.stdin):
    read = getattr(v1, one["kind"]).model_validate(one)
    kept = read.model_dump(mode="json", by_alias=True, exclude_unset=True)
    for part in ("apiVersion", "kind", "spec"):
        assert kept[part] == one[part], f"{kept[part]} is left of {one[part]}"
    print(one["kind"])
"""

pytestmark = [
    pytest.mark.slow,
    installed,
    pytest.mark.skipif(tool("helm") is None, reason="no helm for this system: install one"),
]
each = pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)


@cache
def rendered(values: Path) -> tuple[dict[str, Any], ...]:
    text = run("helm", "template", "rel", CHART, "--namespace", "apps", "--values", values)
    return tuple(one for one in yaml.safe_load_all(text) if one)


def every(values: Path, kind: str) -> list[Any]:
    return [one for one in rendered(values) if one["kind"] == kind]


def only(values: Path, kind: str) -> Any:
    [one] = every(values, kind)
    return one


def pods(values: Path) -> list[Any]:
    sets = every(values, "Deployment") + every(values, "StatefulSet")
    return [one["spec"]["template"] for one in sets]


def chosen(selector: Any, values: Path) -> list[Any]:
    """The pods that these labels choose."""
    wanted = selector.get("matchLabels", selector).items()
    return [pod for pod in pods(values) if wanted <= pod["metadata"]["labels"].items()]


def ports(pod: Any) -> set[str]:
    named = (port["name"] for part in pod["spec"]["containers"] for port in part["ports"])
    return set(named)


@each
def test_helm_has_nothing_to_say(values: Path) -> None:
    run("helm", "lint", "--strict", "--quiet", CHART, "--values", values)


@each
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_would_take_it(values: Path, version: str) -> None:
    own = [one for one in rendered(values) if one["apiVersion"] != OPERATORS]
    said = checked(KUBERNETES.replace("VERSION", version), yaml.safe_dump_all(own))
    assert len(said.split()) == len(own) > 0


def test_the_prometheus_operator_would_take_it() -> None:
    own = [one for one in rendered(_named("everything")) if one["apiVersion"] == OPERATORS]
    said = checked(OPERATOR, yaml.safe_dump_all(own)).split()
    assert sorted(said) == ["PrometheusRule", "ServiceMonitor", "ServiceMonitor"]


def test_every_kind_that_it_can_make_is_made_here() -> None:
    kinds = {one["kind"] for one in rendered(_named("everything"))}
    assert kinds == {
        *("ConfigMap", "Deployment", "HorizontalPodAutoscaler", "Ingress", "NetworkPolicy"),
        *("PodDisruptionBudget", "PrometheusRule", "Service", "ServiceAccount", "ServiceMonitor"),
        "StatefulSet",
    }


@each
def test_what_selects_pods_finds_some(values: Path) -> None:
    for one in rendered(values):
        spec = one.get("spec", {})
        if one["kind"] in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
            assert chosen(spec["selector"], values), one["metadata"]
        elif one["kind"] == "Service":
            [pod] = chosen(spec["selector"], values)
            assert {port["targetPort"] for port in spec["ports"]} <= ports(pod)
        elif one["kind"] == "NetworkPolicy":
            found = chosen(spec["podSelector"], values)
            named = {port["port"] for rule in spec["ingress"] for port in rule["ports"]}
            assert found
            assert {name for name in named if isinstance(name, str)} <= ports(found[0])


@each
def test_whatever_is_watched_has_a_service(values: Path) -> None:
    services = [one["metadata"]["labels"] for one in every(values, "Service")]
    for monitor in every(values, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        assert any(wanted <= labels.items() for labels in services)
        assert {end["port"] for end in monitor["spec"]["endpoints"]} == {"http"}


def test_the_operators_port_is_behind_no_ingress_and_open_to_nobody_by_default() -> None:
    values = _named("everything")
    [path] = only(values, "Ingress")["spec"]["rules"][0]["http"]["paths"]
    [front] = [one for one in every(values, "Service") if one["metadata"]["name"] == "rel-tandem"]
    assert path["backend"]["service"]["name"] == "rel-tandem"
    assert path["path"] == "/v1"
    assert [port["name"] for port in front["spec"]["ports"]] == ["http"]
    for other in ("nothing", "own-servers"):
        for policy in every(_named(other), "NetworkPolicy"):
            assert "admin" not in json.dumps(policy)


@each
def test_the_gateway_gets_a_configuration_that_it_can_serve(values: Path) -> None:
    maps = [one["data"] for one in every(values, "ConfigMap")]
    texts = [data["tandem.yaml"] for data in maps if "tandem.yaml" in data]
    started = only(values, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert bool(texts) == ("--config=/etc/tandem/tandem.yaml" in started["args"])
    for text in texts:
        document = parse(text, TABLE, "the chart's config")
        services = {one["metadata"]["name"] for one in every(values, "Service")}
        if every(values, "StatefulSet"):
            hosts = [u for m in document.config.models.values() for u in m.backends]
            assert {host.split(".")[1].split(":")[0] for host in hosts} <= services


@each
def test_it_runs_the_image_as_the_image_is_made(values: Path) -> None:
    pod = only(values, "Deployment")["spec"]["template"]["spec"]
    image, [gateway] = read()["gateway"], pod["containers"]
    who = pod["securityContext"]
    assert f"{who['runAsUser']}:{who['runAsGroup']}" == image.last("USER")
    assert gateway["securityContext"]["readOnlyRootFilesystem"]
    writable = {m["mountPath"] for m in gateway["volumeMounts"] if not m.get("readOnly")}
    assert image.last("WORKDIR") in writable
    assert {gateway[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "liveness")} == {
        "/healthz"
    }
    assert gateway["readinessProbe"]["httpGet"]["path"] == "/readyz"


@each
def test_a_pod_is_killed_only_after_it_had_time_to_drain(values: Path) -> None:
    """With a configuration the gateway itself announces its end; the embedded pair's has none."""
    drain = yaml.safe_load((CHART / "values.yaml").read_text())["drain"]
    pod = only(values, "Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > drain["announce"] + drain["finish"] + OVER
    waits = "preStop" in pod["containers"][0].get("lifecycle", {})
    texts = [one["data"]["tandem.yaml"] for one in every(values, "ConfigMap")[:1]]
    assert waits != any(yaml.safe_load(text)["drain"] == drain for text in texts)


def test_it_links_to_every_rule_and_dashboard() -> None:
    """Links to files: through one to a folder the wheel's builder would lose what is behind it."""
    for ours, theirs in (("rules", "prometheus/rules"), ("dashboards", "grafana/dashboards")):
        linked = {one.name: one.resolve() for one in (CHART / "files" / ours).iterdir()}
        real = ROOT / "deploy" / theirs
        assert linked == {one.name: one for one in real.iterdir() if one.is_file()}


def test_it_scales_on_what_the_gateway_exports() -> None:
    scaler = only(_named("everything"), "HorizontalPodAutoscaler")["spec"]
    [measure] = [m["pods"]["metric"]["name"] for m in scaler["metrics"] if m["type"] == "Pods"]
    # The page is held against what is exported by tests/app/test_metrics.py.
    assert f"| `{measure}` | gauge |" in (ROOT / "docs" / "metrics.md").read_text()
    assert scaler["scaleTargetRef"]["name"] == "rel-tandem"


@each
def test_it_makes_no_secret_and_reads_them_by_reference_only(values: Path) -> None:
    assert not every(values, "Secret")
    for pod in pods(values):
        for variable in pod["spec"]["containers"][0].get("env", ()):
            secret = any(word in variable["name"] for word in ("TOKEN", "PASSWORD", "KEY"))
            assert not secret or "secretKeyRef" in variable["valueFrom"], variable


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ("autoscalling.enabled=true", "autoscalling"),
        ("vllm.models.small.modell=x,vllm.enabled=true", "modell"),
        ("autoscaling.enabled=true,autoscaling.inFlight=0,autoscaling.cpu=0", "needs a measure"),
        ("redis.url=http://valkey", "redis"),
        ("image.digest=latest", "digest"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(said: str, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        run("helm", "template", "rel", CHART, "--set", said)


def _named(name: str) -> Path:
    return Path(__file__).parent / "values" / f"{name}.yaml"
