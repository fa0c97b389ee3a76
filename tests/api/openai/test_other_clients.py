"""Other people's clients against the live server: litellm, LangChain, instructor, pydantic-ai, OpenAI's agents.

They run in an environment of their own (`make clients`), since their versions need not fit Overtone's.
"""

import json
import subprocess
from typing import Any

import httpx
import pytest

from tests.api.openai.conftest import CLIENTS, COMMAND, ROOT, Live

SCRIPT = ROOT / "tests" / "clients" / "others.py"
TEXTS = ("text", "streamed", "transcribed")
MODELS = ("move", "structured", "functions", "tool")


@pytest.mark.parametrize("name", ["litellm", "langchain", "instructor", "pydantic_ai", "openai_agents"])
@pytest.mark.skipif(not (CLIENTS / "litellm").exists(), reason="needs `make clients`")
def test_it_works_unchanged(name: str, live: Live, plain: httpx.Client) -> None:
    fields = {"prompt": "Transcribe the audio.", "adapter": "base"}
    expected = plain.post("/generate", data=fields, files={"audio": COMMAND.read_bytes()}).json()["text"]
    command = [CLIENTS / "python", SCRIPT, name, f"{live.url}/v1", COMMAND]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert len(told) >= 2
    for key in TEXTS:
        assert told.get(key, expected) == expected, key
    for key in MODELS:
        if key in told:
            assert len(told[key]["direction"]) <= 8
            assert 1 <= told[key]["steps"] <= 9
    assert told.get("results", ["moved", "moved"]) == ["moved", "moved"]
