"""The walk from wrong answers to better ones: ask, correct ten answers, train with one button, ask again."""

import json
import random
import re
import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from playwright import async_api as playwright

from tests.web.conftest import KEY, ROOT, SPOKEN, Opened, Visit
from tests.web.test_data import judge
from tests.web.test_everyone import faults
from tests.web.test_try import ask, choose
from training.sample_data import RATE, SIGNALS, _play

pytestmark = pytest.mark.slow
LONG = 180_000  # ms
NAME = "walker"
PROMPT = "Who is it?"
RIGHT = ("busy", "robot")  # of a tone, of a voice


def clips(folder: Path) -> list[tuple[Path, str]]:
    """Ten recordings, half of them tones and half of them a voice, no two alike; with the right answers."""
    voice, rate = soundfile.read(SPOKEN)
    assert rate == RATE
    rng, found = random.Random(1), []
    for number in range(10):
        tone = _play(SIGNALS[1], rng)[: 2 * RATE]
        sound = tone if number % 2 == 0 else voice * (0.3 + 0.07 * number)
        file = folder / f"take-{number}.flac"
        soundfile.write(file, np.asarray(sound, dtype=np.float32), RATE)
        found.append((file, RIGHT[number % 2]))
    return found


async def question(opened: Opened, clip: Path) -> str:
    """The adapter's answer, as the page shows it."""
    await choose(opened, clip)
    await opened.page.locator(".view:visible").get_by_label("Prompt").fill(PROMPT)
    await opened.page.get_by_role("radio", name="One adapter").check()
    await opened.page.locator(".adapter-choice select").select_option(NAME)
    await ask(opened)
    return await opened.page.get_by_test_id("answer").inner_text()


async def test_wrong_answers_are_corrected_and_the_next_version_gives_better_ones(
    visit: Visit, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "adapters" / "nato", folder / "adapters" / NAME)
    takes = clips(tmp_path)
    async with visit("adapters") as opened:
        page = opened.page
        await page.get_by_role("article", name=NAME).wait_for()
        await opened.go("try")
        before = []
        for clip, right in takes:
            before.append(await question(opened, clip))
            assert before[-1] != right
            await judge(opened, right, consent=True)
            await page.get_by_text("your verdict and the recording").wait_for()

        await opened.go("data")
        use = page.get_by_role("form", name="Use of the rows")
        await use.get_by_label("Answered by").select_option(NAME)
        await use.get_by_text("10 of 10 rows can be trained on").wait_for()
        assert await use.get_by_label("Name of the adapter").input_value() == NAME
        await use.get_by_text("Options").click()
        await use.get_by_label("Epochs").fill("16")
        await use.get_by_role("button", name="Train on these").click()

        job = page.get_by_role("region", name=NAME)
        await job.get_by_text(f"{NAME} version 2 is served").wait_for(timeout=LONG)
        beside = job.get_by_role("region", name="Beside the version before")
        corrected = beside.get_by_role("row", name=re.compile(r"^Corrected \(10\)"))
        old, new = await corrected.get_by_role("cell").all_inner_texts()
        assert old == "0.0 %"
        assert float(new.removesuffix(" %")) >= 50
        await beside.get_by_role("row", name=re.compile(r"^Held out \(1\)")).wait_for()
        await beside.get_by_text("served in place of version 1").wait_for()
        assert not await faults(opened)
        await job.get_by_role("link", name="Try it now").click()
        after = [await question(opened, clip) for clip, _ in takes[:2]]
        better = [said == right for said, (_, right) in zip(after, takes[:2], strict=True)]
        assert any(better), (before[:2], after)

        await opened.go("train")
        await _kept_version_is_served_by_hand(opened, job)
        async with httpx.AsyncClient(
            base_url=opened.url, headers={"Authorization": f"Bearer {KEY}"}, trust_env=False
        ) as client:
            for row in (await client.get("/feedback", params={"adapter": NAME})).json()["rows"]:
                await client.delete(f"/feedback/{row['id']}")
            await client.delete(f"/adapters/{NAME}")


async def _kept_version_is_served_by_hand(opened: Opened, job: playwright.Locator) -> None:
    """The same job, as it would be told if version 2 had been worse."""
    page = opened.page
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=opened.url, headers=headers, trust_env=False) as client:
        done = next(one for one in (await client.get("/training/jobs")).json()["jobs"] if one["name"] == NAME)
        (await client.post(f"/adapters/{NAME}/rollback", json={"version": 1})).raise_for_status()
    comparison = done["told"]["metrics"]["comparison"]
    comparison |= {"promoted": False, "reason": "worse than version 1 on rows that are held out"}
    comparison["held_out"] |= {"judged_by": "exact", "current": 1.0, "new": 0.0}
    done["told"]["adapter"]["promoted"] = False
    stream = f"event: end\ndata: {json.dumps(done)}\n\n"
    await page.route(f"**/training/jobs/{done['id']}", lambda route: route.fulfill(json=done))
    await page.route(
        f"**/training/jobs/{done['id']}/events",
        lambda route: route.fulfill(body=stream, content_type="text/event-stream"),
    )
    await page.reload()
    await job.get_by_text("version 2 is kept and not served: version 1 answers").wait_for()
    await job.get_by_text("worse than version 1 on these rows: held out").wait_for()
    await job.get_by_role("button", name="Serve version 2 all the same").click()
    await job.get_by_text(f"{NAME} version 2 is served").wait_for()
    await page.unroute_all()
