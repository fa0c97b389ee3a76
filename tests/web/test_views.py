"""Each view does its main job."""

import io
import json
import re
import shutil
import zipfile
from base64 import b64encode
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from playwright import async_api as playwright

from tests.web.conftest import KEY, ROOT, SPOKEN, Visit, until
from tests.web.test_everyone import faults
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
        await page.locator(".options summary").click()
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
        name = page.get_by_role("textbox", name="Name")
        await files.set_input_files(upload("nato.zip", b"PK nothing"))
        assert await name.input_value() == "nato"
        await page.get_by_text("nato exists already, at version 1").wait_for()
        await page.get_by_role("button", name="Upload as the next version").click()
        await page.get_by_role("alert").wait_for()
        opened.complaints.clear()  # the browser notes the status 422

        for version in (1, 2):  # under its own name, not under that of the refused one
            await files.set_input_files(upload("Spare.zip", zipped(ROOT / "adapters" / "nato")))
            assert await name.input_value() == "spare"
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
        await page.get_by_role("button", name="Undo").click()
        await page.get_by_text("spare is served again, as version 2").wait_for()
        await card.get_by_role("button", name="Delete").click()
        await dialog.get_by_role("button", name="Delete").click()
        await card.wait_for(state="detached")
        await page.reload()
        await page.get_by_text(re.compile(r"^Deleted adapters \(\d+\)$")).click()
        await page.get_by_role("combobox", name="Version of spare to bring back").select_option("v1")
        await page.get_by_role("button", name="Bring back spare").click()
        await card.get_by_text("v1", exact=True).first.wait_for()
        assert "39.1 %" in await card.inner_text()
        await card.get_by_role("button", name="Delete").click()
        await dialog.get_by_role("button", name="Delete").click()
        await card.wait_for(state="detached")


FOLDER = """(zone, [top, files]) => {
    const decode = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const tree = {};
    for (const [path, text] of Object.entries(files)) {
        const parts = path.split("/");
        const leaf = parts.reduce((node, part, at) =>
            node[part] ??= at === parts.length - 1 ? new File([decode(text)], part) : {}, tree);
    }
    const entry = (name, node, path) => node instanceof File
        ? {isFile: true, isDirectory: false, name, fullPath: path, file: (good) => good(node)}
        : {isFile: false, isDirectory: true, name, fullPath: path, createReader: () => {
            let left = Object.entries(node).map(([one, inner]) => entry(one, inner, `${path}/${one}`));
            return {readEntries: (good) => { const some = left.slice(0, 2); left = left.slice(2); good(some); }};
        }};
    const event = new Event("drop", {bubbles: true, cancelable: true});
    const items = [{kind: "file", webkitGetAsEntry: () => entry(top, tree, `/${top}`)}];
    Object.defineProperty(event, "dataTransfer", {value: {items, files: [new File([], top)]}});
    zone.dispatchEvent(event);
}"""


