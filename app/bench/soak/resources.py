"""Resources of a server, read from its metrics and its folders."""

import asyncio
import http.client
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpx
from prometheus_client.parser import text_string_to_metric_families

from app.bench.soak.tenants import Keys

SETTLE_S = 20.0
USUAL = httpx.Limits(max_connections=100, max_keepalive_connections=20)
PROBE_S = 0.1  # between two probes of /health
PROBE_WAITS_S = 60.0


@dataclass(frozen=True)
class ResourceUsage:
    """``memory``: resident bytes. ``leftovers``: entries of the staging and temporary folders."""

    memory: int
    open_files: int
    kv_pages: int
    slots: int
    pins: int
    in_line: int
    leftovers: int

    def beyond(self, start: "ResourceUsage", memory_tolerance: int) -> list[str]:
        """The resources that exceed those at ``start``; memory by more than the tolerance in bytes."""
        now, then = asdict(self), asdict(start)
        then["memory"] += memory_tolerance
        more = [what for what in now if now[what] > then[what]]
        return [f"{what}: {now[what]} at the end, {getattr(start, what)} at the start" for what in more]


@dataclass(frozen=True)
class Server:
    """A running server: where it answers, its registry, and the folder of its temporary files.

    ``keys``: those that it asks for, where it has tenants.
    """

    url: str
    registry: Path
    temporary: Path
    keys: Keys | None = None

    def client(self, timeout: float, limits: httpx.Limits = USUAL) -> httpx.AsyncClient:
        """A client with the operator's key, where there are keys."""
        headers = {"X-API-Key": self.keys.operator} if self.keys else {}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=timeout, limits=limits, trust_env=False)


class HealthProbe:
    """Asks `/health` again and again, on a thread of its own. ``worst``: the longest wait, s; ``failures``: others."""

    def __init__(self, url: str) -> None:
        self.worst = 0.0
        self.failures = 0
        self._address = urlsplit(url)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health-probe")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(PROBE_S):
            begun = time.monotonic()
            status = 0
            connection = http.client.HTTPConnection(
                str(self._address.hostname), self._address.port, timeout=PROBE_WAITS_S
            )
            with suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/health")
                status = connection.getresponse().status
            connection.close()
            self.worst = max(self.worst, time.monotonic() - begun)
            self.failures += status != 200


async def metrics(client: httpx.AsyncClient) -> dict[str, float]:
    """Every metric without labels, by name."""
    text = (await client.get("/metrics")).raise_for_status().text
    families = text_string_to_metric_families(text)
    return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


async def resource_usage(server: Server) -> ResourceUsage:
    """The use at this moment, read over a connection of its own."""
    async with server.client(timeout=60) as client:
        values = await metrics(client)
    folders = (server.registry / ".staging", server.temporary)
    return ResourceUsage(
        memory=int(values["process_resident_memory_bytes"]),
        open_files=int(values["process_open_fds"]),
        kv_pages=int(values["overtone_kv_pages_used"]),
        slots=int(values["overtone_slots_used"]),
        pins=int(values["overtone_slots_pinned"]),
        in_line=int(values["overtone_queue_depth"] + values["overtone_running_sequences"]),
        leftovers=sum(len(list(folder.iterdir())) for folder in folders if folder.is_dir()),
    )


async def settled(server: Server, enough: Callable[[ResourceUsage], bool]) -> ResourceUsage:
    """Once ``enough`` is true of it: connections and requests of clients that have gone end within moments."""
    deadline = time.monotonic() + SETTLE_S
    while not enough(found := await resource_usage(server)) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    return found
