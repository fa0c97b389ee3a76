"""What a server holds, read from its metrics and its folders."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

SETTLE_S = 20.0


@dataclass(frozen=True)
class Footprint:
    """``memory``: resident bytes. ``leftovers``: entries of the staging and temporary folders."""

    memory: int
    open_files: int
    kv_pages: int
    slots: int
    pins: int
    in_line: int
    leftovers: int

    def beyond(self, start: "Footprint", memory_tolerance: int) -> list[str]:
        """What there is more of than at ``start``; memory may be that many bytes more."""
        now, then = asdict(self), asdict(start)
        then["memory"] += memory_tolerance
        more = [what for what in now if now[what] > then[what]]
        return [f"{what}: {now[what]} at the end, {getattr(start, what)} at the start" for what in more]


@dataclass(frozen=True)
class Server:
    """A running server: where it answers, its registry, and the folder of its temporary files."""

    url: str
    registry: Path
    temporary: Path


async def metrics(http: httpx.AsyncClient) -> dict[str, float]:
    """Every metric without labels, by name."""
    text = (await http.get("/metrics")).raise_for_status().text
    families = text_string_to_metric_families(text)
    return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


async def footprint(server: Server) -> Footprint:
    """As it is at this moment, over a connection of its own."""
    async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as http:
        told = await metrics(http)
    folders = (server.registry / ".staging", server.temporary)
    return Footprint(
        memory=int(told["process_resident_memory_bytes"]),
        open_files=int(told["process_open_fds"]),
        kv_pages=int(told["overtone_kv_pages_used"]),
        slots=int(told["overtone_slots_used"]),
        pins=int(told["overtone_slots_pinned"]),
        in_line=int(told["overtone_queue_depth"] + told["overtone_running_sequences"]),
        leftovers=sum(len(list(folder.iterdir())) for folder in folders if folder.is_dir()),
    )


async def settled(server: Server, enough: Callable[[Footprint], bool]) -> Footprint:
    """Once ``enough`` is true of it: connections and requests of clients that have gone end within moments."""
    deadline = time.monotonic() + SETTLE_S
    while not enough(found := await footprint(server)) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    return found
