"""The hostile tenant's payloads are what they say, and what no attack may get is a fault."""

import asyncio
import io
import json
import random
import time
import zipfile

import httpx
import numpy as np
import pytest
from safetensors.numpy import load, save

from app.access.keyring import Keyring
from app.bench.soak import payloads
from app.bench.soak.hostile import ABSENT, FINE, REFUSED, HostileTenant
from app.bench.soak.resources import HealthProbe, Server
from app.bench.soak.run import Workload, _Soak
from app.bench.soak.tenants import HONEST, own_adapter, write
from app.bench.soak.workload import Adapter, sounds


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Adapter]:
    folder = tmp_path_factory.mktemp("adapter")
    (folder / payloads.CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    (folder / payloads.WEIGHTS).write_bytes(save({"a": np.ones((4, 8), np.float32), "b": np.ones((8, 4), np.float32)}))
    return {name: Adapter(folder, b"") for name in ("alto.0", "bass.0")}


@pytest.fixture
def hostile(adapters: dict[str, Adapter]) -> HostileTenant:
    return HostileTenant("http://127.0.0.1:9", "key", adapters, sounds())


def test_filled_weights_are_whole_files(adapters: dict[str, Adapter]) -> None:
    made = payloads.filled((adapters["alto.0"].folder / payloads.WEIGHTS).read_bytes(), 3e38)
    assert {name: (tensor.shape, set(tensor.ravel())) for name, tensor in load(made).items()} == {
        "a": ((4, 8), {np.float32(3e38)}),
        "b": ((8, 4), {np.float32(3e38)}),
    }


def test_archives_are_small_and_unfold() -> None:
    bombs = payloads.bombs()
    assert max(map(len, bombs.values())) < 8 << 20
    with zipfile.ZipFile(io.BytesIO(bombs["zip of zeros"])) as archive:
        assert sum(entry.file_size for entry in archive.infolist()) > 100 << 20
    with zipfile.ZipFile(io.BytesIO(bombs["many files"])) as archive:
        assert len(archive.namelist()) == 60_000


def test_damage_is_drawn_anew() -> None:
    drawn, seed = random.Random(0), payloads.recordings(sounds())[0]
    assert len({payloads.damaged(seed, drawn) for _ in range(20)} - {seed}) == 20


def test_what_no_attack_may_get_is_a_fault(hostile: HostileTenant) -> None:
    secret = own_adapter(HONEST[0])
    hostile._judge("a", 422, REFUSED, "")
    hostile._judge("a", 200, FINE, "alto")
    hostile._judge("a", 404, ABSENT, f"no {secret}", f"/adapters/{secret}")
    assert hostile.faults == []
    hostile._judge("a crash", 500, FINE, "oops")
    hostile._judge("taken", 200, REFUSED, "")
    hostile._judge("another's", 403, ABSENT, "")
    hostile._judge("a leak", 404, ABSENT, f"did you mean {secret}?", f"/adapters/{secret[:-1]}")
    assert [fault.partition(":")[0] for fault in hostile.faults] == ["a crash", "taken", "another's", "a leak"]


async def test_what_is_never_answered_is_a_fault(hostile: HostileTenant) -> None:
    async with httpx.AsyncClient(base_url="http://127.0.0.1:9", trust_env=False) as hostile._http:
        await hostile._send("a look", FINE, "GET", "/adapters")
    assert [fault.partition(":")[0] for fault in hostile.faults] == ["a look"]


def test_an_engine_s_fault_is_the_only_500(hostile: HostileTenant) -> None:
    async def answered(body: dict[str, str]) -> None:
        transport = httpx.MockTransport(lambda _: httpx.Response(500, json=body))
        async with httpx.AsyncClient(base_url="http://x", transport=transport) as hostile._http:
            await hostile._ask(b"", "overflowing-0", engine_fault=True)

    asyncio.run(answered({"code": "engine_fault"}))
    assert hostile.faults == []
    asyncio.run(answered({"code": "internal_error"}))
    assert len(hostile.faults) == 1


def test_slow_probes_and_memory_are_failures(adapters: dict[str, Adapter], tmp_path) -> None:
    soak = _Soak(Server("", tmp_path, tmp_path), 1, 1, Workload([], adapters, {}), print)
    soak.fresh_memory = 500 << 20
    health = HealthProbe("http://127.0.0.1:9")
    health.worst = 0.9
    assert soak._beside(1523 << 20, health) == []
    health.worst, health.failures = 1.1, 2
    told = soak._beside(1525 << 20, health)
    assert [one.split()[0] for one in told] == ["memory:", "/health", "/health"]


def test_a_probe_sees_that_nobody_answers() -> None:
    end = time.monotonic() + 60
    with HealthProbe("http://127.0.0.1:9") as health:
        while not health.failures and time.monotonic() < end:
            time.sleep(0.05)
    assert health.failures


def test_the_keys_are_of_tenants(tmp_path) -> None:
    keys = write(tmp_path / "keys.json")
    ring = Keyring(file=tmp_path / "keys.json")
    callers = [ring.find(key) for key in (keys.operator, *keys.honest.values(), keys.hostile)]
    assert [caller.tenant for caller in callers if caller] == [None, *HONEST, "hostile"]
