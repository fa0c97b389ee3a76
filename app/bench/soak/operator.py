"""An operator that changes adapters under load: uploads, selections, unloads, deletions, rollbacks."""

import random
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import httpx

from app.bench.soak.workload import MIX, SETS, Adapter


class Operator:
    """Knows which weights every version (uid) has, from the answers to its own requests.

    ``faults``: answers that a working server does not give.
    """

    def __init__(self, http: httpx.AsyncClient, adapters: Mapping[str, Adapter], drawn: random.Random) -> None:
        self.http = http
        self.weights: dict[str, str] = {}
        self.done: Counter[str] = Counter()
        self.faults: list[str] = []
        self._adapters = adapters
        self._drawn = drawn
        self._absent: dict[str, list[list[float]]] = {name: [] for name in SETS}
        self._current: dict[str, str] = {}

    async def begin(self) -> None:
        """Publish one version of every name."""
        for name in SETS:
            await self._upload(name)

    async def work(self, until: float) -> None:
        """One change after another; ``until`` is of `time.monotonic`."""
        acts = [
            (self._upload, 5),
            (self._select, 3),
            (self._roll_back, 3),
            (self._unload, 2),
            (self._delete, 1),
            (self._pin, 1),
        ]
        while time.monotonic() < until:
            name = self._drawn.choice(list(SETS))
            if name not in self._current:
                await self._upload(name)
                continue
            (act,) = self._drawn.choices([act for act, _ in acts], [weight for _, weight in acts])
            await act(name)

    async def clear(self) -> None:
        """Take every adapter out of service and free all slots."""
        for name in list(self._current):
            await self._delete(name)
        await self._unload(None)

    def was_gone(self, name: str, begin: float, end: float) -> bool:
        """True where ``name`` was out of service at any moment of that time."""
        return any(gone < end and begin < back for gone, back in self._absent[name])

    async def _upload(self, name: str) -> None:
        key = f"{name}.{self._drawn.randrange(len(SETS[name]))}"
        form = {"name": name, "replace": "true"}
        files = {"file": (f"{name}.zip", self._adapters[key].archive)}
        reply = await self._call("upload", 201, "POST", "/adapters", data=form, files=files)
        if reply:
            self._set_current(name, reply, key)

    async def _roll_back(self, name: str) -> None:
        """To the version before, or to any that is there; sometimes there is none."""
        known = await self._call("look", 200, "GET", f"/adapters/{name}")
        older = [version for version in known.get("versions", ()) if version < known["version"]]
        others = [version for version in known.get("versions", ()) if version != known["version"]]
        chosen = self._drawn.choice(others) if others and self._drawn.random() < 0.5 else None
        wanted = chosen or max(older, default=None)
        body = {} if chosen is None else {"version": chosen}
        expected = 404 if wanted is None else 200
        reply = await self._call("roll back", expected, "POST", f"/adapters/{name}/rollback", json=body)
        if reply and wanted is not None:
            self._set_current(name, reply, self.weights[f"{name}@{wanted}"])

    async def _select(self, name: str) -> None:
        mix = [part.partition(":")[0] for part in MIX.split(",")]
        choices = [name, "base"] + ([MIX] if self._current.keys() >= set(mix) else [])
        await self._call("select", 200, "POST", f"/adapters/{self._drawn.choice(choices)}/select")

    async def _unload(self, name: str | None) -> None:
        body = {} if name is None or self._drawn.random() < 0.5 else {"adapter": name}
        reply = await self._call("unload", 200, "POST", "/unload", json=body)
        if reply and not reply["unchanged"]:
            self.faults.append(f"unload: the base model has changed: {reply['fingerprint']}")

    async def _delete(self, name: str) -> None:
        self._absent[name].append([time.monotonic(), float("inf")])
        if await self._call("delete", 200, "DELETE", f"/adapters/{name}"):
            self._current.pop(name)

    async def _pin(self, name: str) -> None:
        await self._call("pin", 200, "POST", f"/adapters/{name}/pin")
        await self._call("unpin", 200, "POST", f"/adapters/{name}/pin", json={"pinned": False})

    def _set_current(self, name: str, reply: Mapping[str, Any], key: str) -> None:
        """A version that is current now, with these weights; a uid never gets others."""
        uid = f"{name}@{reply['version']}"
        if self.weights.setdefault(uid, key) != key:
            self.faults.append(f"{uid} had the weights {self.weights[uid]} and was given to {key}")
        self._current[name] = uid
        if self._absent[name] and self._absent[name][-1][1] == float("inf"):
            self._absent[name][-1][1] = time.monotonic()

    async def _call(self, what: str, expected: int, method: str, path: str, **content: Any) -> dict[str, Any]:
        """The answer's body; empty, and a fault, when it is not the expected one."""
        self.done[what] += 1
        request_id = f"operator-{self.done.total()}"
        try:
            answer = await self.http.request(method, path, headers={"X-Request-Id": request_id}, **content)
        except httpx.TransportError as error:
            self.faults.append(f"{request_id}: {what} {path}: {type(error).__name__} {error}")
            return {}
        if answer.status_code != expected:
            self.faults.append(f"{request_id}: {what} {path}: {answer.status_code} {answer.text[:300]}")
            return {}
        reply: dict[str, Any] = answer.json()
        return reply
