"""Three replicas of a small model behind Ray Serve, over one store that holds twelve adapters."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx
import psutil
import pytest

from app.models.loading import LoadedModel, spec_of
from app.registry.replicated import open_registry
from tests.api.conftest import model_folder as model_folder
from tests.support import make_adapter

ROOT = Path(__file__).parents[2]
REPLICAS = 3
NAMES = tuple(f"voice-{letter}" for letter in "abcdefghijkl")
SLOTS = 5  # of each replica: all together hold the adapters, no two do


@dataclass(frozen=True)
class Cluster:
    """``settings`` are those of every replica."""

    url: str
    settings: dict[str, object]
    process: subprocess.Popen[str]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120)

    def replicas(self) -> list[psutil.Process]:
        """The processes that hold a model."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in found if "ServeReplica:overtone:Overtone" in _title(process)]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.fixture(scope="session")
def store(loaded: LoadedModel, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster") / "store"
    folder.mkdir()
    registry = open_registry(
        folder.with_name("filler"), spec_of(str(model_folder)), max_rank=64, keep_versions=3, shared=f"file://{folder}"
    )
    registry.open()
    for seed, name in enumerate(NAMES, start=10):
        registry.publish(make_adapter(loaded, folder.with_name(name), seed), name)
    return folder


@pytest.fixture(scope="session")
def cluster(store: Path, model_folder: Path) -> Iterator[Cluster]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed (pip install 'overtone[cluster]')")
    settings: dict[str, object] = dict(
        model=str(model_folder),
        device="cpu",
        dtype="float32",
        cpu_threads=1,
        adapters=str(store.with_name("caches")),
        jobs=str(store.with_name("jobs")),
        shared_adapters=f"file://{store}",
        watch_seconds=0.5,
        max_resident=SLOTS,
        kv_gb=0.05,
        max_upload_mb=4,
        drain_seconds=5,
    )
    arguments = dict(min_replicas=REPLICAS, max_replicas=REPLICAS, num_gpus=0, settings=settings)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.server", str(port), json.dumps(arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        _wait_for(process.stdout, "ready")
        yield Cluster(f"http://127.0.0.1:{port}", settings, process)
    finally:
        started = psutil.Process(process.pid).children(recursive=True)
        process.communicate(timeout=60)
        for left in psutil.wait_procs(started, timeout=10)[1]:
            left.kill()


def _wait_for(lines: IO[str] | None, word: str) -> None:
    assert lines is not None
    for line in lines:
        if line.strip() == word:
            return
    pytest.fail("the cluster did not start")
