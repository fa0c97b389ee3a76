"""Who asks: many clients at once, each question drawn anew, some of which leave before the end."""

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

from app.bench.client import Reply, ask
from app.bench.soak.repertoire import MIX, NEW_TOKENS, PROMPTS, SETS, Sound
from app.service import BASE

LEAVING = 0.2  # share of the questions whose client goes away at a moment drawn from the time that an answer takes
# How often each is asked for; None: whichever the operator has selected. What is served alone, outside the batch,
# is slow, so it gets few.
SHARES = {None: 4, BASE: 4, MIX: 5} | dict.fromkeys(SETS, 6) | {"drum": 1}
LOST_S = 120.0  # no end after this long counts as lost


@dataclass(frozen=True)
class Asked:
    """One question that ended by itself; moments of `time.monotonic`. ``adapter``: none for the selected one."""

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
class Crowd:
    """What the clients saw. ``lost``: questions without any end, by request id. ``first``: ids go on after it."""

    http: httpx.AsyncClient
    sounds: Sequence[Sound]
    drawn: random.Random
    first: int = 0
    asked: list[Asked] = field(default_factory=list)
    left: int = 0
    lost: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.number = self.first

    async def ask_until(self, until: float, clients: int) -> None:
        """All clients at once; each asks on until then, and hears its last answer to the end."""
        await asyncio.gather(*(self._client(until) for _ in range(clients)))

    async def _client(self, until: float) -> None:
        while time.monotonic() < until:
            await self._one()

    async def _one(self) -> None:
        drawn = self.drawn
        adapter = drawn.choices(list(SHARES), list(SHARES.values()))[0]
        sound, prompt = drawn.randrange(len(self.sounds)), drawn.randrange(len(PROMPTS))
        fields = {"prompt": PROMPTS[prompt], "max_new_tokens": str(NEW_TOKENS)}
        fields |= {"adapter": adapter} if adapter else {}
        leaves = drawn.random() < LEAVING
        patience = drawn.uniform(0, self._usual()) if leaves else LOST_S
        self.number += 1
        request_id, begun = f"client-{self.number}", time.monotonic()
        try:
            async with asyncio.timeout(patience):
                reply = await ask(self.http, fields, self.sounds[sound].data, request_id)
        except TimeoutError:
            if leaves:
                self.left += 1
            else:
                self.lost.append(f"{request_id} ({adapter}): no end after {LOST_S:.0f} s")
        except httpx.TransportError as error:
            self.lost.append(f"{request_id} ({adapter}): {type(error).__name__} {error}")
        else:
            self.asked.append(Asked(request_id, adapter, sound, prompt, begun, reply))

    def _usual(self) -> float:
        """Seconds that answers took lately."""
        return statistics.median([asked.reply.seconds for asked in self.asked[-50:]] or [1.0])
