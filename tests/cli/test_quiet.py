"""Commands print what they have to say, and nothing of the libraries below them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.cli.demo import CLIP, SAID
from training.sample_data import write

ROOT = Path(__file__).parents[2]
NOISE = ("Loading weights", "it/s", "Warning", "warnings.warn", "transformers", "site-packages")


def run(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, on the embedded model, without a terminal."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OVERTONE_", "PYTHONWARNINGS"))}
    done = subprocess.run(
        [sys.executable, "-m", "app.cli.main", *map(str, words)],
        cwd=folder,
        env=kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done


def assert_quiet(done: subprocess.CompletedProcess[str]) -> None:
    found = [word for word in NOISE for text in (done.stdout, done.stderr) if word in text]
    assert not found, f"{found} in\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_generate(tmp_path: Path) -> None:
    done = run(tmp_path, "generate", CLIP, "--json")
    assert json.loads(done.stdout)["text"] == SAID
    assert done.stderr == ""
    assert_quiet(run(tmp_path, "generate", CLIP))


@pytest.mark.slow
def test_bench(tmp_path: Path) -> None:
    """It loads a model, puts PEFT's adapters around it, and serves them."""
    words = ("bench", "--only", "1x1", "--new-tokens", "3", "--repeats", "1", "--seconds", "1", "--json")
    done = run(tmp_path, *words)
    assert [result["system"] for result in json.loads(done.stdout)["results"]][-1] == "Overtone"
    assert done.stderr == ""


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    done = run(tmp_path, "demo")
    assert SAID in done.stdout
    assert_quiet(done)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "head"])
def test_train(tmp_path: Path, method: str) -> None:
    data = write(tmp_path / "data", 40)
    words = ("--name", "tones", "--method", method, "--epochs", "1", "--registry", tmp_path / "registry")
    done = run(tmp_path, "train", data, *words, *(("--set", "max_steps=2") if method == "lora" else ()))
    assert (tmp_path / "registry" / "tones").is_dir()
    assert_quiet(done)


def test_the_words_looked_for_are_those_of_the_libraries(tmp_path: Path) -> None:
    """Without the filter, the same loading is loud."""
    script = (
        "import torch; from app.models.loading import load; from app.settings import EMBEDDED_MODEL; "
        "load(str(EMBEDDED_MODEL), torch.device('cpu'), torch.float32)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "Loading weights" in done.stderr
