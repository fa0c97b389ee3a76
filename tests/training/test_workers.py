"""Several processes: the adapter of one, whatever dies or is stopped on the way. Here on CPUs, by gloo."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from app.errors import BadRequest
from app.models.loading import LoadedModel
from app.settings import Settings
from tests.training.sources import read_events
from tests.training.test_trainer import trainer_of
from training.audio_features import AudioFeatures
from training.examples import Example
from training.reports.compare import compare
from training.reports.console import err
from training.workers import Workers

ROOT = Path(__file__).parents[2]
EPOCHS = 8  # of 5 steps
ASKED = {"epochs": EPOCHS, "dropout": 0.0, "evaluate_rows": 2, "max_new_tokens": 4, "patience": 50}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@contextmanager
def launched(place: Path, model: Path, tones: Path, work: str, *how: str) -> Iterator["subprocess.Popen[str]"]:
    """`accelerate launch` over two processes, or one of two machines."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", *how, "-m", "training", "train", str(tones)]
    words = ["--name", work, "--model", str(model), "--device", "cpu", "--registry", str(place / "registry")]
    words += ["--work", str(place / work)]
    for key, value in ASKED.items():
        words += ["--set", f"{key}={value}"]
    log = (place / f"{work}{''.join(how[-2:])}.log").open("w")
    process = subprocess.Popen([*launch, *words], stdout=log, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    try:
        yield process
    finally:
        log.close()
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def events(place: Path, work: str, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(place / work / "events.jsonl") if event["event"] == kind]


@pytest.fixture(scope="module")
def whole(place: Path, model_folder: Path, tones: Path) -> Path:
    """The adapter that two machines with a process each have trained, by the file that ships."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    how = ("--config_file", "deploy/accelerate.yaml", "--num_processes", "2")
    how = (*how, "--main_process_ip", "127.0.0.1", "--main_process_port", port, "--machine_rank")
    with (
        launched(place, model_folder, tones, "whole", *how, "0") as one,
        launched(place, model_folder, tones, "whole", *how, "1") as two,
    ):
        assert (one.wait(120), two.wait(120)) == (0, 0), [log.read_text() for log in place.glob("whole*.log")]
    return place / "registry" / "whole"


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_two_machines_train_as_one_process_does(whole: Path, place: Path, train: Callable[..., Any]) -> None:
    outcome, seen = train(**ASKED, name="one")
    (start,) = events(place, "whole", "start")
    assert start["processes"] == 2
    for kind in ("step", "eval"):
        alone, shared = [event for event in seen if event["event"] == kind], events(place, "whole", kind)
        assert [event["step"] for event in shared] == [event["step"] for event in alone]  # each told once
        assert [event["loss"] for event in shared] == pytest.approx([event["loss"] for event in alone], rel=1e-3)
        assert [event.get("lr") for event in shared] == [event.get("lr") for event in alone]
    two, one = (load_file(folder / "adapter_model.safetensors") for folder in (whole, outcome.trained.folder))
    assert two.keys() == one.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5)
    assert json.loads((whole / "manifest.json").read_text())["version"] == 1
    assert len(events(place, "whole", "done")) == len(list((place / "whole" / "tensorboard").iterdir())) == 1


def test_a_run_that_is_cut_off_goes_on_to_the_same_bits(
    whole: Path, place: Path, model_folder: Path, tones: Path
) -> None:
    """Stopped by a signal, without its launcher, and without one of its processes."""
    how = ("--multi_gpu", "--num_machines", "1", "--num_processes", "2")
    told = place / f"cut{''.join(how[-2:])}.log"

    def steps_until(process: "subprocess.Popen[str]", step: int) -> None:
        deadline = time.monotonic() + 60
        while not any(event["step"] >= step for event in events(place, "cut", "step")):
            assert process.poll() is None, told.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    with launched(place, model_folder, tones, "cut", *how) as process:
        steps_until(process, 3)
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        assert process.wait(30) != 0
    assert "Stopped. The same command goes on" in told.read_text()
    assert not psutil.wait_procs(children, 5)[1]  # decoding processes end at the end of their owner's pipes
    stopped = len(events(place, "cut", "step"))

    with launched(place, model_folder, tones, "cut", *how) as process:
        steps_until(process, stopped + 2)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        gone, running = psutil.wait_procs(children, 30)
        assert (len(gone) >= 2, running) == (True, [])
    stopped = events(place, "cut", "step")[-1]["step"]
    assert stopped < 5 * EPOCHS

    with launched(place, model_folder, tones, "cut", *how) as process:
        steps_until(process, stopped + 1)
        (other,) = [one for one in psutil.Process(process.pid).children(recursive=True) if rank_of(one) == "1"]
        other.send_signal(signal.SIGKILL)
        assert process.wait(30) != 0
    (error,) = events(place, "cut", "error")
    assert "Another process of this run has ended" in error["message"]
    assert not (place / "registry" / "cut").exists()

    with launched(place, model_folder, tones, "cut", *how) as process:
        assert process.wait(120) == 0, told.read_text()
    assert "goes on from its checkpoint" in told.read_text()
    files = [place / "registry" / name / "adapter_model.safetensors" for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()


def rank_of(process: psutil.Process) -> str | None:
    return process.environ().get("RANK") if "training" in process.cmdline() else None


def member(rank: int, count: int) -> Workers:
    workers = Workers()
    workers.rank, workers.count = rank, count
    return workers


def test_a_step_s_rows_are_shared_evenly(
    fresh: LoadedModel, audio_features: AudioFeatures, examples: list[Example], tmp_path: Path
) -> None:
    """Also where all of them would fit into one forward pass, or one process works in smaller ones."""
    _, trainer, _ = trainer_of(fresh, audio_features, examples, tmp_path / "c", micro_tokens=100_000)
    rows, shares = examples[:7], []
    for rank in range(3):
        trainer._workers = member(rank, 3)
        trainer._micro_tokens = 16 if rank == 1 else 100_000
        pieces = trainer._pieces(rows)
        assert len(pieces) == (2 if rank == 1 else 1)
        shares.append([row for piece in pieces for row in piece])
    assert sorted(id(row) for share in shares for row in share) == sorted(map(id, rows))
    assert [len(share) for share in shares] == [3, 2, 2]
    longest = [max(len(row.ids) for row in share) for share in shares]
    assert max(longest) - min(longest) <= max(len(row.ids) for row in rows) - sorted(len(row.ids) for row in rows)[-3]


def test_each_process_draws_its_own_numbers_and_goes_on_with_them(
    fresh: LoadedModel, audio_features: AudioFeatures, examples: list[Example], tmp_path: Path
) -> None:
    drawn = []
    for rank in range(2):
        torch.manual_seed(0)
        member(rank, 2).seed(0)
        drawn.append(torch.get_rng_state())
    assert not torch.equal(*drawn)
    _, trainer, _ = trainer_of(fresh, audio_features, examples, tmp_path / "c")
    trainer._save()
    saved = trainer._saved_state()
    assert saved is not None
    state = {**saved, "random": [[one] for one in drawn]}
    for rank, wanted in ((1, drawn[1]), (0, drawn[0]), (2, drawn[0])):  # the third process was not there before
        trainer._workers = member(rank, 3)
        trainer._resume(state)
        assert torch.equal(torch.get_rng_state(), wanted)


def test_what_takes_one_process_refuses_several(
    begin: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadRequest, match="A head takes one process"):
        begin(method="head")
    with pytest.raises(BadRequest, match="The comparison takes one process"):
        compare(None, tmp_path, Settings(), 1, 8, err)
