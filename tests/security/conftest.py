"""The whole app behind a real socket, for tools that speak HTTP themselves."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn

from app.main import create_app
from app.settings import Settings
from tests.api.conftest import adapter_folders, model_folder, settings

__all__ = ["adapter_folders", "model_folder", "settings"]


@pytest.fixture(scope="module")
def server(
    settings: Callable[..., Settings], adapter_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Its address; alpha and beta are in its registry."""
    root = tmp_path_factory.mktemp("registry")
    for name, folder in adapter_folders.items():
        (root / name).mkdir()
        for file in folder.iterdir():
            (root / name / file.name).write_bytes(file.read_bytes())
    limits = dict(max_context=256, max_upload_mb=4, max_adapter_mb=8, max_dataset_mb=4)
    app = create_app(settings(root, drain_seconds=5, **limits))
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", loop="uvloop", http="httptools", ws="none"))
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        while not running.started:
            time.sleep(0.02)
        url = f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
        while httpx.get(f"{url}/ready").status_code != 200:
            time.sleep(0.05)
        yield url
    finally:
        running.should_exit = True
        thread.join()
