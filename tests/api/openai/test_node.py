"""The npm `openai` client against the live server; it is installed into a temporary folder from `tests/node`."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.api.openai.conftest import BASE, COMMAND, ROOT, Live

NODE, NPM = shutil.which("node"), shutil.which("npm")
NEEDS = "needs node and npm, to run the npm openai client"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("node")
    for file in ("package.json", "package-lock.json", "client.mjs"):
        shutil.copy(ROOT / "tests" / "node" / file, folder)
    command = [str(NPM), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        pytest.skip(f"npm could not install the openai client: {done.stderr[-300:]}")
    return folder / "client.mjs"


@pytest.mark.skipif(not (NODE and NPM), reason=NEEDS)
def test_npm_client(client: Path, live: Live) -> None:
    command = [str(NODE), str(client), f"{live.url}/v1", BASE, str(COMMAND)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["models"] == [BASE, "command-json", "nato"]
    assert told["text"]
    assert told["text"] == told["streamed"] == told["transcribed"] == told["deltas"] == told["tokens"]
    assert told["finish"] == "stop"
    assert told["usage"] == told["streamedUsage"]
    assert told["usage"]["total_tokens"] == told["usage"]["prompt_tokens"] + told["usage"]["completion_tokens"]
    assert told["refused"] == {
        "kind": "BadRequestError", "status": 400, "param": "n", "code": "unsupported_parameter"
    }  # fmt: skip
