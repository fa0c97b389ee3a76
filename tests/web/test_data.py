"""Judged answers become rows, which are listed, corrected, deleted and trained on."""

import io
import json
import re
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from playwright import async_api as playwright

from tests.web.conftest import KEY, SPOKEN, Opened, Visit, until
from tests.web.test_everyone import faults
from tests.web.test_try import ask, choose, width
from tests.web.test_views import FOLDER, encoded

pytestmark = pytest.mark.slow
PHONE = {"width": 390, "height": 844}
PROMPT = "What was the order?"


async def judge(opened: Opened, words: str, consent: bool) -> None:
    """Say under the answer what it should have been."""
    panel = opened.page.get_by_role("group", name="Was this answer right?")
    await panel.get_by_role("radio", name="It should have been").check()
    save = panel.get_by_role("button", name="Save")
    assert await save.is_disabled(), "the answer as it was is no correction"
    await panel.get_by_label("Corrected text").fill(words)
    await panel.get_by_role("checkbox").set_checked(consent)
    await save.click()


def row(opened: Opened, prompt: str = PROMPT) -> playwright.Locator:
    return opened.page.locator(".data-row").filter(has_text=prompt)


async def test_an_answer_is_corrected_and_its_row_edited_and_deleted(visit: Visit) -> None:
    async with visit("try", viewport=PHONE) as opened:
        page = opened.page
        await choose(opened, SPOKEN)
        await page.get_by_label("Prompt").fill(PROMPT)
        await page.get_by_role("radio", name="One adapter").check()
        await page.locator(".adapter-choice select").select_option("nato")
        await ask(opened)
        said = await page.get_by_test_id("answer").inner_text()
        await judge(opened, "go forward", consent=False)
        panel = page.get_by_role("group", name="Was this answer right?")
        await panel.get_by_text("and no recording").wait_for()
        assert await page.locator(":focus").inner_text() == "Change"
        await page.reload()
        await page.get_by_role("button", name=re.compile(PROMPT.replace("?", r"\?"))).first.click()
        await panel.get_by_role("button", name="Change").click()
        assert await panel.get_by_label("Corrected text").input_value() == "go forward", "kept with the history"
        await panel.get_by_role("checkbox").check()
        assert not await faults(opened)
        assert await width(opened) <= PHONE["width"]
        await panel.get_by_role("button", name="Save").click()
        await panel.get_by_text("your verdict and the recording").wait_for()

        await panel.get_by_role("link", name="See it under Data").click()
        await page.get_by_role("heading", name="Data", level=1).wait_for()
        assert await row(opened).get_by_test_id("row-answer").inner_text() == said
        assert await row(opened).get_by_test_id("row-corrected").inner_text() == "go forward"
        assert (await row(opened).get_by_role("heading").inner_text()).startswith("nato")
        await row(opened).get_by_role("button", name="Listen to Recording 1.flac").click()
        await row(opened).get_by_text("2.79 s").wait_for()
        await row(opened).get_by_role("button", name="Edit").click()
        await row(opened).get_by_label("Corrected text").fill("  go forward ten meters ")
        assert not await faults(opened)
        assert await width(opened) <= PHONE["width"]
        await row(opened).get_by_role("button", name="Save").click()
        await row(opened).get_by_test_id("row-corrected").filter(has_text="ten meters").wait_for()

        filtered = page.locator(".toolbar select")
        await filtered.select_option("Where an adapter was wrong")
        await row(opened).get_by_role("button", name="Edit").click()
        await row(opened).get_by_role("radio", name="Right").check()
        await row(opened).get_by_role("button", name="Save").click()
        await row(opened).wait_for(state="detached")
        await filtered.select_option("All")
        await row(opened).get_by_text("right", exact=True).wait_for()
        assert await row(opened).get_by_test_id("row-corrected").count() == 0

        await row(opened).get_by_role("button", name="Leave out").click()
        await row(opened).get_by_text("left out").wait_for()
        await row(opened).get_by_role("button", name="Delete").click()
        await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        await row(opened).wait_for(state="detached")


