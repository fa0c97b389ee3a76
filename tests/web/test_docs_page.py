"""`/docs` in a browser that reaches this server alone: the key is entered, a clip is uploaded."""

from playwright import async_api as playwright

from tests.web.conftest import KEY, SPOKEN


async def test_a_request_is_tried_with_a_key(server: str, browser: playwright.Browser) -> None:
    visitor = await browser.new_context(color_scheme="dark")
    page = await visitor.new_page()
    page.set_default_timeout(90_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    own = (server, "data:", "blob:")
    page.on("request", lambda sent: None if sent.url.startswith(own) else errors.append(sent.url))
    try:
        await page.goto(f"{server}/docs#/generate/generate")
        await page.get_by_role("button", name="Authorize").click()
        await page.get_by_label("auth-bearer-value").fill(KEY)
        await page.get_by_role("button", name="Apply credentials").first.click()
        await page.get_by_role("button", name="Close").first.click()
        operation = page.locator("#operations-generate-generate")
        await operation.get_by_role("button", name="Try it out").click()
        await operation.get_by_role("button", name="Add string item").first.click()
        await operation.locator("input[type=file]").set_input_files(SPOKEN)
        await operation.get_by_role("button", name="Execute").click()
        answer = operation.locator(".live-responses-table")
        await playwright.expect(answer).to_contain_text('"container": "FLAC"')
        await playwright.expect(answer).to_contain_text("200")
        assert "dark-mode" in str(await page.locator("html").get_attribute("class"))
        assert errors == []
    finally:
        await visitor.close()
