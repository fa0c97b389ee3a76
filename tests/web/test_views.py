"""Each of the five views does its main job."""

import io
import json
import re
import zipfile
from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.web.conftest import ROOT, SPOKEN, Visit, until
from training.sample_data import write

pytestmark = pytest.mark.slow
LONG = 120_000  # ms; training takes its time on a busy machine


def zipped(folder: Path) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    return memory.getvalue()


def upload(name: str, data: bytes) -> dict[str, object]:
    return {"name": name, "mimeType": "application/zip", "buffer": data}


async def test_a_recording_from_the_microphone_is_answered(visit: Visit) -> None:
    async with visit("try") as opened:
        page = opened.page
        await page.get_by_role("button", name="Record").click()
        meter = page.get_by_role("meter", name="Level")
        await meter.wait_for()

        async def heard() -> bool:
            return await meter.evaluate("meter => meter.value") > 0.3

        async def long_enough() -> bool:
            return float((await page.get_by_role("timer").inner_text()).removesuffix(" s")) >= 3

        await until(heard)
        await until(long_enough)
        await page.get_by_role("button", name="Stop recording").click()
        await page.get_by_role("button", name=re.compile("^Play Recording")).click()
        await page.get_by_role("button", name=re.compile("^Pause Recording")).wait_for()
        await page.get_by_role("button", name="Ask", exact=True).click()
        await page.get_by_role("status").filter(has_text="Done").wait_for()
        assert "forward" in (await page.get_by_test_id("answer").inner_text())
        receipt = await page.locator(".receipts").inner_text()
        assert re.search(r"webm", receipt, re.IGNORECASE), receipt


DROP = """(zone, [name, bytes]) => {
    const carried = new DataTransfer();
    carried.items.add(new File([Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0))], name));
    for (const type of ["dragover", "drop"]) {
        zone.dispatchEvent(new DragEvent(type, {dataTransfer: carried, bubbles: true, cancelable: true}));
    }
}"""


async def test_a_dropped_file_a_mix_the_code_and_the_history(visit: Visit) -> None:
    async with visit("try") as opened:
        page = opened.page
        await page.locator(".drop").evaluate(DROP, ["goforward.flac", b64encode(SPOKEN.read_bytes()).decode()])
        await page.get_by_text("2.79 s").wait_for()
        await page.get_by_role("button", name="Ask", exact=True).click()
        await page.get_by_role("status").filter(has_text="Done").wait_for()
        assert await page.get_by_test_id("answer").inner_text() == "go forward ten meters"
        facts = await page.locator(".facts").inner_text()
        assert all(word in facts for word in ("Tokens/s", "First token", "In total"))

        await page.get_by_role("radio", name="Mix").check()
        await page.get_by_role("checkbox", name="command-json").check()
        slider = page.get_by_role("slider", name="Weight of command-json")
        await slider.focus()
        for _ in range(4):
            await page.keyboard.press("ArrowRight")
        await page.get_by_role("button", name="Ask", exact=True).click()
        await page.get_by_role("heading", name="command-json:0.7 + nato:0.5").wait_for()
        await page.get_by_role("status").filter(has_text="Done").wait_for()
        await page.get_by_text("The same as code").click()
        code = await page.locator(".snippet pre").inner_text()
        assert "-F audio=@goforward.flac" in code
        assert "adapter=command-json:0.7,nato:0.5" in code
        assert "Authorization: Bearer $OVERTONE_KEY" in code
        await page.get_by_role("radio", name="Python").check()
        compile(await page.locator(".snippet pre").inner_text(), "snippet", "exec")

        history = page.get_by_role("region", name="History").get_by_role("listitem")
        assert await history.count() == 2
        await history.nth(1).get_by_role("button").click()
        assert await page.get_by_test_id("answer").inner_text() == "go forward ten meters"


