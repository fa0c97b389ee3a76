"""Tenants: what one has does not exist for the other; scopes; limits. All over HTTP, with keys of a real file."""

import asyncio
import io
import json
import os
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from anyio import to_thread

from app.access.keys import KeyRecord, digest, new_key, revoke, write_keys
from app.errors import AdapterNotFound
from app.jobs import command
from app.registry.local import LocalRegistry
from app.registry.tenant_view import TenantRegistry
from tests.api.conftest import Running, audio, busy, until, wav
from tests.jobs.support import STAND_IN, plan
from tests.support import tone

EVERY = ("infer", "adapters", "train")
KEYS: dict[str, dict[str, Any]] = {
    "root": {"scopes": EVERY},
    "acme": {"scopes": EVERY, "tenant": "acme"},
    "acme-asks": {"scopes": ("infer",), "tenant": "acme"},
    "acme-trains": {"scopes": ("train",), "tenant": "acme"},
    "rival": {"scopes": EVERY, "tenant": "rival"},
    "rival-narrow": {"scopes": EVERY, "tenant": "rival", "adapters": ("beta",)},
    "narrow": {"scopes": EVERY, "adapters": ("alp*",)},
    "slow": {"scopes": ("infer",), "per_minute": 2},
    "single": {"scopes": ("infer",), "concurrent": 1},
}
ASK: dict[str, Any] = {"data": {"prompt": "hi", "max_new_tokens": "2"}}


class As:
    """One client per key."""

    def __init__(self, client: httpx.AsyncClient, keys: dict[str, str], file: Path, ids: dict[str, str]) -> None:
        self.client, self.keys, self.file, self.ids = client, keys, file, ids

    async def __call__(self, who: str, method: str, path: str, **content: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.keys[who]}"}
        return await self.client.request(method, path, headers=headers, **content)

    async def names(self, who: str) -> list[str]:
        return [adapter["name"] for adapter in (await self(who, "GET", "/adapters")).json()["adapters"]]

    async def upload(self, who: str, name: str, data: bytes, **fields: str) -> httpx.Response:
        return await self(who, "POST", "/adapters", data={"name": name} | fields, files={"file": ("a.zip", data)})


