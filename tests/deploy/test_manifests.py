"""The files of deploy/ are valid, and what they name exists: commands, flags, ports, routes, variables, metrics.

No container engine and no cluster runs them here.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from tuner.cli.app import app as commands
from tuner.settings import ENVIRONMENT

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMAGE = f"tuner:{PROJECT['version']}"
OURS = {name for names in ENVIRONMENT.values() for name in names} | {"TUNER_LOG_LEVEL"}
OTHERS = {
    "XDG_DATA_HOME",
    "POSTGRES_USER",
    "POSTGRES_DB",
    "POSTGRES_PASSWORD",
    "GF_SECURITY_ADMIN_PASSWORD",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
}
"""Variables that platformdirs, PostgreSQL's image, Grafana's image and Ray read."""

COMPOSE = yaml.safe_load((DEPLOY / "docker-compose.yml").read_text())
KUBERNETES = list(yaml.safe_load_all((DEPLOY / "kubernetes.yml").read_text()))
PROMETHEUS = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
DASHBOARD = json.loads((DEPLOY / "grafana" / "tuner.json").read_text())
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


def every(value: Any, key: str) -> Iterator[Any]:
    """All values of a key, however deep."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == key:
                yield inner
            yield from every(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from every(inner, key)


def kind(name: str) -> list[dict[str, Any]]:
    """The Kubernetes objects of a kind."""
    return [o for o in KUBERNETES if o["kind"] == name]


def ran() -> list[list[str]]:
    """Every command line of ours in the files."""
    default = json.loads(re.search(r"^CMD (.*)$", DOCKERFILE, re.MULTILINE)[1])  # type: ignore[index]
    found = [default, *every(COMPOSE, "command"), *every(KUBERNETES, "command")]
    return [c for c in found if c[0] == "tuner"]


def parsed(command: list[str]) -> tuple[str, dict[str, Any]]:
    """A command's name and its parameters, as the real command line reads them; nothing is run."""
    node, rest, names = typer.main.get_command(commands), command[1:], []
    while hasattr(node, "commands"):
        names.append(rest[0])
        node, rest = node.commands[rest[0]], rest[1:]
    return " ".join(names), node.make_context(" ".join(names), rest).params


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    pytest.importorskip("fastapi", reason="needs the packages of tuner[serve]")
    from tuner.service.app import make
    from tuner.service.settings import ServiceSettings

    folder = tmp_path_factory.mktemp("service")
    made = make(ServiceSettings(db="sqlite://", log_dir=folder, out=folder))
    return set(made.openapi()["paths"])


def test_every_command_is_one_of_ours_with_flags_that_it_takes() -> None:
    names = {parsed(command)[0] for command in ran()}
    assert names == {"serve", "db upgrade", "db prune"}


def test_a_wrong_flag_would_be_noticed() -> None:
    with pytest.raises(Exception, match="--prot"):
        parsed(["tuner", "serve", "--prot", "8080"])


def test_the_service_listens_where_the_others_look_for_it() -> None:
    ports = {parsed(c)[1]["port"] for c in ran() if c[1] == "serve"}
    assert ports == {8080}
    assert {parsed(c)[1]["host"] for c in ran() if c[1] == "serve"} == {"0.0.0.0"}
    assert [p.rpartition(":")[2] for p in COMPOSE["services"]["serve"]["ports"]] == ["8080"]
    assert "127.0.0.1:8080/readyz" in COMPOSE["services"]["serve"]["healthcheck"]["test"][-1]
    (job,) = PROMETHEUS["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["serve:8080"]}]
    (serve,) = kind("Deployment")[0]["spec"]["template"]["spec"]["containers"]
    assert serve["ports"] == [{"name": "http", "containerPort": 8080}]
    (service,) = kind("Service")
    assert service["metadata"]["annotations"]["prometheus.io/port"] == "8080"
    assert service["spec"]["ports"][0]["targetPort"] == "http"
    assert "EXPOSE 8080" in DOCKERFILE


def test_probes_and_prometheus_ask_for_routes_that_exist(routes: set[str]) -> None:
    asked = {p["path"] for p in every(KUBERNETES, "httpGet")}
    asked |= {PROMETHEUS["scrape_configs"][0]["metrics_path"], "/readyz"}
    asked |= {kind("Service")[0]["metadata"]["annotations"]["prometheus.io/path"]}
    assert asked == {"/healthz", "/readyz", "/metrics"}
    assert asked <= routes


def test_every_variable_is_one_that_somebody_reads() -> None:
    named = {name for found in every(COMPOSE, "environment") for name in found}
    named |= {variable["name"] for found in every(KUBERNETES, "env") for variable in found}
    named |= set(re.findall(r"([A-Z_]+)=", DOCKERFILE))
    assert "TUNER_DB_URL" in named
    assert named <= OURS | OTHERS


def test_every_image_of_ours_is_this_version() -> None:
    images = [*every(COMPOSE, "image"), *every(KUBERNETES, "image")]
    assert {i for i in images if i.startswith("tuner")} == {IMAGE}
    assert all(":" in i and not i.endswith(":latest") for i in images)


def test_the_image_is_made_of_what_exists() -> None:
    copied = [part for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE) for part in line.split()[:-1]]
    assert {"search_spaces", "workers", "db", "tuner"} <= set(copied)
    kept = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    assert kept == set(copied)
    assert all((ROOT / name).exists() for name in copied)
    extras = re.search(r"'\.\[([^\]]*)\]'", DOCKERFILE)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])


