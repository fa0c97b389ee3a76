"""Dashboard, alerts, compose file and Dockerfile say what is true of the service."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from app import main
from app.errors import BadRequest
from app.settings import Settings
from tests.api.conftest import Running, adapter_folders, ask, audio, model_folder, running, settings

__all__ = ["adapter_folders", "model_folder", "running", "settings"]
ROOT = Path(__file__).parents[1]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "deploy" / "prometheus-alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
METRIC = re.compile(r"\bovertone_[a-z_]+")


def expressions() -> Iterator[str]:
    """All PromQL of dashboard and alerts."""
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (v["query"]["query"] for v in DASHBOARD["templating"]["list"] if v["type"] == "query")
    yield from (rule["expr"] for rule in RULES)


MANIFESTS = list(yaml.safe_load_all((ROOT / "deploy" / "kuberay.yaml").read_text()))
SERVE = yaml.safe_load((ROOT / "deploy" / "ray_serve.yaml").read_text())


def manifest(kind: str, name: str) -> dict[str, Any]:
    (found,) = [one for one in MANIFESTS if one["kind"] == kind and one["metadata"]["name"] == name]
    return dict(found)


async def test_every_metric_and_label_that_is_named_exists(running: Running) -> None:
    async with running() as client:
        await ask(client, adapter="alpha")
        await client.post("/generate", data={"adapter": "nobody"}, files=audio())
        text = (await client.get("/metrics")).text
    samples = re.findall(r"^(overtone_\w+?)(?:\{([^}]*)\})? ", text, re.MULTILINE)
    there = {name for name, _ in samples if not name.endswith("_created")}
    labels: dict[str, set[str]] = {}
    for name, found in samples:
        labels.setdefault(name, set()).update(re.findall(r"(\w+)=", found))
    named = set(METRIC.findall(" ".join(expressions())))
    assert len(named) > 20
    assert named <= there
    for expression in expressions():
        for name, selector in re.findall(r"(overtone_\w+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)\s*[=!]", selector)) <= labels[name] | {"instance"}, expression


def test_expressions_are_balanced_and_panels_do_not_overlap() -> None:
    for expression in expressions():
        for opening, closing in ("()", "[]", "{}"):
            assert expression.count(opening) == expression.count(closing), expression
    places: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & places
        assert at["x"] + at["w"] <= 24
        places |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert {"summary", "description"} <= rule["annotations"].keys()


def test_the_container_runs_as_nobody_special_and_listens_where_compose_expects_it() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["overtone"]
    assert "USER 1000" in lines
    assert all(str(port).startswith("127.0.0.1:") for port in compose["ports"]), "no key is asked for by default"
    assert compose["security_opt"] == ["no-new-privileges:true"]
    assert compose["cap_drop"] == ["ALL"]
    volumes = {volume.partition(":")[2] for volume in compose["volumes"]}
    (declared,) = [json.loads(line.removeprefix("VOLUME ")) for line in lines if line.startswith("VOLUME")]
    assert volumes == set(declared)


@pytest.mark.parametrize("source", ["ray_serve.yaml", "kuberay.yaml"])
def test_ray_can_read_its_configuration_and_the_builder_its_arguments(source: str) -> None:
    schema = pytest.importorskip("ray.serve.schema", reason="Ray is not installed")
    from deploy.ray_serve import Arguments, app

    told = (
        SERVE
        if source == "ray_serve.yaml"
        else yaml.safe_load(manifest("RayService", "overtone")["spec"]["serveConfigV2"])
    )
    deployed = schema.ServeDeploySchema.model_validate(told)
    (application,) = deployed.applications
    assert application.import_path == "deploy.ray_serve:app"
    arguments = Arguments.model_validate(application.args)
    assert arguments.max_replicas > 1
    known = arguments.settings.keys() - Settings.model_fields.keys()
    assert not known
    file = {"keys_file": None} if "keys_file" in arguments.settings else {}
    assert app(arguments.model_copy(update={"settings": arguments.settings | file}))


def test_several_replicas_without_a_store_are_refused() -> None:
    pytest.importorskip("ray.serve", reason="Ray is not installed")
    from deploy.ray_serve import Arguments, app

    with pytest.raises(BadRequest, match="OVERTONE_SHARED_ADAPTERS"):
        app(Arguments(max_replicas=2))


def test_the_ray_service_is_whole() -> None:
    service = manifest("RayService", "overtone")
    assert (service["apiVersion"], service["spec"]["upgradeStrategy"]) == ("ray.io/v1", {"type": "NewCluster"})
    cluster = service["spec"]["rayClusterConfig"]
    assert f"ray=={cluster['rayVersion']}\n" in (ROOT / "requirements.lock").read_text()
    arguments = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]["args"]
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] == workers["replicas"] == arguments["min_replicas"]
    assert workers["maxReplicas"] == arguments["max_replicas"]
    for pod in (cluster["headGroupSpec"]["template"]["spec"], workers["template"]["spec"]):
        assert pod["securityContext"]["runAsUser"] == 1000
        (container,) = pod["containers"]
        assert {"containerPort": 8000, "name": "serve"} in container["ports"]
    (worker,) = workers["template"]["spec"]["containers"]
    assert worker["resources"]["requests"]["nvidia.com/gpu"] == str(arguments["num_gpus"])
    volumes = {volume["name"]: volume for volume in workers["template"]["spec"]["volumes"]}
    assert volumes.keys() == {mount["name"] for mount in worker["volumeMounts"]}
    assert manifest("Secret", volumes["keys"]["secret"]["secretName"])["stringData"].keys() == {"keys.json"}
    assert manifest("Secret", worker["envFrom"][0]["secretRef"]["name"])
    assert manifest("PersistentVolumeClaim", volumes["models"]["persistentVolumeClaim"]["claimName"])
    (mount,) = [mount for mount in worker["volumeMounts"] if mount["name"] == "keys"]
    assert arguments["settings"]["keys_file"] == f"{mount['mountPath']}/keys.json"


def test_the_image_can_hold_what_ray_runs() -> None:
    lines = (ROOT / "Dockerfile").read_text()
    assert "COPY deploy/*.py /opt/overtone/ray/deploy/" in lines
    assert "PYTHONPATH=/opt/overtone/ray" in lines
    assert "!deploy" in (ROOT / ".dockerignore").read_text().splitlines()


@pytest.mark.parametrize(
    ("host", "keys", "starts"), [("0.0.0.0", (), False), ("0.0.0.0", ("k",), True), ("::1", (), True)]
)
def test_the_image_opens_no_port_without_keys(host, keys, starts, monkeypatch, tmp_path):
    assert "OVERTONE_REQUIRE_KEYS=true" in (ROOT / "Dockerfile").read_text()
    chosen = Settings(_env_file=None, require_keys=True, host=host, api_keys=keys, adapters=tmp_path, jobs=tmp_path)
    started = []
    monkeypatch.setattr(main._Server, "run", lambda server, sockets: started.append(server.config.host))
    if starts:
        with socket.socket() as listening:
            main.serve(chosen, [listening])
    else:
        with pytest.raises(BadRequest, match="OVERTONE_KEYS_FILE"):
            main.serve(chosen)
    assert started == [host] * starts


def test_compose_publishes_no_port_beyond_this_machine_while_it_requires_no_keys():
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["overtone"]
    assert service["environment"]["OVERTONE_REQUIRE_KEYS"] == "false"
    assert all(str(port).startswith("127.0.0.1:") for port in service["ports"])
