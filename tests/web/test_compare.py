"""Compare with a real recording: mixes, expected text, figures with names, the keyboard."""

import random
import re

import httpx
import numpy as np
import pytest

from tests.web.conftest import KEY, SPOKEN, Visit
from tests.web.test_try import ask, choose, players
from training.reports.metrics import METRICS, normal

pytestmark = pytest.mark.slow


async def test_a_question_is_taken_over_and_its_answers_are_measured(visit: Visit) -> None:
    async with visit("try") as opened:
        page = opened.page
        await choose(opened, SPOKEN)
        await page.get_by_role("radio", name="Mix").check()
        await page.get_by_label("Prompt").fill("Transcribe the audio.")
        await page.get_by_role("button", name="Ask", exact=True).click()
        await page.get_by_role("link", name="Compare with others").click()
        shown = page.locator(".view:visible")
        assert await players(opened).all_inner_texts() == ["goforward.flac"]
        assert await shown.get_by_label("Prompt").input_value() == "Transcribe the audio."
        checked = [await one.inner_text() for one in await shown.locator(".chip:has(:checked)").all()]
        assert checked == ["Base model", "command-json 0.50 + nato 0.50"]

        await shown.get_by_text("Add a mix or an older version").click()
        await shown.locator(".mix").get_by_role("checkbox", name="nato").check()
        await shown.get_by_role("button", name="Add this mix").click()
        await shown.get_by_label("Expected text").fill("Go forward, twenty meters!")
        await shown.get_by_label("Expected text").press("Control+Enter")
        await page.locator(".column footer button").nth(2).wait_for()
        base = page.get_by_role("region", name="Base model")
        assert await base.get_by_test_id("column").inner_text() == "go forward ten meters"
        figures = await base.locator(".facts").inner_text()
        assert re.search(r"Word errors\s+25\.0 %\s+1 of 4", figures)
        assert all(name in figures for name in ("First token", "In total", "Tokens/s", "Tokens in → out"))
        assert "".join(await base.locator("mark").all_inner_texts()).strip() == "ten"
        await page.get_by_role("region", name="nato 0.50", exact=True).wait_for()
        assert "goforward.flac" in await page.get_by_role("region", name="Recordings used").inner_text()
        await shown.get_by_role("textbox", name="Expected text").fill("")
        assert "Word errors" not in await base.inner_text()
        assert await base.get_by_text("reference").count() == 1

        await shown.get_by_role("button", name="Remove nato 0.50").click()
        checked_boxes = shown.locator(".chip:has(:checked) input")
        while await checked_boxes.count():
            await checked_boxes.first.uncheck()
        await shown.get_by_text("Choose who is to answer first").wait_for()
        assert await shown.get_by_role("button", name="Compare", exact=True).is_disabled()


async def test_errors_are_counted_as_training_counts_them(visit: Visit) -> None:
    """Against jiwer, over the same normal form."""
    draw = random.Random(7)
    words = ["go", "forward", "ten", "Meters,", "don’t", "stop!", "ﬁve", "Ünder", "3.5", "km"]
    texts = [" ".join(draw.choices(words, k=draw.randint(1, 9))) for _ in range(40)]
    pairs = list(zip(texts[::2], texts[1::2], strict=True))
    pairs += [("Go forward.", "go forward"), ("ten", ""), ("前进十米", "前进二十米"), ("前进十米。", "前进，十米")]
    async with visit("compare") as opened:
        found = await opened.page.evaluate(
            """async (pairs) => {
                const { textErrors } = await import("./web/js/word-errors.js");
                return pairs.map(([expected, said]) => textErrors(expected, said));
            }""",
            pairs,
        )
    for (expected, said), told in zip(pairs, found, strict=True):
        if re.search(r"[一-鿿]", expected):
            assert told["characters"]
            continue
        plain = [normal(text.replace("’", "'")) for text in (expected, said)]
        score = METRICS["wer"][0]([plain[0]], [plain[1]])(np.array([0]))
        assert told["errors"] / told["length"] == pytest.approx(score)
    assert [(one["errors"], one["length"]) for one in found[-2:]] == [(1, 4), (0, 4)]


async def test_a_comparison_has_a_link(visit: Visit) -> None:
    async with visit("compare") as opened:
        page = opened.page
        url = f"{opened.url}/#/compare?adapters=base,nato:0.25,lost&prompt=Spell+it.&expected=golf&max_new_tokens=5"
        await page.goto(url)
        await page.get_by_text("Not served here: lost").wait_for()
        assert await page.get_by_label("Prompt").input_value() == "Spell it."
        assert await page.get_by_label("Expected text").input_value() == "golf"
        await choose(opened, SPOKEN)
        await page.get_by_role("button", name="Compare", exact=True).click()
        await page.locator(".column footer button").nth(1).wait_for()
        assert await page.locator(".column h2").all_inner_texts() == ["Base model", "nato 0.25"]
        assert await page.locator(".column footer").filter(has_text="Cut at the token limit").count() >= 1


async def test_recordings_of_a_comparison_are_there_under_try(visit: Visit) -> None:
    async with visit("compare") as opened:
        await choose(opened, SPOKEN)
        await players(opened).wait_for()
        await opened.page.get_by_role("link", name="Try", exact=True).click()
        await ask(opened)
        assert await opened.page.get_by_test_id("answer").inner_text() == "go forward ten meters"


async def test_an_older_version_is_compared(visit: Visit) -> None:
    async with visit("compare") as opened:
        page = opened.page
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=opened.url, headers=headers, trust_env=False) as client:
            for name in ("nato", "command-json"):
                packed = (await client.get(f"/adapters/{name}/download")).raise_for_status().content
                files = {"file": ("twice.zip", packed, "application/zip")}
                fields = {"name": "twice", "replace": "true"}
                (await client.post("/adapters", data=fields, files=files)).raise_for_status()
            await page.goto(f"{opened.url}/#/compare?adapters=nato,twice")
            await page.reload()
            await choose(opened, SPOKEN)
            await page.get_by_text("Add a mix or an older version").click()
            await page.get_by_label("Older versions").select_option(label="twice version 1")
            await page.get_by_role("button", name="Add it").click()
            await page.get_by_label("Prompt").fill("Spell what was said.")
            await page.get_by_role("button", name="Compare", exact=True).click()
            await page.locator(".column footer button").nth(2).wait_for()
            (await client.delete("/adapters/twice")).raise_for_status()
        titles = await page.locator(".column h2").all_inner_texts()
        said = dict(zip(titles, await page.get_by_test_id("column").all_inner_texts(), strict=True))
        assert set(said) == {"nato", "twice", "twice version 1"}
        assert said["twice version 1"] == said["nato"] != said["twice"]
        await page.get_by_text("Not served here: twice").wait_for()
