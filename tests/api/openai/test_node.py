"""npm's clients against the live server: `openai`, and `openapi-fetch` with types made from `/openapi.json`.

They are installed into a temporary folder from `tests/node`.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.openai.conftest import BASE, COMMAND, ROOT, Live

NODE, NPM = shutil.which("node"), shutil.which("npm")
NEEDS = "needs node and npm, to run the npm openai client"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(ROOT / "tests" / "node", tmp_path_factory.mktemp("node"), dirs_exist_ok=True)
    command = [str(NPM), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        pytest.skip(f"npm could not install the clients: {done.stderr[-300:]}")
    return folder


def run(folder: Path, *words: str) -> str:
    """What a script prints."""
    done = subprocess.run([str(NODE), *words], cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not (NODE and NPM), reason=NEEDS)
def test_npm_client(client: Path, live: Live) -> None:
    told: dict[str, Any] = json.loads(run(client, "client.mjs", f"{live.url}/v1", BASE, str(COMMAND)))
    assert told["models"] == [BASE, "command-json", "nato"]
    assert told["text"]
    assert told["text"] == told["streamed"] == told["transcribed"] == told["deltas"] == told["tokens"]
    assert told["finish"] == "stop"
    assert told["usage"] == told["streamedUsage"]
    assert told["usage"]["total_tokens"] == told["usage"]["prompt_tokens"] + told["usage"]["completion_tokens"]
    assert told["refused"] == {
        "kind": "BadRequestError", "status": 400, "param": "n", "code": "unsupported_parameter"
    }  # fmt: skip


@pytest.mark.skipif(not (NODE and NPM), reason=NEEDS)
def test_typed_requests_of_openapi_fetch(client: Path, live: Live, plain: httpx.Client) -> None:
    """`tsc` accepts the requests by the document's own types, and they upload a clip."""
    (client / "openapi.json").write_bytes(plain.get("/openapi.json").content)
    run(client, "types.mjs", "openapi.json", "schema.d.ts")
    run(client, "node_modules/typescript/bin/tsc", "-p", ".")
    told = json.loads(run(client, "generated.js", live.url, str(COMMAND)))
    assert told.pop("text") == told.pop("transcribed") != ""
    assert 1 <= told.pop("tokens") <= 4
    assert told == {"container": "FLAC", "adapter": "nato", "refused": "adapter_not_found"}
