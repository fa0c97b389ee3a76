"""Steps against a plain loop, resumption after a kill, memory that ends, options that must fit."""

import math
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from app.models.loading import LoadedModel, load
from tests.training.sources import read_events
from training.audio_features import AudioFeatures
from training.batches import epoch, micro_batches
from training.events import Event, Events, TrainingFailed
from training.examples import Example
from training.methods.forward import Forward, supervised
from training.methods.peft_model import Adapted
from training.options import TrainOptions
from training.trainer import Trainer, schedule

ROUNDING = 1e-4  # Adam makes parts of a step of 0.01 of what rounds a gradient near 0
OPTIONS = {"data": "-", "name": "x", "learning_rate": 1e-2, "dropout": 0, "batch": 6, "epochs": 1}


def trainer_of(
    loaded: LoadedModel, audio_features: AudioFeatures, examples: list[Example], checkpoint: Path, **asked: object
) -> tuple[Adapted, Trainer, list[Event]]:
    torch.manual_seed(0)
    options = TrainOptions.model_validate(OPTIONS | asked)
    adapted, seen = Adapted(loaded, options), []
    forward = Forward(loaded.model, audio_features)
    return (
        adapted,
        Trainer(adapted, forward, examples[8:], examples[:8], options, Events([seen.append]), checkpoint),
        seen,
    )


def test_a_step_is_the_same_however_it_is_split(
    model_folder: Path, audio_features: AudioFeatures, examples: list[Example], tmp_path: Path
) -> None:
    states = []
    for tokens in (100_000, 16):
        loaded = load(str(model_folder), torch.device("cpu"), torch.float32)
        adapted, trainer, _ = trainer_of(loaded, audio_features, examples, tmp_path / str(tokens), micro_tokens=tokens)
        losses = [trainer.step(rows) for rows in epoch(trainer._train, 6, 0, 0)[:3]]
        states.append((losses, adapted.state()))
    assert states[0][0] == pytest.approx(states[1][0], rel=1e-5)
    for name, one in states[0][1].items():
        torch.testing.assert_close(one, states[1][1][name], rtol=1e-3, atol=ROUNDING)


