"""A Hub repository, fetched by huggingface_hub itself from a server that speaks the Hub's protocol."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.loopback import loopback

pytestmark = pytest.mark.slow

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FETCH = """
import sys
from pathlib import Path
from app.errors import OvertoneError
from app.registry.archive_reader import ArchiveLimits
from app.registry.sources import fetch
try:
    fetch(sys.argv[1], Path(sys.argv[2]), roots=(), prefixes=["hf://acme"], limits=ArchiveLimits(int(sys.argv[3])))
except OvertoneError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def hub(folders) -> Iterator[tuple[str, list[str]]]:
    """Address of a server holding `acme/qv` with an adapter's files and one that is none of ours; paths asked."""
    files = {path.name: path.read_bytes() for path in folders["qv"].iterdir() if path.is_file()} | {"big.bin": b"x"}
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            asked.append(path)
            if path.startswith("/api/models/acme/qv"):
                siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
                tree = [{"type": "file", "path": n, "size": len(d), "oid": COMMIT} for n, d in files.items()]
                info = {"id": "acme/qv", "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
                data = json.dumps(tree if "/tree/" in path else info).encode()
            elif path.startswith("/acme/qv/resolve/") and path.rpartition("/")[2] in files:
                data = files[path.rpartition("/")[2]]
            else:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Content-Type", "application/json")
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(data)

    with loopback(Hub) as address:
        yield address, asked


def fetched(address: str, source: str, target: Path, room: int) -> str:
    """In a process of its own: huggingface_hub reads the Hub's address once, when it is imported."""
    target.mkdir()
    env = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(target.parent / "hf"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", FETCH, source, str(target), str(room)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.strip()


def test_an_adapter_of_the_hub_comes_with_its_own_files_alone(hub, folders, tmp_path):
    address, asked = hub
    assert fetched(address, "acme/qv", tmp_path / "in", 1 << 20) == ""
    names = sorted(path.name for path in (tmp_path / "in").iterdir())
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(names)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "in" / name).read_bytes() == (folders["qv"] / name).read_bytes()
    assert not any("big.bin" in path for path in asked)


def test_a_repository_beyond_the_limit_is_refused_before_it_is_downloaded(hub, tmp_path):
    address, asked = hub
    assert fetched(address, "acme/qv", tmp_path / "in", 1000).startswith("TooLarge")
    assert not any("/resolve/" in path for path in asked)


def test_what_is_not_there_is_told(hub, tmp_path):
    address, _ = hub
    assert fetched(address, "hf://acme/none", tmp_path / "in", 1 << 20).startswith("BadRequest The Hub gave no adapter")
