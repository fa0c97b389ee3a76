"""Renew docs/images: `python docs/screenshots.py` starts a service, trains an adapter, and takes pictures of the page.

Needs what the page's tests need: Playwright for Python and Chromium.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from training.sample_data import PROMPT, write

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
SPOKEN = ROOT / "tests" / "data" / "human" / "goforward.flac"
WIDE = {"viewport": {"width": 1280, "height": 860}, "locale": "en-GB"}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2}
SCRIPT = "from app.main import serve; from app.settings import Settings; serve(Settings(_env_file=None))"
PATIENCE = 600_000  # ms


@contextmanager
def service(folder: Path) -> Iterator[str]:
    """A service of its own over copies of the shipped adapters; its address."""
    shutil.copytree(ROOT / "adapters", folder / "adapters")
    write(folder / "sets" / "telephone-tones", 160)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    values = {"adapters": folder / "adapters", "jobs": folder / "jobs", "dataset_roots": folder / "sets", "port": port}
    values["feedback"] = folder / "feedback"
    environment = (
        os.environ
        | {"OMP_NUM_THREADS": "1"}
        | {f"OVERTONE_{name.upper()}": str(value) for name, value in values.items()}
    )
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment)
    try:
        url = f"http://127.0.0.1:{port}"
        while not _ready(url):
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def ask(page: Page, adapter: str) -> None:
    """Try's form, filled and sent."""
    if not page.get_by_role("button", name="goforward").count():
        page.locator("input[type=file]").set_input_files(SPOKEN)
    page.locator("input[value=one]").check()
    page.locator(".adapter-choice select").select_option(adapter)
    page.locator("form button.primary").first.click()
    page.locator(".answer .facts").wait_for()


def train(page: Page, url: str) -> None:
    page.goto(f"{url}/#/train")
    page.get_by_label("or use one that is there").select_option(index=1)
    page.get_by_label("Name of the adapter").fill("telephone-tones")
    page.locator(".view:visible .options summary").click()
    page.get_by_label("Epochs").fill("5")
    page.get_by_label("What it does").fill("tells what the tones of a telephone line mean")
    page.locator(".view:visible .options summary").click()
    page.get_by_role("button", name="Train", exact=True).click()
    page.get_by_role("link", name="Try it now").wait_for(timeout=PATIENCE)


def judged(url: str) -> None:
    """Rows of feedback: two corrected answers of an adapter, a right one, and a draft."""
    human = ROOT / "tests" / "data" / "human"
    said = [("cards-001", "nato", "wrong"), ("cards-002", "nato", "wrong"), ("goforward", "base", "right")]
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        for name, adapter, verdict in [*said, ("cards-003", "base", "draft")]:
            files = {"audio": (f"{name}.flac", (human / f"{name}.flac").read_bytes())}
            fields = {"adapter": adapter, "prompt": "What did you hear?"}
            answer = client.post("/generate", data=fields, files=files).raise_for_status().json()
            told = {"request_id": answer["id"], "verdict": verdict, "consent": True}
            right = {"corrected": transcript(name)} if verdict == "wrong" else {}
            client.post("/feedback", json=told | right).raise_for_status()


def transcript(name: str) -> str:
    """What is said in one of the recordings."""
    lines = (ROOT / "tests" / "data" / "human" / "transcripts.tsv").read_text().splitlines()
    return next(line.split("\t")[2] for line in lines if line.startswith(name))


def data(page: Page, url: str) -> None:
    """The rows, and what base and adapter say to one of them now."""
    page.goto(f"{url}/#/data")
    row = page.locator(".data-row:has([data-testid=row-corrected])").first
    row.locator("button[aria-expanded]").click()
    row.get_by_test_id("side").nth(1).locator("mark").first.wait_for()
    page.evaluate("document.querySelector('.data-row').scrollIntoView()")


def again(page: Page, url: str, folder: Path) -> None:
    """A second run of the same name, compared with the first, and both over each other."""
    fields = {"name": "telephone-tones", "dataset": str(folder / "sets" / "telephone-tones"), "epochs": 2}
    job = httpx.post(f"{url}/training/jobs", json=fields | {"promote": "not_worse"}, trust_env=False).json()
    page.goto(f"{url}/#/train?job={job['id']}")
    page.locator(".comparison").wait_for(timeout=PATIENCE)
    for box in page.locator(".job-list input[type=checkbox]").all():
        box.check()
    page.locator(".curve.run-2").wait_for()


def wide(browser: Browser, url: str, folder: Path) -> None:
    context = browser.new_context(**WIDE, color_scheme="light")
    page = context.new_page()
    page.goto(url)
    ask(page, "nato")
    ask(page, "command-json")
    shot(page, "try-light")
    train(page, url)
    shot(page, "train-light")
    judged(url)
    data(page, url)
    shot(page, "data-light")
    again(page, url, folder)
    page.emulate_media(color_scheme="dark")
    page.evaluate("document.querySelector('.comparison').scrollIntoView()")
    shot(page, "versions-dark")
    page.emulate_media(color_scheme="light")
    page.goto(f"{url}/#/adapters")
    page.get_by_role("article").first.wait_for()
    shot(page, "adapters-light")
    page.emulate_media(color_scheme="dark")
    shot(page, "adapters-dark")
    page.goto(f"{url}/#/compare")
    page.get_by_role("checkbox", name="telephone-tones").uncheck()
    page.get_by_role("textbox", name="Expected text").fill("go forward ten meters")
    page.get_by_role("button", name="Compare", exact=True).click()
    page.locator(".column footer button").nth(2).wait_for()
    page.locator(".view:visible .columns").scroll_into_view_if_needed()
    shot(page, "compare-dark")
    page.goto(f"{url}/#/server")
    for _ in range(12):  # some load to look at
        fields = {"adapters": "base,nato,command-json,telephone-tones", "prompt": PROMPT, "max_new_tokens": "64"}
        httpx.post(f"{url}/compare", data=fields, files={"audio": SPOKEN.read_bytes()}, trust_env=False, timeout=60)
        page.wait_for_timeout(700)
    shot(page, "server-dark")
    context.close()


def phone(browser: Browser, url: str) -> None:
    context = browser.new_context(**PHONE, locale="zh-CN", color_scheme="light")
    page = context.new_page()
    page.goto(url)
    ask(page, "command-json")
    page.locator("h1").scroll_into_view_if_needed()
    shot(page, "try-phone-zh")
    page.goto(f"{url}/#/adapters")
    page.get_by_role("article").first.wait_for()
    page.emulate_media(color_scheme="dark")
    shot(page, "adapters-phone-dark")
    page.get_by_role("combobox").first.select_option("繁體中文")
    data(page, url)
    shot(page, "data-phone-zh-hant")
    context.close()


def shot(page: Page, name: str) -> None:
    """A PNG of 256 colours, which is what a page has."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(400)
    file = IMAGES / f"{name}.png"
    page.screenshot(path=file)
    Image.open(file).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, service(Path(folder)) as url, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, chromium_sandbox=os.geteuid() != 0)
        wide(browser, url, Path(folder))
        phone(browser, url)
        browser.close()


if __name__ == "__main__":
    main()
