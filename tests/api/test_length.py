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
    read_clips = Service.read_clips

    def watched(self: Service, data: bytes, filename: str | None = None, **options: bool) -> object:
        seen.append(len(data))
        return read_clips(self, data, filename, **options)

    monkeypatch.setattr(Service, "read_clips", watched)
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


def piped(flac: bytes) -> bytes:
    """As written to a pipe: its header counts no samples."""
    at = flac.index(b"fLaC") + 8 + 13
    return flac[:at] + bytes([flac[at] & 0xF0, 0, 0, 0, 0]) + flac[at + 5 :]


@pytest.mark.parametrize(("recording", "number", "wanted"), [(LONG, 0, 9), (piped(LONG), 9, 9)], ids=["told", "piped"])
async def test_recordings_to_classify_last_so_long_together(
    running: Running, decoded: list[int], tmp_path: Path, recording: bytes, number: int, wanted: int
) -> None:
    """Refused by their headers before any is decoded; without lengths there, by what has been decoded."""
    head = make_head(tmp_path / "sounds", hidden=8)
    async with running(max_audio_seconds=31) as client:
        files = [("file", (file.name, file.read_bytes())) for file in head.iterdir()]
        assert (await client.post("/adapters", data={"name": "sounds"}, files=files)).status_code == 201
        sent = [("audio", ("a.flac", recording))] * 32
        response = await client.post("/classify", data={"adapter": "sounds"}, files=sent)
        assert (response.status_code, response.json()["code"]) == (413, "too_large")
        told = f"The first {wanted} of 32 recordings last 270 s, and one request may bring 248 s"
        assert told in response.json()["detail"]
        assert len(decoded) == number


@pytest.mark.parametrize("path", ["/generate", "/compare"])
async def test_many_long_recordings_are_refused_by_their_headers(
    running: Running, path: str, decoded: list[int]
) -> None:
    """Silence takes few tokens, so that it takes long until they are too many."""
    silence = wav(np.zeros(60 * 8000, np.float32), 8000, kind="FLAC")
    fields = {"prompt": "x"} | ({"adapters": "base"} if path == "/compare" else {})
    async with running(max_audio_seconds=60) as client:
        response = await client.post(path, data=fields, files=[("audio", ("a.flac", silence))] * 32)
        assert (response.status_code, response.json()["code"]) == (413, "too_large")
        assert "The first 9 of 32 recordings last 540 s, and one request may bring 480 s" in response.json()["detail"]
        assert decoded == []
        response = await client.post(path, data=fields, files=[("audio", ("a.flac", wav(kind="FLAC")))] * 12)
        assert len(decoded) > 0  # short ones are many as well
