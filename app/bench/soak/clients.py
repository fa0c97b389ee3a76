"""Many clients at once; each request is drawn at random, and some clients disconnect before the end."""

import asyncio
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import httpx

from app.bench.client import Reply, ask
from app.bench.soak.tenants import own_adapter
from app.bench.soak.workload import MIX, NEW_TOKENS, PROMPTS, SETS, Sound
from app.service.adapters import BASE

LEAVING = 0.2  # share of the questions whose client goes away at a moment drawn from the time that an answer takes
# Relative frequency of each; None: the selected adapter. What is served alone, outside the batch,
# is slow, so it gets few.
SHARES = {None: 4, BASE: 4, MIX: 5} | dict.fromkeys(SETS, 6) | {"drum": 1}
OWN = 0.2  # share of a tenant's questions that are for the adapter of its own
LOST_S = 120.0  # no end after this long counts as lost


@dataclass(frozen=True)
class CompletedRequest:
    """One request that ended by itself; moments of `time.monotonic`. ``adapter``: none for the selected one."""

    request_id: str
    adapter: str | None
    sound: int
    prompt: int
    begun: float
    reply: Reply

    @property
    def ended(self) -> float:
        return self.begun + self.reply.seconds


@dataclass
class ClientPool:
    """The clients and their results. ``lost``: requests without any end, by id. ``first``: ids go on after it.

    ``keys``: by tenant; each client is of one of these tenants, without any, no client sends a key.
    """

    http: httpx.AsyncClient
    sounds: Sequence[Sound]
    drawn: random.Random
    first: int = 0
    keys: Mapping[str, str] = field(default_factory=dict)
    asked: list[CompletedRequest] = field(default_factory=list)
    left: int = 0
    lost: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.number = self.first

    async def ask_until(self, until: float, clients: int) -> None:
        """All clients at once; each sends requests until then, and reads its last answer to the end."""
        tenants: list[str | None] = [*self.keys] or [None]
        await asyncio.gather(*(self._client(until, tenants[number % len(tenants)]) for number in range(clients)))

    async def _client(self, until: float, tenant: str | None) -> None:
        while time.monotonic() < until:
            await self._one(tenant)

    async def _one(self, tenant: str | None) -> None:
        drawn = self.drawn
        adapter = drawn.choices(list(SHARES), list(SHARES.values()))[0]
        if tenant and drawn.random() < OWN:
            adapter = own_adapter(tenant)
        sound, prompt = drawn.randrange(len(self.sounds)), drawn.randrange(len(PROMPTS))
        fields = {"prompt": PROMPTS[prompt], "max_new_tokens": str(NEW_TOKENS)}
        fields |= {"adapter": adapter} if adapter else {}
        leaves = drawn.random() < LEAVING
        patience = drawn.uniform(0, self._usual()) if leaves else LOST_S
        self.number += 1
        request_id, begun = f"client-{self.number}", time.monotonic()
        try:
            async with asyncio.timeout(patience):
                key = self.keys[tenant] if tenant else ""
                reply = await ask(self.http, fields, self.sounds[sound].data, request_id, key)
        except TimeoutError:
            if leaves:
                self.left += 1
            else:
                self.lost.append(f"{request_id} ({adapter}): no end after {LOST_S:.0f} s")
        except httpx.TransportError as error:
            self.lost.append(f"{request_id} ({adapter}): {type(error).__name__} {error}")
        else:
            self.asked.append(CompletedRequest(request_id, adapter, sound, prompt, begun, reply))

    def _usual(self) -> float:
        """Seconds that answers took lately."""
        return statistics.median([asked.reply.seconds for asked in self.asked[-50:]] or [1.0])