def encoded(folder: Path) -> dict[str, str]:
    """All files below a folder by path, as base64."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): b64encode(file.read_bytes()).decode() for file in files}


async def test_a_dropped_folder_is_read(visit: Visit, tmp_path: Path) -> None:
    """An adapter's folder among a trainer's files; one without an adapter; a folder of data with long names."""
    run = tmp_path / "My Run"
    shutil.copytree(ROOT / "adapters" / "nato", run / "checkpoint-9")
    (run / "checkpoint-9" / "optimizer.pt").write_bytes(bytes(1000))
    (run / ".DS_Store").write_bytes(b"x")
    async with visit("adapters") as opened:
        page = opened.page
        await page.locator(".drop").evaluate(FOLDER, ["Notes", {"a/read me.txt": "QUJD"}])
        await page.get_by_role("alert").filter(has_text="The folder Notes holds no adapter").wait_for()
        await page.locator(".drop").evaluate(FOLDER, ["My Run", encoded(run)])
        assert await page.get_by_role("textbox", name="Name").input_value() == "checkpoint-9"
        assert "optimizer.pt" not in await page.locator(".upload-form").inner_text()
        await page.get_by_role("textbox", name="Name").fill("dropped")
        await page.get_by_role("button", name="Upload", exact=True).click()
        await page.get_by_role("status").filter(has_text="dropped version 1 is served").wait_for()
        card = page.get_by_role("article", name="dropped")
        await card.get_by_role("button", name="Delete").click()
        await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        await page.get_by_role("status").filter(has_text="has been deleted since").wait_for()

    data = tmp_path / "data"
    write(data, 20)
    far = f"{'d' * 60}/{'遠' * 30}.wav"  # beyond the 100 bytes of a plain tar header
    (data / far).parent.mkdir()
    lines = (data / "data.jsonl").read_text().splitlines()
    row = json.loads(lines[0])
    (data / row["audio"]).rename(data / far)
    (data / "data.jsonl").write_text("\n".join([json.dumps(row | {"audio": far}), *lines[1:]]) + "\n")
    async with visit("train") as opened:
        page = opened.page
        await page.locator(".drop").evaluate(FOLDER, ["data", encoded(data)])
        assert await page.get_by_label("Name of the adapter").input_value() == "data"
        await page.get_by_role("button", name="Check the data first").click()
        await page.get_by_text("can be trained on").first.wait_for(timeout=LONG)
        # the check stands among the jobs, from where its data can be deleted
        entry = page.get_by_role("region", name="Jobs").get_by_role("button").filter(has_text="data check").first
        await entry.click()
        job = page.get_by_role("region", name="data", exact=True)
        await job.get_by_role("button", name="Delete").click(timeout=LONG)
        await page.get_by_role("dialog").get_by_text("The data that was checked").wait_for()
        await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        await job.wait_for(state="detached")


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
        await page.get_by_role("button", name="Listen to noise.wav").first.click()
        await page.get_by_role("button", name="Play noise.wav").click()
        await page.get_by_role("button", name="Pause noise.wav").wait_for()
        await page.get_by_role("checkbox", name="Train anyway").check()
        await page.get_by_role("button", name="Check the data first").click()
        await page.get_by_role("region", name="Estimate").wait_for(timeout=LONG)
        assert "61,440" in await page.get_by_role("region", name="Estimate").inner_text()
        report = page.get_by_role("region", name="Data check").first
        assert "--" not in await report.inner_text()
        await page.get_by_role("combobox", name="Language").select_option("繁體中文")
        await page.get_by_text("段錄音只有平穩雜訊").first.wait_for()


async def test_an_adapter_is_trained_and_tried(visit: Visit, folder: Path) -> None:
    async with visit("train") as opened:
        page = opened.page
        await page.get_by_label("or use one that is there").select_option(f"server:{folder}/sets/tones/data.jsonl")
        await page.get_by_label("Name of the adapter").fill("line")
        await page.get_by_text("Options").click()
        await page.get_by_label("Epochs").fill("100")
        await page.get_by_role("button", name="Train", exact=True).click()
        job = page.get_by_role("region", name="line")
        await job.get_by_role("button", name="Cancel").wait_for(timeout=LONG)
        await page.reload()  # what runs is open again
        await job.get_by_role("button", name="Cancel").click(timeout=LONG)
        await job.get_by_text("cancelled", exact=True).wait_for(timeout=LONG)
        await job.get_by_role("button", name="Delete").click()
        await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        await job.wait_for(state="detached")

        await page.get_by_label("or use one that is there").select_option(f"server:{folder}/sets/tones/data.jsonl")
        await page.get_by_label("Name of the adapter").fill("line")
        await page.get_by_text("Options").click()
        await page.get_by_label("Epochs").fill("1")
        await page.get_by_role("button", name="Train", exact=True).click()
        await job.get_by_role("link", name="Try it now").wait_for(timeout=LONG)
        assert "Exact match" in await job.locator(".figures").inner_text()
        points = await job.locator(".chart .curve.train").get_attribute("points")
        assert len(points.split()) == 3  # one for each step
        await job.get_by_role("link", name="Try it now").click()
        assert await page.get_by_role("combobox", name="One adapter").input_value() == "line"

        # the examination after the last step, in the events of this very run
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=opened.url, headers=headers, trust_env=False) as client:
            done = (await client.get("/training/jobs")).json()["jobs"][0]
            events = (await client.get(f"/training/jobs/{done['id']}/events")).text.split("\n\n")
        last = min(at for at, one in enumerate(events) if "event: exam" in one and '"after"' in one)
        running = done | {"state": "running", "told": done["told"] | {"adapter": None, "metrics": None, "exam": None}}
        await page.route(f"**/training/jobs/{done['id']}", lambda route: route.fulfill(json=running))
        stream = "\n\n".join([*events[: last + 1], ""])
        await page.route("**/events", lambda route: route.fulfill(body=stream, content_type="text/event-stream"))
        await opened.go("train")
        await page.reload()
        await job.get_by_text(re.compile(r"The adapter answers the held-out questions: 0 of \d+")).wait_for()
        await page.unroute_all()

        # deleted: the job says so, in place of "is served"
        await opened.go("adapters")
        await page.get_by_role("article", name="line").get_by_role("button", name="Delete").click()
        await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        await page.get_by_text("line is deleted and no longer served").wait_for()
        await opened.go("train")
        await page.reload()
        await job.get_by_text("has been deleted since").wait_for()
        assert await job.get_by_text("is served").count() == 0


def answering(**answer: Any) -> Callable[[playwright.Route], Awaitable[None]]:
    """A handler that gives this answer to every request."""

    async def answered(route: playwright.Route) -> None:
        await route.fulfill(**answer)

    return answered


async def test_runs_are_laid_over_each_other(visit: Visit) -> None:
    """Two jobs of the list, with their curves and figures in one chart and one table."""

    def job(number: int, loss: float) -> dict[str, object]:
        after = {"exact": 1 - loss, "exact_range": [0, 1]}
        told = {
            "events": 9, "last": "done", "started": {"steps": 2, "rows": {"train": 20, "validation": 4}},
            "progress": {"step": 2, "steps": 2}, "adapter": {"name": "run", "version": number}, "problems": [],
            "metrics": {"before": {"exact": 0.0}, "after": after, "judged_by": "exact", "loss": {"best": loss}},
        }  # fmt: skip
        options = {
            "name": "run",
            "method": "lora",
            "preset": "seed",
            "epochs": number,
            "check": False,
            "weights": "int8",
        }
        return {
            "id": f"20261201-00000{number}-00000000", "name": "run", "state": "succeeded", "options": options,
            "told": told,
            "created": f"2026-12-01T00:00:0{number}Z", "dataset": "data.jsonl", "stopping": False, "position": None,
        }  # fmt: skip

    jobs = [job(2, 0.25), job(1, 0.75)]
    async with visit("try") as opened:
        page = opened.page
        await page.route("**/training/jobs", lambda route: route.fulfill(json={"jobs": jobs}))
        for one, losses in zip(jobs, ((4.0, 1.0, 0.25), (4.0, 0.75)), strict=True):
            steps = [
                f"event: eval\ndata: {json.dumps({'step': at, 'loss': loss})}" for at, loss in enumerate(losses, 1)
            ]
            end = f"event: end\ndata: {json.dumps(one)}"
            stream = "\n\n".join([*steps, end, ""])
            await page.route(f"**/training/jobs/{one['id']}", answering(json=one))
            told_events = answering(body=stream, content_type="text/event-stream")
            await page.route(f"**/training/jobs/{one['id']}/events", told_events)
        await opened.go("train")
        ticks = page.get_by_role("checkbox", name=re.compile("^Lay run of .* over others"))
        await ticks.first.check()
        runs = page.get_by_role("region", name="Runs over each other")
        assert await runs.count() == 0, "one run alone has its own panel"
        await ticks.nth(1).check()
        lines = [runs.locator(f".curve.run-{number}") for number in (1, 2)]

        async def drawn() -> bool:
            points = [await line.get_attribute("points") or "" for line in lines]
            return [len(text.split()) for text in points] == [3, 2]

        await until(drawn)
        table = runs.get_by_role("row")
        words = [await table.nth(number).inner_text() for number in (1, 2)]
        assert "run v2" in words[0]
        assert "0.25" in words[0]
        assert "0.0 % → 75.0 %" in words[0]
        assert "20 + 4" in words[0]
        assert "Epochs 1" in words[1]
        assert "int8" in words[1]
        assert not await faults(opened)
        await page.set_viewport_size({"width": 390, "height": 844})
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390
        await ticks.first.uncheck()
        await runs.wait_for(state="detached")
        await page.unroute_all()


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