def test_steps_are_those_of_a_plain_loop(
    model_folder: Path, audio_features: AudioFeatures, examples: list[Example], tmp_path: Path
) -> None:
    ours, trainer, _ = trainer_of(
        load(str(model_folder), torch.device("cpu"), torch.float32), audio_features, examples, tmp_path / "c"
    )
    theirs = Adapted(load(str(model_folder), torch.device("cpu"), torch.float32), TrainOptions.model_validate(OPTIONS))
    theirs.restore(ours.state())
    forward = Forward(theirs.loaded.model, audio_features)
    parameters = list(theirs.trainable.values())
    optimiser = torch.optim.AdamW(parameters, lr=1.0, weight_decay=0.0)
    for number, rows in enumerate(epoch(trainer._train, 6, 0, 0)[:3]):
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * schedule(number, trainer.steps, 0.03)
        (forward.loss(rows) / supervised(rows)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        trainer.step(rows)
        trainer.progress.step += 1
    for name, parameter in ours.state().items():
        torch.testing.assert_close(parameter, theirs.state()[name], rtol=1e-4, atol=1e-6)


def test_schedule_warms_up_and_ends_at_zero() -> None:
    rates = [schedule(step, 100, 0.1) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 11)
    assert max(rates) == rates[10] == 1
    assert rates[100] == pytest.approx(0)
    assert all(later <= earlier for earlier, later in pairwise(rates[10:]))


def test_every_row_once_an_epoch_in_pieces_that_fit(examples: list[Example]) -> None:
    for number in range(2):
        steps = epoch(examples, 7, 3, number)
        assert sorted(id(row) for step in steps for row in step) == sorted(map(id, examples))
    assert epoch(examples, 7, 3, 0) != epoch(examples, 7, 3, 1)
    pieces = list(micro_batches(examples, 400))
    assert all(len(piece) == 1 or len(piece) * max(len(row.ids) for row in piece) <= 400 for piece in pieces)


class Small(Forward):
    """A device that holds ``room`` tokens at once, twice as many with gradient checkpointing."""

    room = 300
    error: Exception = torch.OutOfMemoryError("no room")

    def loss(self, examples: list[Example]) -> torch.Tensor:  # type: ignore[override]
        tokens = len(examples) * max(len(row.ids) for row in examples)
        if tokens > self.room * (2 if self.checkpointing else 1):
            raise self.error
        return super().loss(examples)


CUBLAS = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
CUDNN = RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")


@pytest.mark.parametrize(
    ("room", "checkpointing", "error"), [(500, False, Small.error), (110, True, CUBLAS), (500, False, CUDNN)]
)
def test_when_memory_ends_it_goes_on_in_smaller_pieces(
    fresh: LoadedModel,
    audio_features: AudioFeatures,
    examples: list[Example],
    tmp_path: Path,
    room: int,
    checkpointing: bool,
    error: Exception,
) -> None:
    adapted, trainer, seen = trainer_of(fresh, audio_features, examples, tmp_path / "c")
    before, rows = adapted.state(), epoch(trainer._train, 6, 0, 0)[0]
    wanted = trainer.step(rows)
    wanted_state = adapted.state()
    adapted.restore(before)
    again = trainer_of_state(trainer)
    again._forward = small = Small(fresh.model, audio_features)
    small.room, small.error = room, error
    assert again.step(rows) == pytest.approx(wanted, rel=1e-5)
    for name, parameter in adapted.state().items():
        torch.testing.assert_close(parameter, wanted_state[name], rtol=1e-3, atol=ROUNDING)
    told = [event for event in seen if event["event"] == "memory"]
    assert told[-1]["checkpointing"] is checkpointing


def test_an_error_about_something_else_is_not_taken_for_a_lack_of_memory(
    fresh: LoadedModel, audio_features: AudioFeatures, examples: list[Example], tmp_path: Path
) -> None:
    _, trainer, seen = trainer_of(fresh, audio_features, examples, tmp_path / "c")
    trainer._forward = small = Small(fresh.model, audio_features)
    small.room, small.error = 1, RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED")
    with pytest.raises(RuntimeError, match="EXECUTION"):
        trainer.step(epoch(trainer._train, 6, 0, 0)[0])
    assert not [event for event in seen if event["event"] == "memory"]


def test_the_held_out_rows_too_are_read_in_pieces_that_fit(
    fresh: LoadedModel, audio_features: AudioFeatures, examples: list[Example], tmp_path: Path
) -> None:
    _, trainer, seen = trainer_of(fresh, audio_features, examples, tmp_path / "c")
    wanted = trainer.validation_loss()
    trainer._forward = small = Small(fresh.model, audio_features)
    small.room, small.error = max(len(row.ids) for row in trainer._validation), CUBLAS
    assert trainer.validation_loss() == pytest.approx(wanted, rel=1e-5)
    assert [event for event in seen if event["event"] == "memory"]


def trainer_of_state(trainer: Trainer) -> Trainer:
    """The same trainer with an optimiser that has taken no step."""
    trainer._optimiser = torch.optim.AdamW(trainer._adapted.groups(), lr=1.0, weight_decay=0.0)
    return trainer


def test_one_row_too_large_is_told(
    fresh: LoadedModel, audio_features: AudioFeatures, examples: list[Example], tmp_path: Path
) -> None:
    _, trainer, _ = trainer_of(fresh, audio_features, examples, tmp_path / "c")
    trainer._forward = small = Small(fresh.model, audio_features)
    small.room = 10
    with pytest.raises(TrainingFailed, match="even with gradient checkpointing"):
        trainer.step(examples[:6])


def test_a_loss_that_is_no_number_ends_the_run(
    fresh: LoadedModel, audio_features: AudioFeatures, examples: list[Example], tmp_path: Path
) -> None:
    adapted, trainer, _ = trainer_of(fresh, audio_features, examples, tmp_path / "c")
    for parameter in adapted.trainable.values():
        parameter.data.fill_(math.nan)
    with pytest.raises(TrainingFailed, match="lower the learning rate"):
        trainer.run()


def test_early_stop_keeps_the_best(
    fresh: LoadedModel, audio_features: AudioFeatures, examples: list[Example], tmp_path: Path
) -> None:
    _, trainer, _ = trainer_of(
        fresh, audio_features, examples, tmp_path / "c", learning_rate=0.3, epochs=30, patience=2, warmup=0
    )
    progress = trainer.run()
    assert progress.stopped
    assert progress.step < trainer.steps
    assert trainer.validation_loss() == pytest.approx(progress.best_loss, rel=1e-6)
    assert progress.best_loss == min(loss for _, loss in progress.validation)


def test_the_last_is_kept_where_that_is_asked(
    fresh: LoadedModel, audio_features: AudioFeatures, examples: list[Example], tmp_path: Path
) -> None:
    asked = {"learning_rate": 0.3, "epochs": 30, "patience": 2, "warmup": 0, "keep": "last"}
    _, trainer, _ = trainer_of(fresh, audio_features, examples, tmp_path / "c", **asked)
    progress = trainer.run()
    assert progress.best_loss < progress.validation[-1][1]
    assert trainer.validation_loss() == pytest.approx(progress.validation[-1][1], rel=1e-6)
    trainer.watch = lambda: "it must not be used"
    trainer._evaluate()
    trainer._save()
    trainer.run()
    assert trainer.validation_loss() == pytest.approx(progress.best_loss, rel=1e-6)


def command(model: Path, tones: Path, root: Path, work: str) -> list[str]:
    return [
        sys.executable, "-m", "training", "train", str(tones), "--name", "tones", "--model", str(model),
        "--device", "cpu", "--registry", str(root / work / "registry"), "--work", str(root / work), "--epochs", "8",
        "--set", "evaluate_rows=2", "--set", "max_new_tokens=4", "--set", "batch=2", "--set", "patience=50",
    ]  # fmt: skip


def wait_for(process: "subprocess.Popen[bytes]", file: Path, kind: str, count: int) -> None:
    """Until that many events of a kind were told."""
    deadline = time.monotonic() + 120
    while sum(event["event"] == kind for event in read_events(file)) < count:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_run_goes_on_to_the_same_bits(model_folder: Path, tones: Path, tmp_path: Path) -> None:
    whole = subprocess.run(command(model_folder, tones, tmp_path, "whole"), capture_output=True, text=True, timeout=300)
    assert whole.returncode == 0, whole.stderr
    cut = subprocess.Popen(
        command(model_folder, tones, tmp_path, "cut"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(cut, tmp_path / "cut" / "events.jsonl", "eval", 3)
    cut.send_signal(signal.SIGKILL)
    cut.wait()
    assert (tmp_path / "cut" / "checkpoint.pt").is_file()
    again = subprocess.run(command(model_folder, tones, tmp_path, "cut"), capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert "goes on from its checkpoint" in again.stderr
    made = [tmp_path / work / "registry" / "tones" / "adapter_model.safetensors" for work in ("whole", "cut")]
    assert made[0].read_bytes() == made[1].read_bytes()


def test_sigterm_keeps_a_checkpoint_that_other_options_may_not_use(
    model_folder: Path, tones: Path, tmp_path: Path
) -> None:
    words = command(model_folder, tones, tmp_path, "stopped")
    running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(running, tmp_path / "stopped" / "events.jsonl", "step", 1)
    running.terminate()
    assert running.wait(60) == 143
    other = subprocess.run([*words, "--set", "seed=7"], capture_output=True, text=True, timeout=120)
    assert other.returncode == 2
    assert "other options (seed)" in other.stderr
