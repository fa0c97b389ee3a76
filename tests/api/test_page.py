"""The page and its files over HTTP."""

import httpx

from tests.api.conftest import Running


async def test_the_page_is_served_and_allows_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    script = await client.get("/web/js/main.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert script.headers["cache-control"] == "no-cache"
    again = await client.get("/web/js/main.js", headers={"If-None-Match": script.headers["etag"]})
    assert again.status_code == 304


async def test_paths_outside_the_page_are_not_served(client: httpx.AsyncClient) -> None:
    for path in ("/web/../settings.py", "/web/%2e%2e/settings.py", "/web/nowhere.js", "/web/", "/web"):
        assert (await client.get(path)).status_code in (404, 307), path


async def test_the_page_comes_without_a_key_and_asks_for_one(running: Running) -> None:
    async with running(api_keys=("user",)) as client:
        assert (await client.get("/")).status_code == 200
        assert (await client.get("/web/demo.flac")).status_code == 200
        assert (await client.get("/adapters")).status_code == 401
        assert (await client.get("/webhook")).status_code == 401
