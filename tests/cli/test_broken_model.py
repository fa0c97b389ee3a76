"""Every command that needs a base model refuses a broken one in a few words, without a traceback."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import training.cli
from app.cli.main import app
from app.settings import EMBEDDED_MODEL

LOST = "language_model.model.model.layers.3.mlp.down_proj.weight"
TONES = [{"audio": "a.wav", "text": "x"}]


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """The embedded model without one of its tensors."""
    folder = tmp_path_factory.mktemp("models") / "half"
    folder.mkdir()
    for file in EMBEDDED_MODEL.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, folder)
    tensors = load_file(EMBEDDED_MODEL / "model.safetensors")
    del tensors[LOST]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    yield folder
    (folder / "model.safetensors").unlink()  # 40 MB


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TONES))


def check(output):
    assert "Traceback" not in output
    (said,) = [line for line in output.splitlines() if line.startswith("error")]
    assert said.startswith(f"error The model half could not be loaded: model.safetensors lacks {LOST} (1 of the 144")


@pytest.mark.parametrize(
    "words", [("generate", "-p", "hello"), ("bench", "--only", "1x0"), ("adapters", "list"), ("bench", "--soak", "1")]
)
def test_commands_of_overtone(words, broken):
    result = CliRunner().invoke(app, [*words, "--model", str(broken)])
    assert result.exit_code == 1
    check(result.stderr)


def test_json_names_the_code(broken):
    result = CliRunner().invoke(app, ["generate", "-p", "hello", "--json", "--model", str(broken)])
    error = json.loads(result.stdout)["error"]
    assert error["code"] == "model_rejected"
    assert LOST in error["message"]


@pytest.mark.parametrize(
    "words", [("train", "data.jsonl", "--check"), ("train", "data.jsonl", "--name", "a"), ("bench",)]
)
def test_commands_of_training(words, broken):
    result = CliRunner().invoke(training.cli.app, [*words, "--model", str(broken), "--device", "cpu"])
    assert result.exit_code == 2
    check(result.stderr.replace("error: ", "error "))


@pytest.mark.parametrize("words", [("serve", "--port", "0"), ("train", "data.jsonl", "--name", "a")])
def test_processes_end_with_the_error(words, broken, tmp_path):
    plain = {name: value for name, value in os.environ.items() if not name.startswith("OVERTONE_")}
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "app.cli.main", *words, "--model", str(broken), "--device", "cpu"],
        capture_output=True, text=True, timeout=120, cwd=tmp_path, env=plain | {"PYTHONPATH": root},
    )  # fmt: skip
    assert done.returncode == (1 if words[0] == "serve" else 2)
    check(done.stderr.replace("error: ", "error "))
