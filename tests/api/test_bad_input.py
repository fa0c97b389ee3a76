"""Every bad request: a clear 4xx, a neighbour streaming meanwhile unharmed, and the next answer still right."""

import asyncio
import io
import json
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.api.conftest import ask, audio, busy, events_of, wav
from tests.support import tone

LONG = {"prompt": "tell me more", "max_new_tokens": "120", "adapter": "alpha"}
NAN = np.full(8000, np.nan, dtype=np.float32)


@pytest.fixture(scope="session")
async def usual(client: httpx.AsyncClient) -> tuple[str, str]:
    """What the neighbour and a good request answer when nothing goes wrong."""
    neighbour = (await client.post("/generate", data=LONG)).json()["text"]
    return neighbour, (await ask(client, adapter="beta"))["text"]


@asynccontextmanager
async def unharmed(client: httpx.AsyncClient, usual: tuple[str, str]) -> AsyncIterator[None]:
    """A neighbour streams while the body runs; a good request follows."""
    neighbour = asyncio.create_task(client.post("/generate", data=LONG | {"stream": "true"}))
    await busy(client)
    yield
    kind, done = events_of((await neighbour).text)[-1]
    assert kind == "done"
    assert done["text"] == usual[0]
    assert (await ask(client, adapter="beta"))["text"] == usual[1]


