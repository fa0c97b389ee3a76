"""Try with real recordings: nothing is lost, and what is shown is about what was asked."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
import soundfile
from playwright import async_api as playwright

from app.service.generation import DEFAULT_PROMPT
from tests.web.conftest import KEY, SPOKEN, Opened, Visit, until
from tests.web.test_files import strings

pytestmark = pytest.mark.slow
PHONE = {"width": 390, "height": 844}
HEARD = "go forward ten meters"


async def choose(opened: Opened, *files: Path) -> None:
    await opened.page.locator(".view:visible input[type=file]").set_input_files(list(files))


async def ask(opened: Opened) -> None:
    await opened.page.get_by_role("button", name="Ask", exact=True).click()
    await opened.page.get_by_role("status").filter(has_text="Done").wait_for()


def players(opened: Opened) -> playwright.Locator:
    return opened.page.locator(".view:visible .player .name")


async def record(opened: Opened, seconds: float) -> None:
    """Start the microphone, and wait for so much of a recording."""
    page = opened.page
    await page.get_by_role("button", name="Record", exact=True).click()

    async def is_long_enough() -> bool:
        return float((await page.get_by_role("timer").inner_text()).removesuffix(" s")) >= seconds

    await page.get_by_role("timer").wait_for()
    await until(is_long_enough)


async def width(opened: Opened) -> int:
    return int(await opened.page.evaluate("document.documentElement.scrollWidth"))


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """Half a second of the recording, with a name too long for a phone."""
    samples, rate = soundfile.read(SPOKEN)
    file = tmp_path / f"{'a-recording-with-a-very-long-name-' * 4}.wav"
    soundfile.write(file, samples[: rate // 2], rate)
    return file


async def test_a_new_recording_takes_the_place_of_the_old_and_of_its_answer(visit: Visit, second: Path) -> None:
    async with visit("try") as opened:
        page = opened.page
        await choose(opened, SPOKEN)
        await ask(opened)
        assert "goforward.flac" in await page.locator(".receipts").inner_text()
        await choose(opened, second)
        await page.get_by_text("The answer appears here").wait_for()
        assert await players(opened).all_inner_texts() == [second.name]
        await page.get_by_role("button", name="Bring back goforward.flac").click()
        assert await players(opened).all_inner_texts() == ["goforward.flac"]
        await page.get_by_role("checkbox", name="Add another").check()
        await choose(opened, second)
        await page.get_by_text("2 recordings go into one question").wait_for()
        assert not await page.get_by_role("checkbox", name="Add another").is_checked()
        await ask(opened)
        assert [await one.inner_text() for one in await page.locator(".receipts strong").all()] == [
            "goforward.flac",
            second.name,
        ]
        await page.get_by_role("link", name="Compare", exact=True).click()
        assert await players(opened).all_inner_texts() == ["goforward.flac", second.name]


async def test_more_recordings_than_a_request_takes_are_refused_in_words(visit: Visit, second: Path) -> None:
    async with visit("try") as opened:
        await choose(opened, *[second] * 34)
        await opened.page.get_by_role("alert").filter(has_text="32 recordings at most; 2 were left out").wait_for()
        assert await players(opened).count() == 32


async def test_a_take_is_saved_and_its_part_asked_about_as_the_code_says(visit: Visit, tmp_path: Path) -> None:
    """The code that the page shows, run on the file that it saves, gives the answer that it shows."""
    async with visit("try") as opened:
        page = opened.page
        await record(opened, 3)
        await page.get_by_role("button", name="Stop and ask").click()
        await page.get_by_role("status").filter(has_text="Done").wait_for()
        await page.get_by_role("button", name=re.compile("^Ask about a part of Recording")).click()
        part = page.get_by_role("group", name=re.compile("^Part of Recording"))
        await part.get_by_label("to", exact=True).fill("1.7")
        await part.get_by_label("from", exact=True).fill("0.2")
        await part.get_by_label("from", exact=True).press("Enter")
        await part.get_by_text("1.50 s").wait_for()
        await page.get_by_text("The answer appears here").wait_for()  # nothing is asked yet
        await ask(opened)
        assert "1.50 of 1.50 s used" in await page.locator(".receipts").inner_text()
        async with page.expect_download() as download:
            await page.get_by_role("button", name=re.compile("^Save Recording")).click()
        saved = await download.value
        assert re.fullmatch(r"Recording \d\d\.\d\d\.\d\d 0\.20-1\.70 s\.wav", saved.suggested_filename)
        await saved.save_as(tmp_path / saved.suggested_filename)
        info = soundfile.info(tmp_path / saved.suggested_filename)
        assert (info.samplerate, info.frames) == (16_000, 24_000)

        await page.get_by_label("Ask on about the same").fill("Is that 'all';\n or not?")
        await page.keyboard.press("Enter")
        await page.get_by_role("list", name="Earlier turns").wait_for()
        await page.get_by_role("status").filter(has_text="Done").wait_for()
        said = await page.get_by_test_id("answer").inner_text()
        await page.get_by_text("The same as code").click()
        curl = await page.locator(".snippet pre").inner_text()
        await page.get_by_role("radio", name="Python").check()
        python = await page.locator(".snippet pre").inner_text()
    environment = {**os.environ, "OVERTONE_KEY": KEY, "NO_PROXY": "127.0.0.1"}
    for command in ([sys.executable, "-c", python], ["bash", "-c", curl.replace("curl ", "curl -s ", 1)]):
        told = await asyncio.to_thread(
            subprocess.run, command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        text = json.loads(told.stdout)["text"] if command[0] == "bash" else told.stdout.rstrip("\n")
        assert text.strip() == said.strip()


async def test_a_part_is_marked_with_the_pointer_and_played_alone(visit: Visit) -> None:
    async with visit("try") as opened:
        page = opened.page
        await choose(opened, SPOKEN)
        await page.get_by_text("2.79 s").wait_for()
        box = await page.locator(".player-wave").bounding_box()
        assert box
        middle = box["y"] + box["height"] / 2
        await page.mouse.move(box["x"] + 0.25 * box["width"], middle)
        await page.mouse.down()
        await page.mouse.move(box["x"] + 0.5 * box["width"], middle, steps=4)
        await page.mouse.up()
        part = page.get_by_role("group", name="Part of goforward.flac")
        ends = [float(await part.get_by_label(end, exact=True).input_value()) for end in ("from", "to")]
        assert ends == pytest.approx([2.79 / 4, 2.79 / 2], abs=0.03)
        await page.get_by_role("button", name="Play goforward.flac").click()
        await page.get_by_role("button", name="Pause goforward.flac").wait_for()
        await page.get_by_role("button", name="Play goforward.flac").wait_for()  # by itself, at the part's end
        at = float(await page.get_by_role("slider", name="Position in goforward.flac").input_value())
        assert ends[1] - 0.02 <= at < 2.7
        await part.get_by_role("button", name="All of it").click()
        await page.get_by_role("button", name="Ask about a part of goforward.flac").wait_for()


async def test_the_microphone_stops_with_the_view_and_keeps_its_take(visit: Visit) -> None:
    async with visit("try", viewport=PHONE) as opened:
        page = opened.page
        await page.add_init_script("""const get = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
            navigator.mediaDevices.getUserMedia = async (wish) => (window.stream = await get(wish));""")
        await page.reload()
        await record(opened, 0.5)
        assert await width(opened) <= PHONE["width"]
        await page.get_by_role("link", name="Compare", exact=True).click()
        await players(opened).wait_for()
        assert await page.evaluate("stream.getTracks().every((track) => track.readyState === 'ended')")
        assert re.match(r"Recording \d\d\.\d\d", await players(opened).inner_text())
        assert await width(opened) <= PHONE["width"]


async def test_nothing_makes_a_phone_scroll_sideways(visit: Visit, second: Path) -> None:
    async with visit("try", viewport=PHONE) as opened:
        page = opened.page
        await record(opened, 0.5)
        await page.get_by_role("button", name="Stop recording").click()
        await players(opened).wait_for()
        await page.get_by_role("checkbox", name="Add another").check()
        await choose(opened, second)
        await page.get_by_role("button", name=re.compile("^Ask about a part of a-rec")).click()
        await page.get_by_label("Prompt").fill("Verylongwordwithoutaspace" * 12)
        await page.get_by_role("radio", name="Mix").check()
        await page.locator(".options summary").click()
        await ask(opened)
        await page.get_by_text("The same as code").click()
        assert await width(opened) <= PHONE["width"]
        await page.get_by_role("link", name="Compare with others").click()
        shown = page.locator(".view:visible")
        await shown.get_by_text("Add a mix or an older version").click()
        await shown.get_by_label("Expected text").fill("Anotherlongwordwithoutaspace" * 12)
        await shown.get_by_role("button", name="Compare", exact=True).click()
        await page.locator(".column footer button").nth(1).wait_for()
        assert await width(opened) <= PHONE["width"]


async def test_an_option_out_of_range_is_shown_and_nothing_is_sent(visit: Visit) -> None:
    async with visit("try") as opened:
        page = opened.page
        sent: list[str] = []
        page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
        await page.get_by_label("Prompt").fill("Count.")
        options = page.locator(".options")
        await options.locator("summary").click()
        for label, wrong, words in (
            ("Temperature", "9", "from 0 to 5"),
            ("Temperature", "warm", "from 0 to 5"),
            ("Tokens at most", "2000", "1,024 at most"),
            ("Seed", "-1", "0 or more"),
        ):
            right = await page.get_by_label(label).input_value()
            await page.get_by_label(label).fill(wrong)
            await options.locator("summary").click()
            await page.get_by_role("button", name="Ask", exact=True).click()
            await options.get_by_text(words).wait_for()
            focused = page.locator(":focus")
            assert await focused.get_attribute("aria-invalid") == "true"
            assert words in await page.locator(f"#{await focused.get_attribute('aria-describedby')}").inner_text()
            await page.get_by_label(label).fill(right)
        assert not sent
        await page.get_by_label("Temperature").fill("0,5")
        await page.get_by_label("Tokens at most").fill("4")
        await page.get_by_label("Prompt").press("Control+Enter")
        await page.get_by_role("status").filter(has_text=re.compile("Done|Cut")).wait_for()
        assert len(sent) == 1


async def test_history_and_form_outlive_a_reload(visit: Visit, second: Path) -> None:
    async with visit("try") as opened:
        page = opened.page
        await choose(opened, SPOKEN)
        await page.get_by_label("Prompt").fill("Write it.")
        await page.locator(".options summary").click()
        await page.get_by_label("Tokens at most").fill("7")
        await page.get_by_label("System message").fill("Be brief.")
        await page.get_by_role("radio", name="One adapter").check()
        await page.get_by_role("combobox", name="One adapter").select_option("nato")
        await page.get_by_role("button", name="Ask", exact=True).click()
        await page.get_by_role("status").filter(has_text=re.compile("Done|Cut")).wait_for()
        said = await page.get_by_test_id("answer").inner_text()

        await choose(opened, second)
        await page.get_by_label("Prompt").fill("Not yet asked")
        await page.get_by_label("Tokens at most").fill("9")
        await page.get_by_role("radio", name="Base model").check()

        async def is_kept() -> bool:
            return bool(await page.evaluate(KEPT, "Not yet asked"))

        await until(is_kept)
        await page.reload()
        await players(opened).wait_for()
        assert await players(opened).all_inner_texts() == [second.name]
        assert await page.get_by_label("Prompt").input_value() == "Not yet asked"

        row = page.get_by_role("region", name="History").get_by_role("listitem")
        await row.get_by_role("button").click()
        assert await players(opened).all_inner_texts() == ["goforward.flac"]
        assert await page.get_by_label("Prompt").input_value() == "Write it."
        await page.locator(".options summary").click()
        assert await page.get_by_label("Tokens at most").input_value() == "7"
        assert await page.get_by_label("System message").input_value() == "Be brief."
        assert await page.get_by_role("combobox", name="One adapter").input_value() == "nato"
        assert await page.get_by_test_id("answer").inner_text() == said
        await page.get_by_role("button", name="Ask", exact=True).click()  # the same again, from what was kept
        await row.nth(1).wait_for()
        await page.get_by_role("status").filter(has_text=re.compile("Done|Cut")).wait_for()
        assert await page.get_by_test_id("answer").inner_text() == said

        await row.nth(1).get_by_role("button").click()
        await page.get_by_role("button", name="Clear").click()
        await page.get_by_role("dialog").get_by_role("button", name="Clear").click()
        await row.first.wait_for(state="detached")
        await page.reload()
        await page.get_by_role("button", name="Use the sample").wait_for()
        assert await row.count() == 0


KEPT = """(words) => new Promise((resolve) => {
    const opening = indexedDB.open("overtone");
    opening.onsuccess = () => {
        const all = opening.result.transaction("drafts").objectStore("drafts").getAll();
        all.onsuccess = () => { opening.result.close(); resolve(all.result.some((one) => one.prompt === words)); };
    };
})"""


async def test_a_question_picked_from_the_history_does_not_lose_the_one_being_written(visit: Visit) -> None:
    async with visit("try") as opened:
        page = opened.page
        await choose(opened, SPOKEN)
        await ask(opened)
        await page.get_by_label("Prompt").fill("Half a quest")
        await page.get_by_role("region", name="History").get_by_role("listitem").get_by_role("button").click()
        assert await page.get_by_label("Prompt").input_value() == ""
        await page.get_by_role("button", name="Back to what was there").click()
        assert await page.get_by_label("Prompt").input_value() == "Half a quest"


async def test_an_adapter_that_is_deleted_does_not_stay_chosen(visit: Visit) -> None:
    async with visit("try") as opened:
        page = opened.page
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=opened.url, headers=headers, trust_env=False) as client:
            packed = (await client.get("/adapters/nato/download")).raise_for_status().content
            files = {"file": ("brief.zip", packed, "application/zip")}
            (await client.post("/adapters", data={"name": "brief"}, files=files)).raise_for_status()
            await page.reload()
            await page.get_by_role("radio", name="One adapter").check()
            await page.get_by_role("combobox", name="One adapter").select_option("brief")
            (await client.delete("/adapters/brief")).raise_for_status()
        await page.get_by_text("brief is no longer served here").wait_for()
        assert await page.get_by_role("radio", name="Base model").is_checked()
        await page.get_by_role("radio", name="One adapter").check()
        await page.get_by_text("brief is no longer served here").wait_for(state="detached")


async def test_a_link_carries_the_question(visit: Visit) -> None:
    async with visit("try") as opened:
        page = opened.page
        await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        await page.get_by_role("button", name="Use the sample").click()
        await players(opened).wait_for()
        await page.get_by_label("Prompt").fill("Wer & was? 100 %")
        await page.locator(".options summary").click()
        await page.get_by_label("Temperature").fill("0.5")
        await page.get_by_label("Seed").fill("7")
        await page.get_by_label("Tokens at most").fill("20")
        await page.get_by_role("radio", name="Mix").check()
        await page.get_by_role("button", name="Ask", exact=True).click()
        await page.get_by_role("status").filter(has_text=re.compile("Done|Cut")).wait_for()
        said = await page.get_by_test_id("answer").inner_text()
        await page.get_by_role("button", name="Copy link").click()
        link = await page.evaluate("navigator.clipboard.readText()")
    async with visit("try") as opened:
        page = opened.page
        await page.goto(link)
        await players(opened).wait_for()
        assert await page.get_by_label("Prompt").input_value() == "Wer & was? 100 %"
        await page.get_by_role("button", name="Ask", exact=True).click()
        await page.get_by_role("heading", name="command-json:0.5 + nato:0.5").wait_for()
        await page.get_by_role("status").filter(has_text=re.compile("Done|Cut")).wait_for()
        assert await page.get_by_test_id("answer").inner_text() == said


async def test_an_answer_that_breaks_off_says_what_to_do(visit: Visit) -> None:
    async with visit("try") as opened, cut(opened.url) as (url, mended):
        page = opened.page
        await page.goto(f"{url}/#/try")
        await choose(opened, SPOKEN)
        await page.get_by_role("button", name="Ask", exact=True).click()
        alert = page.get_by_role("alert").filter(has_text="broke off")
        await alert.wait_for()
        assert "not whole" in await alert.inner_text()
        mended.set()
        await alert.get_by_role("button", name="Try again").click()
        await page.get_by_role("status").filter(has_text=re.compile("Done|Cut")).wait_for()
        assert await page.get_by_role("region", name="History").get_by_role("listitem").count() == 2
        opened.complaints.clear()  # the browser notes the connection that broke off


@asynccontextmanager
async def cut(url: str) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """An address that passes connections on, and breaks those that carry an answer's events off until it is mended."""
    target = httpx.URL(url)
    mended = asyncio.Event()
    writers: set[asyncio.StreamWriter] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, breaks: bool) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if breaks and b"event: token" in data and not mended.is_set():
                    writer.write(data[: data.index(b"event: token") + 20])
                    await writer.drain()
                    break
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to_server = await asyncio.open_connection(target.host, target.port)
        writers.update((writer, to_server))
        async with asyncio.TaskGroup() as both:
            both.create_task(pass_on(reader, to_server, breaks=False))
            both.create_task(pass_on(upstream, writer, breaks=True))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", mended
    finally:
        server.close()
        for writer in writers:
            writer.close()
        for writer in writers:
            with suppress(ConnectionError):
                await writer.wait_closed()


def test_the_page_knows_the_prompt_that_the_service_takes_for_none() -> None:
    for language in ("en", "zh"):
        assert strings(language)["prompt.usual"] == DEFAULT_PROMPT
