"""The page for everyone: by keyboard, with a screen reader, on a phone, in both languages, with and without a key."""

import io
import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load_file, save

from tests.web.conftest import KEY, ROOT, SPOKEN, Opened, Visit

pytestmark = pytest.mark.slow
AXE = Path(__file__).with_name("axe") / "axe.min.js"
VIEWS = ("try", "compare", "adapters", "data", "train", "server")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


async def faults(opened: Opened) -> Sequence[str]:
    """What axe finds on the page as it is."""
    await opened.page.evaluate(AXE.read_text())
    options = json.dumps({"runOnly": RULES})
    told = await opened.page.evaluate(f"axe.run({options}).then(found => found.violations)")
    return [f"{one['id']}: {node['html'][:200]} {node['failureSummary']}" for one in told for node in one["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing(visit: Visit, scheme: str) -> None:
    async with visit("try", color_scheme=scheme) as opened:
        page = opened.page
        for view in VIEWS:
            await opened.go(view)
            await page.locator(".view:visible .panel").first.wait_for()
            if view in ("try", "compare"):
                shown = page.locator(".view:visible")
                await shown.locator("input[type=file]").set_input_files(SPOKEN)
                await shown.locator("button.primary").click()
                await shown.get_by_role("button", name="Copy").first.wait_for()
            if view == "try":
                await page.get_by_role("radio", name="Mix").check()
            for summary in await page.locator(".view:visible summary").all():
                await summary.click()
            if view == "compare":
                await page.get_by_role("textbox", name="Expected text").fill("go forward")
                await shown.get_by_role("button", name=re.compile("^Ask about a part")).click()
                await shown.get_by_label("Temperature").fill("9")
            assert not await faults(opened), view
        await opened.go("adapters")
        await page.get_by_role("article", name="nato").get_by_role("button", name="Delete").click()
        assert not await faults(opened), "dialog"


async def test_a_question_by_keyboard_alone(visit: Visit) -> None:
    async with visit("try") as opened:
        page = opened.page
        press = page.keyboard.press

        async def tab_to(name: str, *, exact: bool = False) -> None:
            for _ in range(40):
                await press("Tab")
                focused = page.locator(":focus")
                label = await focused.get_attribute("aria-label") or await focused.inner_text()
                if name == label if exact else name in label:
                    outline = await focused.evaluate("element => getComputedStyle(element).outlineStyle")
                    assert outline == "solid", f"{name} has no focus ring"
                    return
            pytest.fail(f"{name} cannot be reached")

        await tab_to("Skip to the content")
        await press("Enter")
        await tab_to("Use the sample")
        await press("Enter")
        await page.get_by_role("button", name="Play demo.flac").wait_for()
        await tab_to("Ask", exact=True)
        await press("Enter")
        await page.get_by_role("status").filter(has_text="Done").wait_for()
        await page.reload()
        await tab_to("Adapters")
        await press("Enter")
        await page.get_by_role("heading", name="Adapters", level=1).wait_for()
        assert await page.locator(":focus").inner_text() == "Adapters"


@pytest.mark.parametrize("locale", ["en-GB", "zh-CN", "zh-TW"])
async def test_a_phone_scrolls_in_one_direction(visit: Visit, locale: str) -> None:
    async with visit("try", viewport={"width": 360, "height": 740}, locale=locale) as opened:
        for view in VIEWS:
            await opened.go(view)
            await opened.page.locator(".view:visible .panel").first.wait_for()
            wide = await opened.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= 360, view


@pytest.mark.parametrize("locale", ["en-GB", "zh-TW"])
async def test_a_phone_scrolls_in_one_direction_with_recordings(visit: Visit, tmp_path: Path, locale: str) -> None:
    """Each view in the dark with a real recording under a long name: its answer, its row, its comparison."""
    clip = tmp_path / f"{'a-recording-with-a-long-name-' * 4}.flac"
    clip.write_bytes(SPOKEN.read_bytes())
    async with visit("try", viewport={"width": 390, "height": 844}, locale=locale, color_scheme="dark") as opened:
        page = opened.page

        async def check(view: str) -> None:
            assert await page.evaluate("document.documentElement.scrollWidth") <= 390, view
            assert not await faults(opened), view

        for view in ("try", "compare"):
            await opened.go(view)
            shown = page.locator(".view:visible")
            await shown.locator("input[type=file]").set_input_files(clip)
            await shown.locator("button.primary").first.click()
            await shown.locator(".verdict").first.wait_for()
            await shown.locator(".receipts").wait_for()
            await check(view)
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=opened.url, headers=headers, trust_env=False) as client:
            files = {"audio": (clip.name, clip.read_bytes(), "audio/flac")}
            fields = {"verdict": "wrong", "answer": "go " * 40, "corrected": "forward" * 30, "consent": "true"}
            made = await client.post("/feedback", data=fields | {"prompt": "?"}, files=files)
            await opened.go("data")
            row = page.locator(".data-row").filter(has_text="forwardforward")
            await row.locator(".offenders button").click()
            await row.locator(".player").wait_for()
            await row.locator("button[aria-expanded]").click()
            await row.get_by_test_id("side").first.filter(has_text="go").wait_for()
            await page.locator(".view:visible input[type=file]").first.set_input_files(clip)
            await page.locator(".view:visible button.primary").nth(1).wait_for()
            await check("data")
            await client.delete(f"/feedback/{made.raise_for_status().json()['id']}")
        for view in ("adapters", "train", "server"):
            await opened.go(view)
            await page.locator(".view:visible .panel").first.wait_for()
            for summary in await page.locator(".view:visible summary").all():
                await summary.click()
            await check(view)


async def test_words_do_not_move_what_is_around_them(visit: Visit) -> None:
    """The answer grows inside the room that was kept for it."""
    async with visit("try") as opened:
        page = opened.page
        await page.get_by_role("button", name="Use the sample").click()
        await page.get_by_role("button", name="Ask", exact=True).click()
        panel = page.get_by_role("region", name="Answer")
        await panel.get_by_role("button", name="Stop").or_(panel.get_by_text("Done")).first.wait_for()
        before = await page.get_by_test_id("answer").bounding_box()
        await page.get_by_role("status").filter(has_text="Done").wait_for()
        after = await page.get_by_test_id("answer").bounding_box()
        assert before == after


async def test_chinese_and_a_chosen_theme_last(visit: Visit) -> None:
    async with visit("try", color_scheme="light") as opened:
        page = opened.page
        await page.get_by_role("combobox", name="Language").select_option("简体中文")
        await page.get_by_role("button", name="切换到深色主题").click()
        for _ in range(2):
            await page.get_by_role("heading", name="试用", level=1).wait_for()
            assert await page.locator("html").get_attribute("lang") == "zh-Hans"
            assert await page.locator("html").get_attribute("data-theme") == "dark"
            assert await page.title() == "试用 · Overtone"
            await page.reload()
        for view in VIEWS:
            await opened.go(view)
            await page.locator(".view:visible .panel").first.wait_for()
            assert "undefined" not in await page.locator("main").inner_text()


def twice_as_wide(folder: Path) -> bytes:
    """An archive of an adapter as one of another model would be."""
    held = load_file(folder / "adapter_model.safetensors")
    wide = {key: torch.cat([tensor, tensor], dim=1 if "lora_A" in key else 0) for key, tensor in held.items()}
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr("adapter_config.json", (folder / "adapter_config.json").read_text())
        archive.writestr("adapter_model.safetensors", save(wide))
    return memory.getvalue()


@pytest.mark.parametrize(
    ("locale", "lang", "heading"),
    [
        ("zh-TW", "zh-Hant", "適配器"),
        ("zh-HK", "zh-Hant", "適配器"),
        ("zh-CN", "zh-Hans", "适配器"),
        ("de-DE", "en", "Adapters"),
    ],
)
async def test_the_browsers_language_is_the_pages(visit: Visit, locale: str, lang: str, heading: str) -> None:
    async with visit("adapters", locale=locale) as opened:
        assert await opened.page.locator("html").get_attribute("lang") == lang
        assert await opened.page.get_by_role("heading", level=1).inner_text() == heading
        if lang == "en":
            return
        damaged = {"name": "x.zip", "mimeType": "application/zip", "buffer": b"PK nothing"}
        await opened.page.locator("input[type=file]").set_input_files(damaged)
        await opened.page.locator(".upload-form button.primary").click()
        alert = opened.page.get_by_role("alert")
        await alert.wait_for()
        said, *others = await alert.locator("p").all_inner_texts()
        opened.complaints.clear()  # the browser notes the status 422
        assert "save_pretrained" in said, "in the page's own words"
        assert "damaged" not in said
        assert any("is damaged or cut off" in words for words in others), "and in the server's"

        wider = {"name": "y.zip", "mimeType": "application/zip", "buffer": twice_as_wide(ROOT / "adapters" / "nato")}
        await opened.page.locator("input[type=file]").set_input_files(wider)
        await opened.page.locator(".upload-form button.primary").click()
        await alert.get_by_role("listitem").first.wait_for()
        first, *reasons = await alert.get_by_role("listitem").all()
        assert "84" in await first.inner_text()
        assert len(reasons) >= 3
        for reason in [first, *reasons]:
            assert await reason.get_attribute("lang") is None, "the page's own words again"
        opened.complaints.clear()


async def test_a_key_is_asked_for_and_kept_in_the_tab(visit: Visit) -> None:
    async with visit("adapters", key=False) as opened:
        page = opened.page
        dialog = page.get_by_role("dialog", name="This server asks for a key")
        await dialog.get_by_label("API key").fill("wrong")
        await page.keyboard.press("Enter")
        await dialog.get_by_text("not one of this server's keys").wait_for()
        await dialog.get_by_label("API key").fill(KEY)
        await page.keyboard.press("Enter")
        await page.get_by_role("article", name="nato").wait_for()
        opened.complaints.clear()  # the browser notes the status 401
        await page.reload()
        await page.get_by_role("article", name="nato").wait_for()
        assert await page.evaluate("localStorage.getItem('overtone.key')") is None
