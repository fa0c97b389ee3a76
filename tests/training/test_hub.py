"""Uploading to the Hub: huggingface_hub itself, against a server that speaks the Hub's protocol."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

PUSH = """
import sys
from pathlib import Path
from training.publish import NotUploaded, push_to_hub
try:
    print(push_to_hub(Path(sys.argv[1]), sys.argv[2]))
except NotUploaded as error:
    sys.exit(str(error))
"""


@pytest.fixture
def hub() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Address of a server that takes files for `acme/tones` alone, and what it has taken."""
    taken: dict[str, bytes] = {}

    class Hub(BaseHTTPRequestHandler):
        @property
        def address(self) -> str:
            return f"http://{self.headers['Host']}"

        def do_GET(self) -> None:
            self._answer({"id": "acme/tones", "sha": "0" * 40, "siblings": [], "tags": []})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/api/repos/create" and json.loads(body)["name"] == "tones":
                self._answer({"url": f"{self.address}/acme/tones", "id": "acme/tones"})
            elif self.path == "/api/validate-yaml":
                self._answer({"errors": [], "warnings": []})
            elif self.path.startswith("/api/models/acme/tones/preupload/"):
                names = [file["path"] for file in json.loads(body)["files"]]
                self._answer({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
            elif self.path.startswith("/api/models/acme/tones/commit/"):
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        taken[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                self._answer({"commitUrl": f"{self.address}/acme/tones/commit/{'1' * 40}", "commitOid": "1" * 40})
            else:
                self.send_error(403)

        def _answer(self, value: object) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", taken
    server.shutdown()
    server.server_close()


def pushed(address: str, folder: Path, repository: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(folder.parent / "hf"), "HF_TOKEN": "hf_none"}
    env |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", PUSH, str(folder), repository]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def test_all_files_of_the_adapter_are_uploaded(hub: tuple[str, dict[str, bytes]], folders: dict[str, Path]) -> None:
    address, taken = hub
    done = pushed(address, folders["qv"], "acme/tones")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{address}/acme/tones/commit/{'1' * 40}"
    assert taken == {file.name: file.read_bytes() for file in folders["qv"].iterdir()}


def test_a_refusal_says_that_the_adapter_is_published_all_the_same(
    hub: tuple[str, dict[str, bytes]], folders: dict[str, Path]
) -> None:
    refused = pushed(hub[0], folders["qv"], "acme/forbidden")
    assert refused.returncode == 1
    assert "is published here, but was not uploaded to 'acme/forbidden'" in refused.stderr
    assert "hf auth login" in refused.stderr
