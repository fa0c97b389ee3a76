"""Dashboard, alerts, compose file and Dockerfile say what is true of the service."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

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
