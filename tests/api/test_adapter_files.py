"""Adapters on their way in over HTTP and the command line: what is taken, left aside and refused, in words."""

import io
import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import httpx
import peft
import pytest
from typer.testing import CliRunner

from app.models.loading import LoadedModel
from tests.api.conftest import wav
from tests.layouts import PATHS, save, trained

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLE = b"\x80\x04K\x01."


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)}


async def add(client: httpx.AsyncClient, name: str, files: list[tuple[str, bytes]]) -> httpx.Response:
    form = [("file", one) for one in files]
    return await client.post("/adapters", data={"name": name, "replace": "true"}, files=form)


async def answer(client: httpx.AsyncClient, name: str) -> Any:
    response = await client.post(
        "/generate", data={"adapter": name, "max_new_tokens": "8"}, files={"audio": ("a.wav", wav())}
    )
    assert response.status_code == 200, response.text
    return response.json()["text"]


async def test_a_folder_dropped_into_a_form_is_its_adapter(
    client: httpx.AsyncClient, adapter_folders: dict[str, Path]
) -> None:
    files = files_of(adapter_folders["alpha"])
    beside = [
        ("training_args.bin", PICKLE),
        ("optimizer.pt", PICKLE),
        ("README.md", b"x"),
        ("adapter_model.bin", PICKLE),
    ]
    response = await add(client, "dropped", [*files.items(), *beside])
    assert response.status_code == 201, response.text
    assert "adapter_model.bin was left aside" in " ".join(response.json()["report"]["warnings"])
    listed = zipfile.ZipFile(io.BytesIO((await client.get("/adapters/dropped/download")).content)).namelist()
    assert sorted(listed) == ["README.md", CONFIG, WEIGHTS, "manifest.json"]
    within = [(f"checkpoint-9/{name}", data) for name, data in files.items()]
    assert (await add(client, "dropped", within)).status_code == 201
    twice = await add(client, "dropped", [*within, *((f"checkpoint-8/{name}", data) for name, data in files.items())])
    assert twice.status_code == 422
    assert "twice" in twice.json()["detail"]
    only = await add(client, "dropped", [(CONFIG, files[CONFIG]), ("adapter_model.bin", PICKLE)])
    assert only.status_code == 422
    assert "adapter_model.bin is a pickle" in only.json()["detail"]
    await client.delete("/adapters/dropped")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda files: {f"{n}/{name}": d for n in (1, 2) for name, d in files.items()}, ["2 adapters", "1/, 2/"]),
        (lambda files: {CONFIG: files[CONFIG], "adapter_model.bin": PICKLE}, ["adapter_model.bin", "safetensors"]),
        (lambda files: {"config.json": b"{}", "model.safetensors": b""}, ["whole model", "OVERTONE_MODEL"]),
        (lambda files: files | {CONFIG: files[CONFIG].replace(b'"r": 4', b'"r": 4,,')}, ["line", "column"]),
        (
            lambda files: files | {CONFIG: files[CONFIG].replace(b'"LORA"', b'"PROMPT_TUNING"')},
            ["virtual tokens", "LoRA"],
        ),
        (lambda files: files | {WEIGHTS: b"version https://git-lfs.github.com/spec/v1\n"}, ["git lfs pull"]),
        (lambda files: files | {WEIGHTS: files[WEIGHTS][:-9]}, ["cut off"]),
    ],
)
async def test_refusals_say_what_it_is_and_what_to_do(
    spoil: Any, words: list[str], client: httpx.AsyncClient, adapter_folders: dict[str, Path]
) -> None:
    data = zipped(spoil(files_of(adapter_folders["alpha"])))
    response = await add(client, "bad", [("a.zip", data)])
    assert response.status_code == 422
    assert all(word in response.json()["detail"] for word in words), response.json()["detail"]


async def test_a_body_that_names_a_source_is_small(client: httpx.AsyncClient) -> None:
    async def endless() -> Any:
        for _ in range(2000):
            yield b'{"name": "' + b"x" * (1 << 20)

    tracemalloc.start()
    response = await client.post("/adapters", content=endless(), headers={"Content-Type": "application/json"})
    assert response.status_code == 413
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dora", [False, True])
async def test_older_paths_answer_as_today_s(
    dora: bool, client: httpx.AsyncClient, tmp_path: Path, loaded: LoadedModel
) -> None:
    """The same weights, trained over either layout, with alphas and layers chosen by paths."""
    texts = []
    for layout in ("today", "older"):
        config = peft.LoraConfig(
            r=4,
            use_dora=dora,
            target_modules=rf"^{PATHS[layout]}[01]\.self_attn\.(?:q|v)_proj$",
            alpha_pattern={f"{PATHS[layout]}0.self_attn.q_proj": 96},
        )
        folder = save(trained(loaded, layout, config), tmp_path / layout)
        response = await add(client, layout, list(files_of(folder).items()))
        assert response.status_code == 201, response.text
        assert response.json()["report"]["serving"] == ("alone" if dora else "batched")
        texts.append(await answer(client, layout))
        await client.delete(f"/adapters/{layout}")
    assert texts[0] == texts[1] != await answer(client, "base")


def test_the_command_takes_a_trainer_s_folder(tmp_path: Path) -> None:
    from app.cli.main import app

    shipped = Path(__file__).parents[2] / "adapters" / "nato"
    folder = tmp_path / "checkpoint-3"
    folder.mkdir()
    beside = {
        "training_args.bin": PICKLE,
        "optimizer.pt": PICKLE,
        "adapter_model.bin": PICKLE,
        "trainer_state.json": b"{",
    }
    for name, data in (files_of(shipped) | beside).items():
        (folder / name).write_bytes(data)
    command = ["adapters", "add", str(folder), "--name", "mine", "--adapters", str(tmp_path / "registry")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    published = tmp_path / "registry" / "mine"
    assert sorted(file.name for file in published.iterdir()) == [
        CONFIG,
        WEIGHTS,
        "manifest.json",
    ]
    (folder / WEIGHTS).unlink()
    done = CliRunner().invoke(app, [*command, "--replace"])
    assert done.exit_code != 0
    assert "adapter_model.bin is a pickle" in " ".join(done.output.split())
    above = ["adapters", "add", str(tmp_path), "--name", "other", "--adapters", str(tmp_path / "registry")]
    done = CliRunner().invoke(app, above)
    assert "checkpoint-3" in " ".join(done.output.split())
    assert json.loads((published / CONFIG).read_text())["peft_type"] == "LORA"
