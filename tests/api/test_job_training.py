"""The whole way: recordings to `/training/jobs`, and answers from the adapter in the same server."""

import asyncio
import io
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.settings import EMBEDDED_MODEL
from tests.api import test_process
from tests.api.test_process import up
from training.sample_data import PROMPT, write

start = test_process.start
ENOUGH = 0.6  # of the clips never trained on, six answers being possible


def packed(folder: Path) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    return memory.getvalue()


async def test_recordings_become_an_adapter_that_answers(start: Callable[..., Any], tmp_path: Path) -> None:
    write(tmp_path / "train", 240)
    unseen = [json.loads(line) for line in write(tmp_path / "unseen", 30, seed=1).read_text().splitlines()]
    async with start(model=str(EMBEDDED_MODEL), cpu_threads="2") as server:
        await up(server)
        made = await server.client.post(
            "/training/jobs",
            data={"name": "line", "epochs": "6"},
            files={"file": ("tones.zip", packed(tmp_path / "train"))},
        )
        assert made.status_code == 202, made.text
        deadline, told = time.monotonic() + 600, made.json()
        while told["state"] in ("queued", "running"):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.5)
            told = (await server.client.get(f"/training/jobs/{told['id']}")).json()
        assert told["state"] == "succeeded", told
        assert told["told"]["adapter"] == {"name": "line", "version": 1}
        assert told["told"]["metrics"]["after"]["exact"] > told["told"]["metrics"]["before"]["exact"]

        right = 0
        for row in unseen:
            answer = await server.client.post(
                "/generate",
                data={"adapter": "line", "prompt": PROMPT, "max_new_tokens": "16"},
                files={"audio": (tmp_path / "unseen" / row["audio"]).read_bytes()},
            )
            assert answer.status_code == 200, answer.text
            assert answer.json()["adapter"] == {"name": "line", "version": 1}
            right += answer.json()["text"].strip() == row["response"]
        assert right / len(unseen) >= ENOUGH