def test_compose_refers_to_what_it_has() -> None:
    services = COMPOSE["services"]
    assert all({"image", "build"} & set(s) for s in services.values())
    assert {name for s in services.values() for name in s.get("depends_on", {})} <= set(services)
    assert {n for s in services.values() for n in s.get("secrets", [])} == set(COMPOSE["secrets"])
    used = [mount.split(":")[0] for s in services.values() for mount in s.get("volumes", [])]
    files = {m for m in used if m.startswith(".")}
    assert {m for m in used if not m.startswith(".")} == set(COMPOSE["volumes"])
    assert all((DEPLOY / m).is_file() for m in files)
    build = services["serve"]["build"]
    assert (DEPLOY / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()
    published = [port for s in services.values() for port in s.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_the_secret_of_prometheus_is_where_compose_puts_it() -> None:
    (file,) = every(PROMETHEUS, "credentials_file")
    assert file == "/run/secrets/" + COMPOSE["services"]["prometheus"]["secrets"][0]


@pytest.mark.parametrize("document", KUBERNETES, ids=lambda o: f"{o['kind']}-{o['metadata']['name']}")
def test_kubernetes_objects_fit_the_schemas(document: dict[str, Any]) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="needs the package kubernetes-validate")
    if document["apiVersion"] != "ray.io/v1":
        validate.validate(document, "1.32", strict=True)
        return
    groups = [document["spec"]["headGroupSpec"], *document["spec"]["workerGroupSpecs"]]
    assert all(isinstance(g["rayStartParams"], dict) for g in groups)
    assert all(isinstance(v, str) for g in groups for v in g["rayStartParams"].values())
    for group in groups:  # the part of a RayCluster that is Kubernetes' own
        pod = {"apiVersion": "v1", "kind": "Pod", **group["template"]}
        validate.validate({**pod, "metadata": {"name": "ray", **pod["metadata"]}}, "1.32", strict=True)


def test_kubernetes_objects_refer_to_each_other() -> None:
    assert {o["metadata"].get("namespace") for o in KUBERNETES if o["kind"] != "Namespace"} == {"tuner"}
    secrets = {o["metadata"]["name"]: set(o["stringData"]) for o in kind("Secret")}
    assert all(ref["key"] in secrets[ref["name"]] for ref in every(KUBERNETES, "secretKeyRef"))
    (deployment,), (service,), (ray,), (policy,) = map(kind, ("Deployment", "Service", "RayCluster", "NetworkPolicy"))
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels == service["spec"]["selector"]
    pod = deployment["spec"]["template"]["spec"]
    assert {m["name"] for c in pod["containers"] for m in c.get("volumeMounts", [])} <= {
        v["name"] for v in pod["volumes"]
    }
    groups = [ray["spec"]["headGroupSpec"], *ray["spec"]["workerGroupSpecs"]]
    assert [g["template"]["metadata"]["labels"] for g in groups] == [policy["spec"]["podSelector"]["matchLabels"]] * 3


def test_sweeps_go_to_the_jobs_api_of_this_ray_cluster() -> None:
    (ray,) = kind("RayCluster")
    (serve,) = kind("Deployment")[0]["spec"]["template"]["spec"]["containers"]
    head = ray["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    port = next(p["containerPort"] for p in head["ports"] if p["name"] == "dashboard")
    jobs_url = parsed(serve["command"])[1]["ray_jobs_url"]
    assert jobs_url == f"http://{ray['metadata']['name']}-head-svc:{port}"
    assert "'ray[default]'" in DOCKERFILE, "without it the head has no Jobs API"
    assert ray["spec"]["rayVersion"] == version("ray") == constrained("ray")


def constrained(package: str) -> str:
    """The version that constraints.txt names."""
    found = re.search(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_dashboard_draws_metrics_that_the_service_has() -> None:
    pytest.importorskip("prometheus_client", reason="needs the packages of tuner[serve]")
    from prometheus_client.parser import text_string_to_metric_families

    from db.store import Store
    from tuner.service.metrics import LOOKUPS, REQUEST_S, REQUESTS, STARTED, exposition

    # A metric with labels appears with its first value.
    REQUESTS.labels("GET", "/api/v1/best-config", "404").inc(0)
    REQUEST_S.labels("/api/v1/best-config").observe(0.001)
    LOOKUPS.labels("none").inc(0)
    STARTED.labels("started").inc(0)
    with Store.open("sqlite://") as store:
        families = list(text_string_to_metric_families(exposition(store).decode()))
    known: dict[str, set[str]] = {}
    for sample in (s for f in families for s in f.samples):
        known.setdefault(sample.name, set()).update(sample.labels)
    drawn = [t["expr"] for t in every(DASHBOARD, "targets") for t in t]
    used = {name for expr in drawn for name in re.findall(r"\btuner_\w+", expr)}
    assert used == {n for n in known if n.startswith("tuner_") and not n.endswith(("_created", "_sum", "_count"))}
    for expr in drawn:
        (name,) = set(re.findall(r"\btuner_\w+", expr))
        labels = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expr) for label in group.split(",")}
        labels |= set(re.findall(r"(\w+)=~?\"", expr))
        assert labels <= known[name], expr


def test_the_dashboard_reads_the_data_source_that_is_provisioned() -> None:
    (source,) = yaml.safe_load((DEPLOY / "grafana" / "datasource.yml").read_text())["datasources"]
    assert set(every(DASHBOARD["panels"], "uid")) == {source["uid"]}
    panels = DASHBOARD["panels"]
    assert len({p["id"] for p in panels}) == len(panels)
    for one in panels:
        place = one["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert one["description"]
    cells = [
        (p["gridPos"]["x"] + x, p["gridPos"]["y"] + y)
        for p in panels
        for x in range(p["gridPos"]["w"])
        for y in range(p["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)), "panels overlap"
    mounts = [m.split(":")[1] for m in COMPOSE["services"]["grafana"]["volumes"]]
    (provider,) = yaml.safe_load((DEPLOY / "grafana" / "provider.yml").read_text())["providers"]
    assert f"{provider['options']['path']}/tuner.json" in mounts
