"""Tenants share a semaphore fairly."""

import asyncio
import random

from app.api.fair_semaphore import FairSemaphore


async def test_tenants_take_turns() -> None:
    """One tenant asks for many permits first; each other tenant waits for one of them, not for all."""
    semaphore, order = FairSemaphore(1), list[str | None]()

    async def work(tenant: str | None) -> None:
        async with semaphore.acquire(tenant):
            order.append(tenant)
            await asyncio.sleep(0)

    async with semaphore.acquire("first"):
        asked = [asyncio.create_task(work(tenant)) for tenant in [*["many"] * 5, "one", None, "one"]]
        await asyncio.sleep(0)
        assert order == []
    await asyncio.gather(*asked)
    assert order == ["many", "one", None, "many", "one", "many", "many", "many"]


async def test_no_permit_is_lost_or_taken_twice_whoever_gives_up() -> None:
    drawn, inside, most = random.Random(3), 0, 0
    semaphore = FairSemaphore(3)

    async def work(tenant: str) -> None:
        nonlocal inside, most
        async with semaphore.acquire(tenant):
            inside += 1
            most = max(most, inside)
            try:
                await asyncio.sleep(drawn.choice((0, 0.0001)))
            finally:
                inside -= 1

    for _ in range(30):
        asked = [asyncio.create_task(work(drawn.choice("abc"))) for _ in range(20)]
        for _ in range(drawn.randrange(6)):
            await asyncio.sleep(0)
        for task in drawn.sample(asked, 8):
            task.cancel()
        async with asyncio.timeout(60):
            await asyncio.gather(*asked, return_exceptions=True)
        assert (inside, semaphore._free, semaphore._waiting) == (0, 3, {})
    assert most == 3
