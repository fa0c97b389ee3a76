"""A tenant that attacks without a pause, beside the others: nothing that it sends may stop or change their answers."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httpx

from app.bench.soak import payloads
from app.bench.soak.tenants import HONEST, own_adapter
from app.bench.soak.workload import Adapter, Sound

AT_ONCE = 6  # attacks of other kinds at the same time
NO_END_S = 60.0  # no answer after this long is a fault
BIG = 65 << 20  # bytes of a body that is larger than any request may be
Answer = tuple[int, Any]  # status, JSON or text

# Statuses that an attack may get: it is served, or refused with a reason.
FINE = frozenset({200, 201, 202, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429})
REFUSED = FINE - {200, 201, 202}
ABSENT = frozenset({404, 429})  # 429: its own limit of requests at a time


class HostileTenant:
    """``done``: attacks by kind. ``faults``: answers that no attack may get, or that name other tenants' data."""

    def __init__(self, url: str, key: str, adapters: Mapping[str, Adapter], sounds: Sequence[Sound]) -> None:
        self.done: Counter[str] = Counter()
        self.answered: Counter[int] = Counter()
        self.faults: list[str] = []
        self._url, self._key, self._drawn = url, key, random.Random(0)
        folder = adapters["alto.0"].folder
        self._own = adapters["bass.0"].archive
        self._seeds = payloads.recordings(sounds)
        self._bad = payloads.refused_adapters(folder)
        self._patterned = payloads.patterned_adapter(folder)
        self._overflowing = payloads.overflowing_adapter(folder)
        self._bombs = payloads.bombs()
        self._bodies = payloads.json_bodies()
        self._silence = payloads.silence(590)
        self._sets = [payloads.data_set(climbs) for climbs in (False, True)]
        self._http: httpx.AsyncClient

    async def attack(self, until: float) -> None:
        """Several attacks at a time until then (of `time.monotonic`); afterwards nothing of this tenant is left."""
        headers = {"X-API-Key": self._key}
        limits = httpx.Limits(max_connections=None, keepalive_expiry=2.0)
        async with httpx.AsyncClient(
            base_url=self._url, headers=headers, timeout=NO_END_S, limits=limits, trust_env=False
        ) as self._http:
            await asyncio.gather(*(self._go_on(number, until) for number in range(AT_ONCE)))
            await self._clear()

    async def _go_on(self, number: int, until: float) -> None:
        kinds: list[Callable[[], Awaitable[None]]] = [
            self._recordings,
            self._adapters,
            self._overflow,
            self._archives,
            self._fields,
            self._abandoned,
            self._others_names,
            self._long_audio,
            self._oversize,
            self._jobs,
            self._slow_uploads,
            self._idle_connections,
            self._unloads,
        ]
        turn = number * len(kinds) // AT_ONCE
        while time.monotonic() < until:
            kind = kinds[turn % len(kinds)]
            self.done[kind.__name__.strip("_").replace("_", " ")] += 1
            await kind()
            turn += 1

    async def _recordings(self) -> None:
        asked = [
            self._ask(payloads.damaged(self._drawn.choice(self._seeds), self._drawn), adapter="base") for _ in range(6)
        ]
        await asyncio.gather(*asked)

    async def _adapters(self) -> None:
        for what in self._drawn.sample(list(self._bad), 4):
            await self._upload(what, self._bad[what], REFUSED)
        await self._upload("a pattern that searches for long", self._patterned, FINE)

    async def _overflow(self) -> None:
        """Its answers fail in the batch that holds the others' rows."""
        name = f"overflowing-{self._drawn.randrange(3)}"
        await self._upload("overflow", self._overflowing, FINE, name)
        await asyncio.gather(*(self._ask(self._seeds[0], adapter=name, engine_fault=True) for _ in range(6)))

    async def _archives(self) -> None:
        what = self._drawn.choice(list(self._bombs))
        await self._upload(what, self._bombs[what], REFUSED)
        form = {"file": ("d.zip", self._bombs[what])}
        await self._send(what, REFUSED, "POST", "/training/jobs", data={"name": "bomb"}, files=form)

    async def _fields(self) -> None:
        for what in self._drawn.sample(list(self._bodies), 3):
            body, kind = self._bodies[what], {"Content-Type": "application/json"}
            await self._send(what, REFUSED, "POST", "/v1/chat/completions", content=body, headers=kind)
        name = self._drawn.choice(["..%2f..%2fetc", "a%00b", "x%0D%0AINFO%20forged", "%1b[31m", "n" * 8_000])
        await self._send("a name that is none", REFUSED, "GET", f"/adapters/{name}")

    async def _abandoned(self) -> None:
        """Long answers whose client goes in the middle."""
        await asyncio.gather(*(self._abandon() for _ in range(6)))

    async def _abandon(self) -> None:
        fields = {"adapter": "base", "max_new_tokens": "400", "stream": "true", "prompt": "Go on for ever."}
        files = {"audio": self._seeds[1]}
        with suppress(TimeoutError, httpx.TransportError):
            async with (
                asyncio.timeout(self._drawn.uniform(0.2, 4)),
                self._http.stream("POST", "/generate", data=fields, files=files) as answer,
            ):
                self._judge("a stream", answer.status_code, FINE, "")
                async for _ in answer.aiter_lines():
                    pass

    async def _others_names(self) -> None:
        for tenant in HONEST:
            name = own_adapter(tenant)
            for method, path in (
                ("GET", ""),
                ("DELETE", ""),
                ("POST", "/rollback"),
                ("POST", "/select"),
                ("POST", "/pin"),
                ("GET", "/download"),
            ):
                await self._send("another's adapter", ABSENT, method, f"/adapters/{name}{path}")
            await self._ask(self._seeds[0], adapter=name, allowed=ABSENT)
            await self._ask(self._seeds[0], adapter=name[:-1], allowed=ABSENT)
            await self._upload("another's name", self._own, frozenset({409, 429}), name)

    async def _long_audio(self) -> None:
        """Requests that can never fit: a compressed file of silence, and one recording named 400 times."""
        many = [("audio", ("a.flac", self._silence))] * 16
        await self._send("16 long recordings", REFUSED, "POST", "/generate", data={"prompt": "x"}, files=many)
        content = [{"type": "audio", "index": 0}] * 400
        fields = {"messages": json.dumps([{"role": "user", "content": content}])}
        one = {"audio": ("a.flac", self._silence)}
        await self._send("one recording, named 400 times", REFUSED, "POST", "/generate", data=fields, files=one)

    async def _oversize(self) -> None:
        async def blocks() -> Any:
            for _ in range(BIG >> 20):
                yield bytes(1 << 20)

        kind = {"Content-Type": "application/json"}
        with suppress(httpx.TransportError):  # the server may close the connection amid the body
            await self._send("a body too large", REFUSED, "POST", "/generate", content=blocks(), headers=kind)

    async def _jobs(self) -> None:
        for number in range(8):
            form = {"name": f"job-{number}", "epochs": "1000", "check": str(number % 2 == 0).lower()}
            files = {"file": ("d.zip", self._drawn.choice(self._sets))}
            await self._send("a training job", FINE, "POST", "/training/jobs", data=form, files=files)
        await self._end_jobs(8)

    async def _slow_uploads(self) -> None:
        head = f"POST /generate HTTP/1.1\r\nHost: {self._host}\r\nX-API-Key: {self._key}\r\n"
        head += "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000000\r\n\r\n"
        heads = [head, head[:40], "GET /health HTTP/1.1\r\nHost: x\r\nA: " + "x" * 200_000]
        await asyncio.gather(*(self._trickle(one, 10) for one in heads * 4))

    async def _idle_connections(self) -> None:
        await asyncio.gather(*(self._trickle("", 3) for _ in range(40)))

    async def _trickle(self, head: str, seconds: int) -> None:
        """Send ``head``, then a byte each second, and go without a word."""
        address = urlsplit(self._url)
        with suppress(OSError):
            _, writer = await asyncio.open_connection(address.hostname, address.port)
            with suppress(OSError):
                writer.write(head.encode())
                for _ in range(seconds):
                    await writer.drain()
                    await asyncio.sleep(1)
                    writer.write(b"x")
            writer.transport.abort()

    async def _unloads(self) -> None:
        """Frees nothing of others, and makes no probe wait."""
        asked = [self._send("unload", FINE, "POST", "/unload") for _ in range(20)]
        await asyncio.gather(*asked, self._send("select", FINE, "POST", "/adapters/base/select"))

    @property
    def _host(self) -> str:
        return urlsplit(self._url).netloc

    async def _ask(
        self, recording: bytes, adapter: str, allowed: frozenset[int] = FINE, engine_fault: bool = False
    ) -> None:
        fields = {"adapter": adapter, "max_new_tokens": "16", "prompt": "x"}
        also = frozenset({500}) if engine_fault else frozenset[int]()
        status, reply = await self._send(
            f"asked {adapter}", allowed | also, "POST", "/generate", data=fields, files={"audio": recording}
        )
        if status == 500 and not (isinstance(reply, dict) and reply.get("code") == "engine_fault"):
            self.faults.append(f"asked {adapter}: 500 {reply}")

    async def _upload(self, what: str, archive: bytes, allowed: frozenset[int], name: str = "hostile-one") -> None:
        form, files = {"name": name, "replace": "true"}, {"file": ("a.zip", archive)}
        await self._send(what, allowed, "POST", "/adapters", data=form, files=files)

    async def _send(self, what: str, allowed: frozenset[int], method: str, path: str, **content: Any) -> Answer:
        """Status and JSON of the answer, which is judged; 0 where the connection failed."""
        try:
            answer = await self._http.request(method, path, **content)
        except httpx.TimeoutException:
            self.faults.append(f"{what}: no answer after {NO_END_S:.0f} s")
            return 0, None
        except httpx.TransportError as error:
            if "content" not in content and "files" not in content:  # an upload may be cut off
                self.faults.append(f"{what}: {type(error).__name__} {error}")
            return 0, None
        named = path + str(content.get("data", ""))
        self._judge(what, answer.status_code, allowed, "" if answer.status_code == 409 else answer.text, named)
        try:
            return answer.status_code, answer.json()
        except ValueError:
            return answer.status_code, answer.text[:300]

    def _judge(self, what: str, status: int, allowed: frozenset[int], text: str, named: str = "") -> None:
        self.answered[status] += 1
        if status not in allowed:
            self.faults.append(f"{what}: {status} {text[:300]}")
        for other in map(own_adapter, HONEST):
            if other in text and other not in named:
                self.faults.append(f"{what}: the answer names {other}, another tenant's: {text[:300]}")

    async def _end_jobs(self, most: int | None = None) -> int:
        """Cancel and delete up to ``most`` jobs of this tenant; how many there were."""
        _, reply = await self._send("its jobs", FINE, "GET", "/training/jobs")
        jobs = reply.get("jobs", []) if isinstance(reply, dict) else []
        for job in jobs[:most]:
            path = f"/training/jobs/{job['id']}"
            if job["state"] in ("queued", "running"):
                await self._send("end of a job", FINE, "DELETE", path)
            else:
                await self._send("deletion of a job", FINE, "DELETE", path, params={"purge": "true"})
        return len(jobs)

    async def _clear(self) -> None:
        """Its adapters and jobs are gone."""
        deadline = time.monotonic() + NO_END_S
        while await self._end_jobs() and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        _, reply = await self._send("its adapters", FINE, "GET", "/adapters")
        for adapter in reply.get("adapters", []) if isinstance(reply, dict) else []:
            if (adapter.get("manifest") or {}).get("owner"):
                await self._send("deletion", FINE, "DELETE", f"/adapters/{adapter['name']}")
