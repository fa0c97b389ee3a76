"""What cannot fit is refused as it comes in: by what has been decoded so far, before the rest costs anything."""

import json
from pathlib import Path

import httpx
import numpy as np
import pytest

from app.service import Service
from tests.api.conftest import Running, wav
from tests.support import make_head, tone

LONG = wav(np.tile(tone(220, 1.0), 30), kind="FLAC")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what was decoded."""
    seen: list[int] = []
    hear = Service.hear

    def watched(self: Service, data: bytes, filename: str | None = None, **options: bool) -> object:
        seen.append(len(data))
        return hear(self, data, filename, **options)

    monkeypatch.setattr(Service, "hear", watched)
    return seen


@pytest.mark.parametrize("path", ["/generate", "/compare"])
async def test_recordings_that_fill_the_room_are_the_last_decoded(
    client: httpx.AsyncClient, path: str, decoded: list[int]
) -> None:
    fields = {"prompt": "x"} | ({"adapters": "base"} if path == "/compare" else {})
    response = await client.post(path, data=fields, files=[("audio", ("a.flac", LONG))] * 4)
    assert (response.status_code, response.json()["code"]) == (422, "prompt_too_long")
    assert "tokens of audio (the first 1 of 4 recordings)" in response.json()["detail"]
    assert len(decoded) == 1


async def test_the_same_under_v1(client: httpx.AsyncClient, decoded: list[int]) -> None:
    from base64 import b64encode

    part = {"type": "input_audio", "input_audio": {"data": b64encode(LONG).decode(), "format": "flac"}}
    body = {"model": "base", "messages": [{"role": "user", "content": [part] * 3}]}
    response = await client.post("/v1/chat/completions", json=body)
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert len(decoded) == 1


async def test_one_recording_named_often(client: httpx.AsyncClient) -> None:
    turns = [{"role": "user", "content": [{"type": "audio", "index": 0}] * 5000}]
    response = await client.post("/generate", data={"messages": json.dumps(turns)}, files={"audio": ("a.wav", wav())})
    assert (response.status_code, response.json()["code"]) == (422, "prompt_too_long")
    assert "tokens of audio" in response.json()["detail"]


async def test_a_long_text(client: httpx.AsyncClient) -> None:
    for text in ("a" * 200_000, "ab 1" * 40_000):
        words = [{"role": "user", "content": text}, {"role": "assistant", "content": text}] * 9
        body = {"model": "base", "messages": [*words, {"role": "user", "content": "x"}]}
        response = await client.post("/v1/chat/completions", json=body)
        assert response.json()["error"]["code"] == "context_length_exceeded"


async def test_recordings_to_classify_last_so_long_together(
    running: Running, decoded: list[int], tmp_path: Path
) -> None:
    head = make_head(tmp_path / "sounds", hidden=8)
    async with running(max_audio_seconds=31) as client:
        files = [("file", (file.name, file.read_bytes())) for file in head.iterdir()]
        assert (await client.post("/adapters", data={"name": "sounds"}, files=files)).status_code == 201
        sent = [("audio", ("a.flac", LONG))] * 32
        response = await client.post("/classify", data={"adapter": "sounds"}, files=sent)
        assert (response.status_code, response.json()["code"]) == (413, "too_large")
        assert "The first 9 of 32 recordings last 270 s, and one request may bring 248 s" in response.json()["detail"]
        assert len(decoded) == 9