@pytest.fixture(scope="module")
async def asked(running: Running, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[As]:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    made = {name: new_key() for name in KEYS}
    records = [
        KeyRecord(id=made[name][1], name=name, sha256=digest(made[name][0]), **fields) for name, fields in KEYS.items()
    ]
    write_keys(file, records)
    root = tmp_path_factory.mktemp("data-sets")
    soundfile.write(root / "secret.flac", tone(440, 1), 16_000)
    (root / "own.csv").write_text("audio,text\nsecret.flac,x\n")
    async with running(keys_file=file, max_adapter_mb=8, dataset_roots=(root,)) as client:
        yield As(client, {n: k for n, (k, _) in made.items()}, file, {n: i for n, (_, i) in made.items()})


@pytest.fixture(scope="module")
def packed(adapter_folders: dict[str, Path]) -> bytes:
    """An adapter that says in its manifest that it is somebody else's."""
    return _packed(adapter_folders["alpha"], owner="rival")


def _packed(folder: Path, **manifest: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
        archive.writestr("manifest.json", json.dumps({"name": "x", "base": {"name": "x"}} | manifest))
    return buffer.getvalue()


def _relative(file: Path, folder: Path) -> str:
    return os.path.relpath(file, folder)


def told(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json().get("code", "")


async def test_another_tenants_adapter_does_not_exist(asked: As, packed: bytes) -> None:
    made = await asked.upload("acme", "acme-secret", packed)
    assert made.status_code == 201, made.text
    assert made.json()["manifest"]["owner"] == "acme"
    assert await asked.names("acme") == ["acme-secret", "alpha", "beta"]
    assert await asked.names("root") == ["acme-secret", "alpha", "beta"]
    assert await asked.names("rival") == ["alpha", "beta"]
    assert await asked.names("rival-narrow") == ["beta"]
    assert await asked.names("narrow") == ["alpha"]
    assert (await asked("acme-asks", "POST", "/generate", data=ASK["data"] | {"adapter": "acme-secret"})).is_success
    for who in ("rival", "rival-narrow", "narrow"):
        for method, path, content in [
            ("GET", "/adapters/acme-secret", {}),
            ("DELETE", "/adapters/acme-secret", {}),
            ("POST", "/adapters/acme-secret/select", {}),
            ("POST", "/adapters/acme-secret/pin", {}),
            ("POST", "/adapters/acme-secret/rollback", {}),
            ("GET", "/adapters/acme-secret/download", {}),
            ("POST", "/unload", {"json": {"adapter": "acme-secret"}}),
            ("POST", "/generate", {"data": ASK["data"] | {"adapter": "acme-secret"}}),
            ("POST", "/generate", {"data": ASK["data"] | {"adapter": "acme-secrte"}}),
            ("POST", "/generate", {"data": ASK["data"] | {"adapter": "beta:0.5,acme-secret:0.5"}}),
            ("POST", "/compare", {"data": {"prompt": "hi", "adapters": "acme-secret"}}),
            ("POST", "/classify", {"data": {"adapter": "acme-secret"}, "files": audio()}),
        ]:
            response = await asked(who, method, path, **content)
            assert told(response) == (404, "adapter_not_found"), (who, method, path, response.text)
            detail = response.json()["detail"].replace("'acme-secret'", "")
            assert "acme-secret" not in detail, detail
        compared = (await asked(who, "POST", "/compare", data={"prompt": "h", "adapters": "base,acme-secret"})).json()
        assert compared["answers"][1]["error"]["code"] == "adapter_not_found"
    assert "acme-secret" in (await asked("acme", "GET", "/adapters/acme-secrte")).json()["detail"]


async def test_nor_does_it_for_openais_clients(asked: As, packed: bytes) -> None:
    await asked.upload("acme", "acme-spoken", packed)
    message = [{"role": "user", "content": "hi"}]
    for who in ("rival", "rival-narrow", "narrow"):
        for named in ("acme-spoken", "acme-spokne", "beta:0.5,acme-spoken:0.5"):
            for path, content in [
                ("/v1/chat/completions", {"json": {"model": named, "messages": message}}),
                ("/v1/responses", {"json": {"model": named, "input": "hi"}}),
                ("/v1/audio/transcriptions", {"data": {"model": named}, "files": {"file": ("a.wav", wav())}}),
                ("/v1/audio/translations", {"data": {"model": named}, "files": {"file": ("a.wav", wav())}}),
            ]:
                error = (await asked(who, "POST", path, **content)).json()["error"]
                assert error["code"] == "model_not_found", (who, path, named)
                assert "acme-spoken" not in error["message"].replace(f"'{named}'", "").replace("'acme-spoken'", "")
    answer = await asked("acme-asks", "POST", "/v1/responses", json={"model": "acme-spoken", "input": "hi"})
    assert answer.status_code == 200


async def test_a_taken_name_stays_whose_it_is(asked: As, packed: bytes) -> None:
    assert (await asked.upload("acme", "taken", packed)).status_code == 201
    assert told(await asked.upload("rival", "taken", packed)) == (409, "conflict")
    assert told(await asked.upload("rival", "taken", packed, replace="true")) == (409, "conflict")
    assert told(await asked.upload("rival", "alpha", packed, replace="true")) == (409, "conflict")
    assert told(await asked.upload("narrow", "other", packed)) == (403, "forbidden")
    again = await asked.upload("root", "taken", packed, replace="true")
    assert (again.json()["version"], again.json()["manifest"]["owner"]) == (2, "acme")
    for method, path in [("DELETE", ""), ("POST", "/rollback"), ("GET", "/download")]:
        assert told(await asked("acme", method, f"/adapters/alpha{path}")) == (403, "forbidden")
    assert told(await asked("acme", "POST", "/adapters/taken/pin")) == (403, "forbidden")
    assert (await asked("acme", "POST", "/adapters/taken/rollback")).json()["version"] == 1
    assert (await asked("acme", "GET", "/adapters/taken/download")).content[:2] == b"PK"


async def test_long_work_on_files_keeps_no_other_tenant_waiting(asked: As, packed: bytes) -> None:
    """Two worker threads for all routes; three data sets of thousands of files are unpacked for one tenant."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(6_000):
            archive.writestr(f"{number}/x", b"")
    limiter = to_thread.current_default_thread_limiter()
    usual, limiter.total_tokens = limiter.total_tokens, 2
    files = {"file": ("d.zip", buffer.getvalue())}
    try:
        slow = [
            asyncio.create_task(asked("acme", "POST", "/training/jobs", data={"name": "x"}, files=files))
            for _ in range(3)
        ]
        await asyncio.sleep(1)
        assert await asked.names("rival") == ["alpha", "beta"]
        assert (await asked("rival", "POST", "/generate", data=ASK["data"] | {"adapter": "alpha"})).is_success
        assert (await asked.upload("rival", "meanwhile", packed)).status_code == 201
        assert (await asked("rival", "GET", "/adapters/meanwhile/download")).is_success
        assert (await asked("rival", "DELETE", "/adapters/meanwhile")).is_success
        assert not any(task.done() for task in slow)
        assert {told(answer)[0] for answer in await asyncio.gather(*slow)} == {422}
    finally:
        limiter.total_tokens = usual


async def test_decoders_are_shared_by_turns(asked: As) -> None:
    """Twenty long recordings wait for them; another tenant's short one comes between."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000 * 120)
    long = audio(wav(noise, kind="FLAC"))
    slow = [asyncio.create_task(asked("acme", "POST", "/generate", **ASK, files=long)) for _ in range(20)]

    async def waiting() -> bool:
        return bool(asked.client.app.state.overtone.preparing >= 12)  # type: ignore[attr-defined]

    await until(waiting)
    assert (await asked("rival", "POST", "/generate", **ASK, files=audio())).is_success
    assert sum(task.done() for task in slow) < 15
    await asyncio.gather(*slow)


async def test_the_history_of_a_name_is_not_handed_on(asked: As, packed: bytes) -> None:
    await asked.upload("acme", "passed-on", packed)
    assert (await asked("acme", "DELETE", "/adapters/passed-on")).is_success
    made = await asked.upload("rival", "passed-on", packed)
    assert (made.json()["version"], made.json()["versions"]) == (2, [2])
    for body in ({}, {"version": 1}):
        refused = await asked("rival", "POST", "/adapters/passed-on/rollback", json=body)
        assert told(refused) == (404, "not_found")
    older = {"adapter": "passed-on@1", "prompt": "x", "max_new_tokens": "2"}
    unseen = await asked("rival", "POST", "/generate", data=older)
    assert told(unseen) == (404, "adapter_not_found")
    assert "@1" not in unseen.json()["detail"].replace("'passed-on@1'", "")
    assert (await asked("root", "GET", "/adapters/passed-on")).json()["versions"] == [1, 2]


async def test_a_broken_adapter_is_shown_to_its_owner(asked: As, packed: bytes) -> None:
    await asked.upload("acme", "to-break", packed)
    root = asked.client.app.state.overtone.service.registry.root  # type: ignore[attr-defined]
    (root / "to-break" / "adapter_model.safetensors").write_bytes(b"x")

    async def is_broken() -> bool:
        return bool((await asked("acme", "GET", "/adapters/to-break")).json().get("problems"))

    await until(is_broken)
    response = await asked("rival", "GET", "/adapters/to-break")
    assert told(response) == (404, "adapter_not_found")
    assert "to-break" not in await asked.names("rival")
    assert told(await asked.upload("rival", "to-break", packed, replace="true")) == (409, "conflict")
    assert (await asked("acme", "DELETE", "/adapters/to-break")).is_success


async def test_each_tenant_selects_for_itself(asked: As, packed: bytes) -> None:
    async def answers_with(who: str) -> str:
        return str((await asked(who, "POST", "/generate", **ASK)).json()["adapter"]["name"])

    await asked.upload("acme", "chosen", packed)
    assert (await asked("acme", "POST", "/adapters/chosen/select")).json() == {"active": "chosen"}
    assert [await answers_with(who) for who in ("acme", "acme-asks", "rival", "root")] == ["chosen"] * 2 + ["base"] * 2
    assert told(await asked("root", "POST", "/adapters/chosen/select")) == (422, "bad_request")
    assert (await asked("root", "POST", "/adapters/alpha/select")).is_success
    assert [await answers_with(who) for who in ("acme", "rival", "rival-narrow")] == ["chosen", "alpha", "base"]
    freed = (await asked("rival", "POST", "/unload")).json()
    assert (freed["active"], freed["freed"], freed["unchanged"]) == (None, [], True)
    assert [await answers_with(who) for who in ("acme", "rival", "root")] == ["chosen", "base", "alpha"]
    freed = (await asked("acme", "POST", "/unload")).json()["freed"]
    assert "chosen@1" in freed
    assert not any(uid.startswith(("alpha", "beta")) for uid in freed)
    assert await answers_with("acme") == "base"
    assert (await asked("acme", "POST", "/adapters/chosen/select")).is_success
    assert (await asked("root", "POST", "/unload")).is_success
    assert [await answers_with(who) for who in ("acme", "rival", "root")] == ["base"] * 3


async def test_scopes(asked: As, packed: bytes) -> None:
    for who, method, path in [
        ("acme-asks", "POST", "/adapters"),
        ("acme-asks", "POST", "/unload"),
        ("acme-asks", "GET", "/adapters/alpha/download"),
        ("acme-asks", "POST", "/training/jobs"),
        ("acme-asks", "GET", "/training/jobs"),
        ("acme-trains", "POST", "/generate"),
        ("acme-trains", "POST", "/adapters/alpha/select"),
        ("acme", "GET", "/metrics"),
        ("narrow", "GET", "/metrics"),
    ]:
        assert told(await asked(who, method, path)) == (403, "forbidden"), (who, path)
    for who, path in [("acme-asks", "/adapters"), ("acme-trains", "/adapters"), ("acme-trains", "/training/jobs")]:
        assert (await asked(who, "GET", path)).status_code == 200, (who, path)
    assert (await asked("root", "GET", "/metrics")).status_code == 200
    by_source = await asked("acme", "POST", "/adapters", json={"name": "x", "source": "/etc"})
    assert told(by_source) == (403, "forbidden")
    by_path = await asked("acme", "POST", "/training/jobs", json={"name": "x", "dataset": "/etc"})
    assert told(by_path) == (403, "forbidden")


async def test_a_tenants_rows_name_no_recordings_of_the_operator(asked: As, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those under OVERTONE_DATASET_ROOTS are heard in the operator's jobs alone: the trainer gets no root of them."""
    monkeypatch.setattr(command, "TRAINER", STAND_IN)
    kept = asked.client.app.state.overtone.settings  # type: ignore[attr-defined]
    secret = _relative(kept.dataset_roots[0] / "secret.flac", kept.jobs.absolute() / "job" / "data")

    async def check(who: str) -> tuple[str, int]:
        form = {"name": f"{who}-check", "check": "true"}
        data = plan(do="nothing", silent=[secret])
        made = await asked(who, "POST", "/training/jobs", data=form, files={"file": ("d.jsonl", data)})
        path = f"/training/jobs/{made.json()['id']}"

        async def over() -> bool:
            return (await asked(who, "GET", path)).json()["state"] not in ("queued", "running")

        await until(over)
        heard = await asked(who, "GET", f"{path}/recording", params={"name": secret})
        return (await asked(who, "GET", f"{path}/log")).text, heard.status_code

    log, status = await check("acme")
    assert (log.count("--audio-root"), status) == (1, 404)
    log, status = await check("root")
    assert (log.count("--audio-root"), status) == (2, 200)

    for who in ("acme", "root"):
        for job in (await asked(who, "GET", "/training/jobs")).json()["jobs"]:
            await asked(who, "DELETE", f"/training/jobs/{job['id']}", params={"purge": "true"})


async def test_a_tenants_jobs_and_quotas_are_told(asked: As) -> None:
    own = (await asked("rival", "GET", "/training/jobs")).json()["quota"]
    assert own == {"waiting": {"used": 0, "total": 32}, "kept": {"used": 0, "total": 500}, "bytes": own["bytes"]}
    assert own["bytes"] == {"used": 0, "total": 100_000_000_000}
    assert (await asked("root", "GET", "/training/jobs")).json()["quota"] is None


async def test_jobs_of_others_do_not_exist(
    asked: As, adapter_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "TRAINER", STAND_IN)

    async def train(who: str, name: str) -> httpx.Response:
        data = plan(do="publish", adapter=adapter_folders["beta"])
        return await asked(who, "POST", "/training/jobs", data={"name": name}, files={"file": ("d.jsonl", data)})

    made = await train("acme-trains", "trained")
    assert made.status_code == 202, made.text
    path = f"/training/jobs/{made.json()['id']}"

    async def done() -> bool:
        return bool((await asked("acme-trains", "GET", path)).json()["state"] == "succeeded")

    await until(done)
    (use,) = (await asked("root", "GET", "/status")).json()["tenants"].items()
    assert (use[0], use[1]["kept"]["used"], use[1]["waiting"]["used"]) == ("acme", 1, 0)
    assert use[1]["bytes"]["used"] > 0
    assert (await asked("acme", "GET", "/training/jobs")).json()["quota"] == use[1]
    assert (await asked("acme", "GET", "/adapters/trained")).json()["manifest"]["owner"] == "acme"
    assert "trained" not in await asked.names("rival")
    for method, tail in [("GET", ""), ("GET", "/events"), ("GET", "/log"), ("POST", "/resume"), ("DELETE", "")]:
        assert told(await asked("rival", method, path + tail)) == (404, "not_found"), tail
    assert (await asked("rival", "GET", "/training/jobs")).json()["jobs"] == []
    assert len((await asked("acme", "GET", "/training/jobs")).json()["jobs"]) == 1
    assert len((await asked("root", "GET", "/training/jobs")).json()["jobs"]) == 1
    for name in ("trained", "alpha"):
        assert told(await train("rival", name)) == (409, "conflict"), name


async def test_a_rate_limit_says_when_to_come_back(asked: As) -> None:
    for _ in range(2):
        assert (await asked("slow", "POST", "/generate", **ASK)).status_code == 200
    refused = await asked("slow", "POST", "/generate", **ASK)
    assert told(refused) == (429, "rate_limited")
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert (await asked("root", "POST", "/generate", **ASK)).status_code == 200
    assert (await asked.client.get("/health")).status_code == 200


async def test_a_concurrency_limit_ends_with_the_request(asked: As) -> None:
    meter = asked.client.app.state.overtone.meter  # type: ignore[attr-defined]
    caller = asked.client.app.state.overtone.keyring.find(asked.keys["single"])  # type: ignore[attr-defined]
    long = {"prompt": "tell me more", "max_new_tokens": "1500", "stream": "true"}
    running = asyncio.create_task(asked("single", "POST", "/generate", data=long))
    await busy(asked.client, asked.keys["root"])
    refused = await asked("single", "POST", "/generate", **ASK)
    assert told(refused) == (429, "rate_limited")
    assert refused.headers["retry-after"] == "1"
    running.cancel()  # the client goes away
    with pytest.raises(asyncio.CancelledError):
        await running

    async def free() -> bool:
        return bool(meter.running(caller) == 0)

    await until(free)
    assert (await asked("single", "POST", "/generate", **ASK)).status_code == 200
    assert (await asked("single", "POST", "/generate", data={"top_p": "9"})).status_code == 422
    assert meter.running(caller) == 0


async def test_one_tenant_leaves_places_for_others(running: Running, tmp_path: Path) -> None:
    """As many streams as the queue holds are asked for with two keys of one tenant; another one's is answered."""
    file, made = tmp_path / "keys.json", [new_key() for _ in range(4)]
    owners = ("acme", "acme", "rival", None)
    write_keys(
        file,
        [
            KeyRecord(id=one, name="x", sha256=digest(key), scopes=EVERY, tenant=owner)
            for (key, one), owner in zip(made, owners, strict=True)
        ],
    )
    one, two, rival, root = ({"X-API-Key": key} for key, _ in made)
    long = {"prompt": "tell me more", "max_new_tokens": "1500"}
    async with running(keys_file=file, max_batch=2, max_queue=6, max_context=2048) as client:
        asked = [
            asyncio.create_task(client.post("/generate", data=long, headers=key))
            for key in (one, two)
            for _ in range(5)
        ]

        async def full() -> bool:
            told: dict[str, Any] = (await client.get("/status", headers=root)).json()["tenant_requests"]
            return told == {"acme": {"used": 6, "total": 6}}

        await until(full)
        refused = await client.post("/generate", data=long, headers=one)
        assert told(refused) == (429, "rate_limited")
        assert "OVERTONE_TENANT_REQUESTS" in refused.json()["detail"]
        waiting = asyncio.create_task(client.post("/generate", data=ASK["data"], headers=rival))

        async def taken() -> bool:
            return "rival" in (await client.get("/status", headers=root)).json()["tenant_requests"]

        await until(taken)
        for task in asked:
            task.cancel()
        assert (await waiting).status_code == 200
        await asyncio.gather(*asked, return_exceptions=True)


async def test_a_revoked_key_is_refused_without_a_restart(asked: As) -> None:
    assert (await asked("rival-narrow", "GET", "/adapters")).status_code == 200
    revoke(asked.file, asked.ids["rival-narrow"])

    async def refused() -> bool:
        return (await asked("rival-narrow", "GET", "/adapters")).status_code == 401

    await until(refused)
    assert (await asked("rival", "GET", "/adapters")).status_code == 200


async def test_ready_shows_each_caller_its_own(asked: As):
    hidden = ("adapters", "broken_adapters", "active", "resident", "running", "waiting")
    stranger = (await asked.client.get("/ready")).json()
    wrong = (await asked.client.get("/ready", headers={"X-API-Key": "ot_wrong"})).json()
    for told in (stranger, wrong):
        assert told["status"] == "ready"
        assert {told[field] for field in hidden} == {None}
    tenant = (await asked("acme", "GET", "/ready")).json()
    assert tenant["adapters"] == len(await asked.names("acme"))
    assert {tenant[field] for field in ("resident", "running", "waiting")} == {None}
    root = (await asked("root", "GET", "/ready")).json()
    assert all(isinstance(root[field], int) for field in hidden if field != "active")


async def test_ids_of_requests_say_nothing_of_how_many_there_were(asked: As):
    found = [(await asked(who, "POST", "/generate", **ASK, files=audio())).json()["id"] for who in ("acme", "rival")]
    assert found[0] != found[1]
    assert all(len(one) == len("req-") + 16 for one in found)


async def test_a_name_that_another_tenant_gave_up_brings_no_usage(asked: As, packed: bytes):
    assert (await asked.upload("acme", "reused", packed)).status_code == 201
    assert (
        await asked("acme", "POST", "/generate", data={**ASK["data"], "adapter": "reused"}, files=audio())
    ).is_success
    assert (await asked("acme", "GET", "/adapters/reused")).json()["usage"]["requests"] == 1
    assert (await asked("acme", "DELETE", "/adapters/reused")).is_success
    assert (await asked.upload("rival", "reused", packed)).status_code == 201
    assert (await asked("rival", "GET", "/adapters/reused")).json()["usage"]["requests"] == 0
    await asked("rival", "DELETE", "/adapters/reused")


async def test_encoded_audio_is_kept_for_each_tenant_alone(asked: As):
    async def first_and_again(who: str) -> list[float]:
        hits = []
        for _ in range(2):
            before = await _hits(asked)
            assert (await asked(who, "POST", "/generate", **ASK, files=audio(wav(tone(777, 0.5))))).is_success
            hits.append(await _hits(asked) - before)
        return hits

    assert await first_and_again("acme") == [0, 1]
    assert await first_and_again("rival") == [0, 1]


async def _hits(asked: As) -> float:
    text = (await asked("root", "GET", "/metrics")).text
    (line,) = [one for one in text.splitlines() if one.startswith("overtone_encoder_cache_hits_total ")]
    return float(line.split()[1])


async def test_an_adapter_that_goes_meanwhile_is_missed_without_names_of_others(asked: As, packed: bytes, monkeypatch):
    assert (await asked.upload("acme", "acme-secret-x", packed)).status_code == 201
    assert (await asked.upload("rival", "acme-secret-y", packed)).status_code == 201
    real = TenantRegistry.check_change

    def gone_after_the_check(self: TenantRegistry, name: str) -> None:
        real(self, name)
        self.whole.remove(name)

    monkeypatch.setattr(TenantRegistry, "check_change", gone_after_the_check)
    response = await asked("rival", "DELETE", "/adapters/acme-secret-y")
    assert response.status_code == 404
    assert "acme-secret-x" not in response.text
    monkeypatch.undo()
    assert (await asked.upload("rival", "acme-secret-y", packed)).status_code == 201
    for method in ("current", "versions"):
        with monkeypatch.context() as patch:
            patch.setattr(LocalRegistry, method, gone)
            response = await asked("rival", "POST", "/adapters/acme-secret-y/rollback")
        assert response.status_code == 404
        assert "acme-secret-x" not in response.text
    await asked("acme", "DELETE", "/adapters/acme-secret-x")


def gone(self: LocalRegistry, name: str) -> None:
    raise AdapterNotFound(name, ["acme-secret-x"])