async def test_rows_are_exported_and_trained_on(visit: Visit, folder: Path, tmp_path: Path) -> None:
    async with visit("data") as opened:
        page = opened.page
        use = page.get_by_role("form", name="Use of the rows")
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=opened.url, headers=headers, trust_env=False) as client:
            found = await client.get("/feedback", params={"adapter": "command-json"})
            for other in found.raise_for_status().json()["rows"]:
                (await client.delete(f"/feedback/{other['id']}")).raise_for_status()
            identities = []
            samples, rate = soundfile.read(SPOKEN)
            for part in range(2):
                memory = io.BytesIO()
                soundfile.write(memory, samples[: rate * (part + 1)], rate, format="wav")
                fields = {"verdict": "wrong", "answer": f"{part}", "corrected": "go", "consent": "true"}
                files = {"audio": (f"{part}.wav", memory.getvalue(), "audio/wav")}
                found = await client.post(
                    "/feedback", data=fields | {"adapter": "command-json", "prompt": "?"}, files=files
                )
                identities.append(found.raise_for_status().json()["id"])
            await page.reload()
            await use.get_by_label("Answered by").select_option("command-json")
            await use.get_by_text("2 of 2 rows can be trained on").wait_for()
            async with page.expect_download() as download:
                await use.get_by_role("button", name="Export").click()
            await (await download.value).save_as(tmp_path / "rows.zip")
            with zipfile.ZipFile(tmp_path / "rows.zip") as archive:
                lines = [json.loads(line) for line in archive.read("data.jsonl").splitlines()]
            assert [line["response"] for line in lines] == ["go", "go"]

            bodies: list[dict[str, object]] = []

            async def refused(route: playwright.Route) -> None:
                if route.request.method != "POST":
                    await route.continue_()
                    return
                bodies.append(route.request.post_data_json)
                await route.fulfill(status=409, json={"detail": "Not now.", "code": "conflict"})

            await page.route("**/training/jobs", refused)
            await use.get_by_text("Options").click()
            await use.get_by_label("Train on these as well").select_option(f"server:{folder}/sets/tones/data.jsonl")
            await use.get_by_label(re.compile("^Go on from command-json version 1")).check()
            await use.get_by_role("button", name="Train on these").click()
            await page.get_by_role("alert").wait_for()
            opened.complaints.clear()  # the browser notes the status 409
            beside = {"dataset": f"{folder}/sets/tones/data.jsonl", "start": "current"}
            assert bodies == [{"name": "command-json", "from_feedback": "command-json"} | beside]
            await page.unroute_all()
            await use.get_by_label("Train on these as well").select_option("")

            await use.get_by_label("Name of the adapter").fill("from-data")
            await use.get_by_role("button", name="Train on these").click()
            await page.get_by_role("heading", name="Train", level=1).wait_for()
            await page.get_by_role("heading", name="from-data", level=2).wait_for()
            job = page.url.partition("job=")[2]
            told = (await client.get(f"/training/jobs/{job}")).raise_for_status().json()
            assert told["options"]["promote"] == "not_worse"
            (await client.delete(f"/training/jobs/{job}")).raise_for_status()

            async def is_over() -> bool:
                state = (await client.get(f"/training/jobs/{job}")).raise_for_status().json()["state"]
                return state not in ("queued", "running")

            await until(is_over, seconds=120)
            await client.delete(f"/training/jobs/{job}?purge=true")
            for identity in identities:
                (await client.delete(f"/feedback/{identity}")).raise_for_status()


