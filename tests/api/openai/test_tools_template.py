"""A model whose chat template knows tools: it sees them, and may choose by itself."""

import copy
from pathlib import Path
from typing import Any

import pytest

from app.models.loading import LoadedModel
from tests.api.conftest import Running, events_of
from tests.api.openai.test_tools import TOOLS
from tests.models.test_tools import TEMPLATE


@pytest.fixture(scope="module")
def folder(model_folder: Path, loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model under such a template."""
    folder = tmp_path_factory.mktemp("tools") / "random-tools"
    folder.mkdir()
    for file in model_folder.iterdir():
        (folder / file.name).hardlink_to(file)
    processor = copy.copy(loaded.processor)
    processor.chat_template = TEMPLATE
    for file in folder.glob("*chat_template*"):
        file.unlink()
    (folder / "processor_config.json").unlink(missing_ok=True)
    processor.save_pretrained(folder)
    return folder


async def test_it_may_choose_by_itself(running: Running, folder: Path) -> None:
    async with running(model=str(folder), max_context=2048) as client:
        asked: dict[str, Any] = {"model": "base", "max_tokens": 6, "messages": [{"role": "user", "content": "hi"}]}

        async def post(**fields: Any) -> dict[str, Any]:
            response = await client.post("/v1/chat/completions", json=asked | fields)
            assert response.status_code == 200, response.text
            answer: dict[str, Any] = response.json()
            return answer

        plain = await post()
        chosen, without = await post(tools=TOOLS), await post(tools=TOOLS, tool_choice="none")
        assert chosen["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"] + 50
        assert without["usage"] == plain["usage"]
        assert chosen["choices"][0]["message"]["content"]
        assert chosen["choices"][0]["finish_reason"] == "length"
        assert "overtone" not in chosen
        required = await post(tools=TOOLS, tool_choice="required", max_tokens=60)
        assert required["usage"]["prompt_tokens"] == chosen["usage"]["prompt_tokens"]
        streamed = await client.post("/v1/chat/completions", json=asked | {"tools": TOOLS, "stream": True})
        assert '"finish_reason": "length"' in streamed.text
        functions = [{"type": "function", **tool["function"]} for tool in TOOLS]
        response = await client.post(
            "/v1/responses",
            json={"model": "base", "input": "hi", "max_output_tokens": 6, "tools": functions, "stream": True},
        )
        kinds = [kind for kind, _ in events_of(response.text)]
        assert kinds[0] == "response.created"
        assert kinds[-1] == "response.incomplete"
        both = asked | {"tools": TOOLS, "response_format": {"type": "json_object"}}
        refused = (await client.post("/v1/chat/completions", json=both)).json()["error"]
        assert "do not go together" in refused["message"]