def refused(response: httpx.Response, status: int, code: str, *words: str) -> dict[str, Any]:
    """A problem with this status and code, whose detail says all the words."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["code"] == code
    assert problem["status"] == status
    assert problem["instance"] == response.headers["x-request-id"]
    assert problem["type"] == f"urn:overtone:error:{code}"
    for word in words:
        assert word in problem["detail"], problem["detail"]
    return problem


RECORDINGS = {
    "not audio": (b"hello, I am a text file" * 50, 415, "not_audio", "not audio"),
    "empty": (b"", 415, "not_audio", "empty"),
    "truncated header": (wav()[:20], 415, "not_audio", "clip.wav"),
    "no samples": (wav(np.zeros(0, np.float32)), 415, "not_audio", "no samples"),
    "NaN": (wav(NAN, subtype="FLOAT"), 415, "not_audio", "NaN"),
    "one hour": (wav(np.zeros(3600 * 8000, np.float32), 8000, "FLAC"), 413, "too_large", "60 s"),
}


@pytest.mark.parametrize("name", RECORDINGS)
async def test_recordings(client: httpx.AsyncClient, usual: tuple[str, str], name: str) -> None:
    data, status, code, words = RECORDINGS[name]
    async with unharmed(client, usual):
        refused(await client.post("/generate", files=audio(data)), status, code, words)
        fields = {"adapters": "base,alpha"}
        refused(await client.post("/compare", data=fields, files=audio(data)), status, code, words)


async def test_eight_channels_are_heard_as_one(client: httpx.AsyncClient, usual: tuple[str, str]) -> None:
    wide = np.repeat(tone(220, 0.5)[:, None], 8, axis=1)
    async with unharmed(client, usual):
        response = await client.post("/generate", data={"max_new_tokens": "8"}, files=audio(wav(wide)))
        assert response.json()["audio"][0]["channels"] == 8
        assert response.json()["text"] == (await ask(client))["text"]


FIELDS: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown": ({"tempurature": "1"}, "bad_request", "did you mean 'temperature'?"),
    "OpenAI's name": ({"max_tokens": "1"}, "bad_request", "did you mean 'max_new_tokens'?"),
    "nothing like it": ({"zzzzzz": "1"}, "bad_request", "known: audio, prompt"),
    "n": ({"n": "2"}, "bad_request", "n must be 1"),
    "top_p": ({"top_p": "1.5"}, "bad_request", "top_p: input should be less than or equal to 1"),
    "nan": ({"temperature": "nan"}, "bad_request", "temperature: input should be a finite number"),
    "negative": ({"temperature": "-1"}, "bad_request", "temperature: input should be greater than or equal to 0"),
    "top_k": ({"top_k": "1.5"}, "bad_request", "top_k: input should be a valid integer"),
    "penalty": ({"repetition_penalty": "0"}, "bad_request", "repetition_penalty: input should be greater"),
    "not a number": ({"max_new_tokens": "many"}, "bad_request", "sent: 'many'"),
    "no tokens": ({"max_new_tokens": "0"}, "bad_request", "max_new_tokens: input should be greater"),
    "seed": ({"seed": str(2**64)}, "bad_request", f"seed: input should be less than {2**63}"),
    "stop": ({"stop": ["x"] * 9}, "bad_request", "stop: list should have at most 8 items"),
    "beyond the cache": ({"max_new_tokens": "100000"}, "bad_request", "ask for at most"),
    "long prompt": ({"prompt": "a" * 600}, "prompt_too_long", "room for 512"),
    "control token": ({"prompt": "<|im_end|>"}, "bad_request", "<|im_end|>"),
    "mix of nonsense": ({"adapter": "alpha:x"}, "bad_request", "a:0.7,b:0.3"),
    "mix of one twice": ({"adapter": "alpha,alpha"}, "bad_request", "twice"),
    "mix with base": ({"adapter": "alpha,base"}, "bad_request", "base"),
    "messages are no JSON": ({"messages": "["}, "bad_request", "messages: the text is not JSON"),
    "messages and prompt": ({"messages": "[]", "prompt": "x"}, "bad_request", "not both"),
    "wrong role": ({"messages": json.dumps([{"role": "x", "content": "y"}])}, "bad_request", "messages: 0.role: Input"),
    "ends wrongly": ({"messages": json.dumps([{"role": "system", "content": "y"}])}, "bad_request", "'user'"),
    "audio left out": ({"messages": json.dumps([{"role": "user", "content": "y"}])}, "bad_request", "each index"),
}


@pytest.mark.parametrize("name", FIELDS)
async def test_fields(client: httpx.AsyncClient, usual: tuple[str, str], name: str) -> None:
    fields, code, words = FIELDS[name]
    async with unharmed(client, usual):
        problem = refused(await client.post("/generate", data=fields, files=audio()), 422, code, words)
    unknown = {"tempurature", "max_tokens", "zzzzzz"} & set(fields)
    assert ("Unknown field" in problem["detail"]) == bool(unknown)


async def test_wrong_fields_are_named(client: httpx.AsyncClient) -> None:
    problem = refused(
        await client.post("/generate", data={"prompt": "x", "top_p": "9", "top_k": "x"}), 422, "bad_request"
    )
    assert problem["fields"] == ["top_p", "top_k"]
    refused(await client.post("/compare", data={"prompt": "x"}), 422, "bad_request", "adapters: this field is required")
    refused(await client.post("/compare", data={"prompt": "x", "adapter": "alpha"}), 422, "bad_request", "'adapters'")


async def test_nothing_to_answer(client: httpx.AsyncClient) -> None:
    refused(await client.post("/generate", data={"adapter": "base"}), 422, "bad_request", "Send audio, a prompt")
    refused(await client.post("/generate", data={"audio": "not a file", "prompt": "x"}), 422, "bad_request", "audio")


@pytest.mark.parametrize("path", ["/generate", "/compare", "/classify"])
async def test_bodies_that_are_no_form(client: httpx.AsyncClient, path: str) -> None:
    refused(await client.post(path, json={"prompt": "x"}), 422, "bad_request", "curl -F", "application/json")
    raw = await client.post(path, content=wav(), headers={"content-type": "audio/wav"})
    refused(raw, 422, "bad_request", "curl -F", "audio/wav")


async def test_unknown_adapter(client: httpx.AsyncClient, usual: tuple[str, str]) -> None:
    async with unharmed(client, usual):
        response = await client.post("/generate", data={"adapter": "alhpa"}, files=audio())
        refused(response, 404, "adapter_not_found", "did you mean alpha?")


async def test_unknown_routes_and_methods(client: httpx.AsyncClient) -> None:
    refused(await client.get("/nowhere"), 404, "not_found", "/docs")
    refused(await client.get("/generate"), 405, "method_not_allowed", "POST")
    broken = {"content-type": "multipart/form-data; boundary=x"}
    refused(await client.post("/generate", content=b"nonsense", headers=broken), 400, "malformed_body", "curl -F")


async def chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(size >> 20):
        yield bytes(1 << 20)


@pytest.mark.parametrize(
    ("path", "limit", "setting"),
    [("/generate", 4, "OVERTONE_MAX_UPLOAD_MB"), ("/adapters", 8, "OVERTONE_MAX_ADAPTER_MB")],
)
async def test_bodies_beyond_the_limit(
    client: httpx.AsyncClient, usual: tuple[str, str], path: str, limit: int, setting: str
) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    start = b'--x\r\nContent-Disposition: form-data; name="audio"; filename="a.wav"\r\n\r\n'

    async def body() -> AsyncIterator[bytes]:
        yield start
        async for chunk in chunks(100 << 20):
            yield chunk

    async with unharmed(client, usual):
        announced = await client.post(path, content=bytes((limit + 1) << 20), headers=headers)
        refused(announced, 413, "too_large", f"{limit} MB", setting)
        refused(await client.post(path, content=body(), headers=headers), 413, "too_large", f"{limit} MB", setting)


def zipped(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def weights(**tensors: Any) -> bytes:
    import torch
    from safetensors.torch import save

    layer = "base_model.model.model.language_model.layers.0.self_attn.q_proj"
    made = {"A": torch.ones(4, 64), "B": torch.ones(64, 4)} | tensors
    return save({f"{layer}.lora_{side}.weight": tensor for side, tensor in made.items()})


def bad_archives(folder: Path) -> dict[str, tuple[bytes, int, str, str]]:
    import torch

    good = contents(folder)
    manifest = {
        "schema": 1,
        "name": "x",
        "base": {"name": "another", "fingerprint": "0" * 64},
    }
    model, config = "adapter_model.safetensors", "adapter_config.json"
    return {
        "no archive": (b"x" * 100, 422, "bad_request", "archive"),
        "not an adapter": (zipped({"hello.txt": b"hi"}), 422, "bad_request", "adapter_config.json"),
        "escapes": (zipped(good | {"../evil": b"x"}), 422, "adapter_rejected", "leaves its folder"),
        "pickle": (zipped({config: good[config], "adapter_model.bin": b"x"}), 422, "adapter_rejected", "pickle"),
        "bomb": (zipped(good | {model: bytes(12 << 20)}), 413, "too_large", "OVERTONE_MAX_ADAPTER_MB"),
        "wrong shapes": (zipped(good | {model: weights(A=torch.ones(4, 63))}), 422, "adapter_rejected", "shape"),
        "NaN": (zipped(good | {model: weights(A=torch.full((4, 64), torch.nan))}), 422, "adapter_rejected", "NaN"),
        "does nothing": (zipped(good | {model: weights(B=torch.zeros(64, 4))}), 422, "adapter_rejected", "nothing"),
        "wrong base": (
            zipped(good | {"manifest.json": json.dumps(manifest).encode()}), 422, "adapter_rejected", "another",
        ),
    }  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["no archive", "not an adapter", "escapes", "pickle", "bomb", "wrong shapes", "NaN", "does nothing", "wrong base"],
)
async def test_adapters(
    client: httpx.AsyncClient, usual: tuple[str, str], adapter_folders: dict[str, Path], name: str
) -> None:
    data, status, code, words = bad_archives(adapter_folders["alpha"])[name]
    async with unharmed(client, usual):
        response = await client.post("/adapters", data={"name": "evil"}, files={"file": ("evil.zip", data)})
        problem = refused(response, status, code, words)
        if name in ("wrong shapes", "NaN"):
            assert problem["problems"]
    listed = (await client.get("/adapters")).json()["adapters"]
    assert [adapter["name"] for adapter in listed] == ["alpha", "beta"]


@pytest.mark.parametrize("name", ["../evil", "base", "Evil", "", "a" * 65])
async def test_adapter_names(client: httpx.AsyncClient, adapter_folders: dict[str, Path], name: str) -> None:
    data = zipped(contents(adapter_folders["alpha"]))
    response = await client.post("/adapters", data={"name": name}, files={"file": ("a.zip", data)})
    refused(response, 422, "bad_request", "name")


@pytest.mark.parametrize("name", ["%2e%2e", ".staging", ".history", "nobody"])
async def test_names_that_are_none_reach_no_file(client: httpx.AsyncClient, name: str) -> None:
    refused(await client.delete(f"/adapters/{name}"), 404, "adapter_not_found")
    refused(await client.post(f"/adapters/{name}/rollback"), 404, "adapter_not_found")
    refused(await client.get(f"/adapters/{name}/download"), 404, "adapter_not_found")
    assert client.app.state.overtone.service.registry.root.is_dir()  # type: ignore[attr-defined]


async def test_adapter_bodies(client: httpx.AsyncClient, tmp_path: Path) -> None:
    refused(await client.post("/adapters", content=b"x"), 422, "bad_request", "multipart/form-data")
    refused(await client.post("/adapters", json={"name": "x"}), 422, "bad_request", "source")
    refused(await client.post("/adapters", json={"name": "x", "source": "y", "why": 1}), 422, "bad_request", "why")
    refused(await client.post("/adapters", json={"name": "x", "source": str(tmp_path)}), 403, "forbidden", "ROOTS")
    refused(await client.post("/adapters", json={"name": "x", "source": "s3://b/x"}), 403, "forbidden", "SOURCES")
    refused(await client.post("/adapters", data={"name": "x"}, files={"f": b"x"}), 422, "bad_request", "'f'")
    refused(await client.post("/adapters/alpha/pin", json={"pined": True}), 422, "bad_request", "pined")


@pytest.mark.parametrize("path", ["/adapters", "/v1/load_lora_adapter", "/training/jobs"])
async def test_a_body_that_names_a_source_is_short(client: httpx.AsyncClient, path: str) -> None:
    """It is JSON in memory, whatever an adapter or a data set may weigh."""
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        yield b'{"name": "'
        for _ in range(100):
            read += 1 << 20
            yield b"x" * (1 << 20)

    answer = await client.post(path, content=body(), headers={"content-type": "application/json"})
    assert answer.status_code == 413, answer.text
    assert read <= 8 << 20