async def test_a_head_gives_probabilities(visit: Visit) -> None:
    async with visit("try") as opened:
        page = opened.page
        await page.get_by_role("button", name="Use the sample").click()
        await page.get_by_role("radio", name="One adapter").check()
        await page.get_by_role("combobox", name="One adapter").select_option("kinds")
        await page.get_by_role("button", name="Classify").click()
        labels = page.locator(".labels li")
        await labels.first.wait_for()
        shares = [float(words.split()[-2]) for words in await labels.all_inner_texts()]
        assert sorted(shares, reverse=True) == shares
        assert sum(shares) == pytest.approx(100, abs=0.2)


async def test_an_answer_is_stopped_and_an_error_is_said_in_words(visit: Visit) -> None:
    async with visit("try") as opened:
        page = opened.page
        await page.get_by_label("Prompt").fill("Count.")
        await page.get_by_text("Options").click()
        await page.get_by_label("Temperature").fill("5")
        await page.get_by_label("Tokens at most").fill("900")
        await page.get_by_label("Seed").fill("3")  # a long answer
        await page.get_by_role("button", name="Ask", exact=True).click()
        await page.get_by_role("button", name="Stop", exact=True).click()
        await page.get_by_role("status").filter(has_text="Stopped").wait_for()
        await page.locator("input[type=file]").set_input_files(ROOT / "README.md")
        await page.get_by_role("button", name="Ask", exact=True).click()
        alert = page.get_by_role("alert")
        await alert.wait_for()
        assert "README.md" in await alert.inner_text() or "audio" in await alert.inner_text()
        opened.complaints.clear()  # the browser notes the status 415


async def test_adapters_are_compared_side_by_side(visit: Visit) -> None:
    async with visit("compare") as opened:
        page = opened.page
        await page.locator("input[type=file]").set_input_files(SPOKEN)
        await page.get_by_role("checkbox", name="nato").uncheck()
        await page.get_by_role("button", name="Compare", exact=True).click()
        columns = page.get_by_test_id("column")
        await page.locator(".column footer button").nth(1).wait_for()
        assert await columns.count() == 2
        assert await columns.nth(0).inner_text() == "go forward ten meters"
        answer = await columns.nth(1).inner_text()
        assert json.loads(answer)["direction"] == "forward"
        marked = await columns.nth(1).locator("mark").all_inner_texts()
        assert marked
        assert not any("forward" in piece for piece in marked)  # both have it
        assert await columns.nth(0).locator("mark").count() == 0
        await page.get_by_label("Differences from").select_option(label="command-json")
        assert await columns.nth(0).locator("mark").all_inner_texts()


async def test_an_adapter_is_added_chosen_and_removed(visit: Visit, folder: Path) -> None:
    async with visit("adapters") as opened:
        page = opened.page
        files = page.locator("input[type=file]")
        await files.set_input_files(upload("Broken one.zip", b"PK nothing"))
        await page.get_by_role("button", name="Upload").click()
        await page.get_by_role("alert").wait_for()
        opened.complaints.clear()  # the browser notes the status 422

        for version in (1, 2):
            await files.set_input_files(upload("Spare.zip", zipped(ROOT / "adapters" / "nato")))
            await page.get_by_label("Name", exact=True).fill("spare")
            await page.get_by_role("button", name=re.compile("^Upload")).click()
            await page.get_by_role("status").filter(has_text=f"spare version {version} is served").wait_for()
        assert "language model" in await page.locator(".upload .pairs").inner_text()

        card = page.get_by_role("article", name="spare")
        await card.get_by_role("button", name="Roll back").click()
        await page.get_by_text("spare is back at version 1").wait_for()
        await card.get_by_role("button", name="Make default").click()
        await page.get_by_text("spare answers requests that name no adapter").wait_for()
        await card.get_by_role("button", name="Pin").click()
        await card.get_by_text("pinned", exact=True).wait_for()
        await card.get_by_text("Figures and report").click()
        assert "39.1 %" in await card.locator(".figures").inner_text()
        async with page.expect_download() as download:
            await card.get_by_role("button", name="Download").click()
        assert (await download.value).suggested_filename == "spare-1.zip"

        await page.get_by_role("button", name="Unload all").click()
        await page.get_by_text("unchanged, bit for bit").wait_for()
        await card.get_by_role("button", name="Delete").click()
        dialog = page.get_by_role("dialog")
        await dialog.wait_for()
        await page.keyboard.press("Escape")
        await dialog.wait_for(state="detached")
        await card.get_by_role("button", name="Delete").click()
        await dialog.get_by_role("button", name="Delete").click()
        await card.wait_for(state="detached")
        assert not (folder / "adapters" / "spare").exists()


