"""`/status`: how the service stands, and what has happened to it."""

from typing import Any

import httpx

from app.api.journal import Journal
from app.api.latency import KEPT, Latencies
from tests.api.conftest import Running, ask, audio


async def status(client: httpx.AsyncClient, after: int = 0) -> dict[str, Any]:
    response = await client.get("/status", params={"after": after})
    assert response.status_code == 200, response.text
    told: dict[str, Any] = response.json()
    return told


async def test_it_tells_load_memory_and_latency(running: Running) -> None:
    async with running() as client:
        before = await status(client)
        assert before["latency"] == []
        await ask(client, adapter="alpha")
        await ask(client)
        await ask(client)
        told = await status(client)
        assert [(row["adapter"], row["requests"]) for row in told["latency"]] == [("base", 2), ("alpha", 1)]
        row = told["latency"][0]
        assert 0 < row["ttft"]["p50"] <= row["ttft"]["p95"] <= row["total"]["p95"]
        assert 0 < row["per_token"]["p50"] < row["total"]["p50"]
        assert told["load"]["finished"] == 3
        assert told["load"]["generated_tokens"] >= 24
        assert told["slots"] == {"used": 1, "total": 32}
        assert told["kv_tokens"]["used"] == 0
        assert told["memory"]["device"] is None
        assert told["memory"]["process"] > told["memory"]["weights"] > 0
        assert told["uptime_seconds"] >= before["uptime_seconds"] >= 0
        assert set(told["jobs"].values()) == {0}


async def test_it_tells_what_has_happened_once(running: Running) -> None:
    async with running(watch_seconds=60.0) as client:
        await status(client)  # how things stand is no news
        await ask(client, adapter="alpha")
        await client.post("/adapters/beta/select")
        await client.post("/adapters/alpha/pin")
        told = await status(client)
        news = [(entry["topic"], entry["subject"], entry["before"], entry["after"]) for entry in told["events"]]
        assert news == [
            ("active", "beta", None, "yes"),
            ("pinned", "alpha", None, "yes"),
            ("resident", "alpha@1", None, "yes"),
        ]
        await client.delete("/adapters/beta")
        last = told["events"][-1]["number"]
        later = (await status(client, last))["events"]
        assert [(entry["topic"], entry["subject"], entry["after"]) for entry in later] == [
            ("active", "beta", None),
            ("adapter", "beta", None),
        ]
        assert [entry["number"] for entry in later] == [last + 1, last + 2]


async def test_a_queue_that_is_full_is_told(running: Running) -> None:
    async with running(max_batch=1, max_queue=1, watch_seconds=60.0) as client:
        await status(client)
        fields = {"adapters": ",".join(["base"] * 8), "max_new_tokens": "8"}
        assert (await client.post("/compare", data=fields, files=audio())).status_code == 200
        rejected = [entry for entry in (await status(client))["events"] if entry["topic"] == "rejected"]
        assert rejected
        assert int(rejected[0]["after"]) > int(rejected[0]["before"])


async def test_it_needs_a_key_as_other_routes_do(running: Running) -> None:
    async with running(api_keys=("user",)) as client:
        assert (await client.get("/status")).status_code == 401
        assert (await client.get("/status", headers={"X-API-Key": "user"})).status_code == 200


def test_percentiles_are_of_the_latest_requests() -> None:
    latencies = Latencies()
    latencies.add("a", total=100.0)
    for number in range(1, KEPT + 1):
        latencies.add("a", total=number / 1000, ttft=0.001)
    (row,) = latencies.rows()
    assert row.requests == KEPT
    assert (row.total.p50, row.total.p95) == (129.0, 244.0)
    assert row.ttft is not None
    assert row.per_token is None


def test_a_journal_that_has_seen_nothing_tells_nothing() -> None:
    assert Journal().after(0) == []