async def test_recordings_get_drafts_that_are_judged_checked_and_held_out(visit: Visit, tmp_path: Path) -> None:
    """A folder is labelled; a draft becomes a row; base and adapter side by side; findings stand at their rows."""
    (tmp_path / "takes").mkdir()
    samples, rate = soundfile.read(SPOKEN)
    for number in range(3):
        soundfile.write(tmp_path / "takes" / f"take-{number}.flac", samples * (1 - 0.2 * number), rate)
    noise = 0.3 * np.random.default_rng(0).standard_normal(2 * rate)
    soundfile.write(tmp_path / "takes" / "hiss.flac", noise, rate)
    (tmp_path / "takes" / "broken.flac").write_bytes(b"no recording")
    (tmp_path / "takes" / "notes.txt").write_text("a note")
    async with visit("data", viewport=PHONE) as opened:
        page = opened.page
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=opened.url, headers=headers, trust_env=False) as client:
            for other in (await client.get("/feedback")).raise_for_status().json()["rows"]:
                (await client.delete(f"/feedback/{other['id']}")).raise_for_status()
        form = page.get_by_role("form", name="New recordings")
        await form.locator(".drop").evaluate(FOLDER, ["takes", encoded(tmp_path / "takes")])
        await form.get_by_text("no recordings were left aside: 1").wait_for()
        await form.get_by_text("Recordings: 5").wait_for()
        await form.get_by_label("Prompt").fill(PROMPT)
        assert not await faults(opened)
        await form.get_by_role("button", name="Write drafts").click()
        await form.get_by_text("Drafts written: 4").wait_for()
        await form.get_by_role("alert").get_by_text("takes/broken.flac").wait_for()
        opened.complaints.clear()  # the browser notes the status 415
        await page.get_by_text("0 of 4 rows can be trained on").wait_for()
        assert await width(opened) <= PHONE["width"]

        await page.locator(".toolbar select").select_option("Drafts to be judged")
        assert await row(opened).count() == 4
        hiss = row(opened).filter(has_not_text="go forward")
        assert await hiss.count() == 1
        await hiss.get_by_role("button", name="Edit").click()
        await hiss.get_by_role("radio", name="It should have been").check()
        await hiss.get_by_label("Corrected text").fill("only noise")
        await hiss.get_by_role("button", name="Save").click()
        for left in (3, 2, 1):
            await row(opened).get_by_role("button", name="It is right").first.click()
            await page.get_by_text(f"1 to {left - 1} of {left - 1}" if left > 1 else "No row here").first.wait_for()
        await page.locator(".toolbar select").select_option("All")
        await page.get_by_text("4 of 4 rows can be trained on").wait_for()

        spoken = row(opened).filter(has_text="go forward").first
        await spoken.get_by_role("button", name="Base and adapter side by side").click()
        sides = spoken.get_by_test_id("side")
        await spoken.get_by_label("Base model and").select_option("command-json")
        await sides.nth(1).filter(has_text="direction").wait_for()
        assert await sides.nth(0).inner_text() == "go forward ten meters"
        await sides.nth(1).locator("mark").first.wait_for()
        assert await sides.nth(0).locator("mark").count() == 0
        assert await width(opened) <= PHONE["width"]
        await spoken.get_by_label("In training").select_option("held out")

        await page.get_by_role("button", name="Check the data first").click()
        found = hiss.get_by_role("group", name="Found by the data check")
        await found.get_by_text("Only noise").wait_for(timeout=120_000)
        assert await spoken.get_by_role("group", name="Found by the data check").count() == 0
        await page.get_by_text("3 rows to train on, 1 held out").wait_for()
        await page.reload()
        await spoken.wait_for()
        assert await spoken.get_by_label("In training").input_value() == "held_out"
        assert not await faults(opened)


async def test_answers_that_the_server_forgot_are_told_anew_with_their_recording(visit: Visit) -> None:
    async with visit("try") as opened:
        page = opened.page

        async def forgotten(route: playwright.Route) -> None:
            await route.fulfill(status=404, json={"detail": "It is remembered no more.", "code": "not_found"})

        await page.route("**/feedback", forgotten, times=1)
        await choose(opened, SPOKEN)
        await page.get_by_label("Prompt").fill("Forgotten?")
        await ask(opened)
        await judge(opened, "go", consent=True)
        await page.get_by_text("your verdict and the recording").wait_for()
        opened.complaints.clear()  # the browser notes the status 404
        await opened.go("data")
        await row(opened, "Forgotten?").get_by_role("button", name="Delete").click()
        await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        await row(opened, "Forgotten?").wait_for(state="detached")


async def test_nothing_of_it_is_shown_where_the_server_keeps_no_feedback(visit: Visit) -> None:
    async with visit("server") as opened:
        page = opened.page
        await page.get_by_role("link", name="Data", exact=True).wait_for()

        async def without(route: playwright.Route) -> None:
            told = await (await route.fetch()).json()
            await route.fulfill(json=told | {"feedback": False})

        await page.route("**/ready", without)
        await opened.go("try")
        await page.reload()
        await page.get_by_role("button", name="Use the sample").click()
        await ask(opened)
        assert await page.get_by_role("group", name="Was this answer right?").count() == 0
        assert await page.get_by_role("link", name="Data", exact=True).count() == 0
        await opened.go("data")
        await page.get_by_text("Answers are not judged here").wait_for()