async def test_data_is_checked_and_its_bad_clips_are_heard(visit: Visit, tmp_path: Path) -> None:
    lines = write(tmp_path, 20).read_text()
    soundfile.write(tmp_path / "noise.wav", 0.3 * np.random.default_rng(0).standard_normal(32_000), 16_000)
    bad = {"audio": "noise.wav", "prompt": "What is it?", "response": "Nothing."}
    (tmp_path / "data.jsonl").write_text(lines + json.dumps(bad) + "\n")
    async with visit("train") as opened:
        page = opened.page
        await page.locator("input[type=file]").set_input_files(upload("noisy.zip", zipped(tmp_path)))
        assert await page.get_by_label("Name of the adapter").input_value() == "noisy"
        await page.get_by_role("button", name="Check the data first").click()
        await page.get_by_text("Only noise").wait_for(timeout=LONG)
        await page.get_by_role("button", name="Hear noise.wav").click()
        await page.get_by_role("button", name="Play noise.wav").click()
        await page.get_by_role("button", name="Pause noise.wav").wait_for()
        await page.get_by_role("checkbox", name="Train in spite of it").check()
        await page.get_by_role("button", name="Check the data first").click()
        await page.get_by_role("region", name="Estimate").wait_for(timeout=LONG)
        assert "61,440" in await page.get_by_role("region", name="Estimate").inner_text()


async def test_an_adapter_is_trained_and_tried(visit: Visit, folder: Path) -> None:
    async with visit("train") as opened:
        page = opened.page
        await page.get_by_label("or take one that is there").select_option(f"server:{folder}/sets/tones/data.jsonl")
        await page.get_by_label("Name of the adapter").fill("line")
        await page.get_by_text("Options").click()
        await page.get_by_label("Epochs").fill("1")
        await page.get_by_role("button", name="Train", exact=True).click()
        job = page.get_by_role("region", name="line")
        await job.get_by_role("button", name="Cancel").click(timeout=LONG)
        await job.get_by_text("cancelled", exact=True).wait_for(timeout=LONG)
        await job.get_by_role("button", name="Delete").click()
        await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        await job.wait_for(state="detached")

        await page.get_by_role("button", name="Train", exact=True).click()
        await job.get_by_role("link", name="Try it now").wait_for(timeout=LONG)
        assert "Exact match" in await job.locator(".figures").inner_text()
        points = await job.locator(".chart .curve.train").get_attribute("points")
        assert len(points.split()) == 3  # one for each step
        await job.get_by_role("link", name="Try it now").click()
        assert await page.get_by_role("combobox", name="One adapter").input_value() == "line"


async def test_the_server_tells_how_it_stands(visit: Visit) -> None:
    async with visit("try") as opened:
        page = opened.page
        await page.get_by_role("button", name="Use the sample").click()
        await page.get_by_role("button", name="Ask", exact=True).click()
        await page.get_by_role("status").filter(has_text="Done").wait_for()
        await page.get_by_role("link", name="Server").click()
        await page.get_by_role("region", name="Running").wait_for()
        row = page.get_by_role("row", name=re.compile("Base model"))
        assert re.search(r"\d ms / [\d,.]+ m?s", await row.inner_text())
        assert "overtone-tiny" in await page.get_by_role("region", name="This server").inner_text()
        await page.get_by_role("link", name="Adapters").click()
        await page.get_by_role("article", name="nato").get_by_role("button", name="Make default").click()
        await page.get_by_role("link", name="Server").click()
        log = page.get_by_role("region", name="Events")
        await log.get_by_text("nato answers requests that name no adapter").wait_for()
        await page.get_by_role("link", name="Adapters").click()
        await page.get_by_role("article", name="nato").get_by_role("button", name="No longer default").click()
        await page.get_by_text("The base model answers requests").wait_for()
