"""The client that openapi-python-client makes from `/openapi.json`, against the live server."""

import json
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.api.openai.conftest import CLIENTS, COMMAND, ROOT, Live

SCRIPTS = ROOT / "tests" / "clients"


@pytest.mark.skipif(not (CLIENTS / "openapi-python-client").exists(), reason="needs `make clients`")
def test_it_uploads_a_clip(live: Live, plain: httpx.Client, tmp_path: Path) -> None:
    document = tmp_path / "openapi.json"
    document.write_bytes(plain.get("/openapi.json").content)
    command = [CLIENTS / "openapi-python-client", "generate", "--path", document, "--meta", "none", "--fail-on-warning"]
    command += ["--config", SCRIPTS / "generator.yml", "--output-path", tmp_path / "overtone_client"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    asked = [CLIENTS / "python", SCRIPTS / "generated.py", tmp_path, live.url, COMMAND]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told.pop("text") == told.pop("transcribed") != ""
    assert 1 <= told.pop("completion_tokens") <= 4
    assert told == {
        "adapters": ["command-json", "nato"],
        "container": "FLAC",
        "compared": ["base", "nato"],
        "refused": [404, "adapter_not_found"],
        "zip": "PK",
    }
