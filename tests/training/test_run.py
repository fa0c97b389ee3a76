"""Whole runs: what is published, what is refused, and that the base stays what it was."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from peft import PeftModel
from safetensors.torch import load_file
from typer.testing import CliRunner

from app.errors import BadRequest, DatasetError
from app.models.loading import load
from app.registry.adapter_files.manifest import read_manifest
from tests.training.sources import read_events
from training.cli import app, work_folder
from training.estimate import estimate
from training.evaluation import verdict
from training.events import TrainingFailed
from training.prepare import DataRefused
from training.run import Run
from training.sample_data import write

Train = Callable[..., Any]


def test_lora_is_published_with_figures_and_a_card(train: Train, tmp_path: Path, model_folder: Path) -> None:
    outcome, seen = train(epochs=6, learning_rate=1e-2)
    folder = tmp_path / "registry" / "tones"
    manifest = read_manifest(folder)
    assert manifest is not None
    assert (manifest.method, manifest.parts, manifest.rank) == ("lora", ["language_model"], 8)
    assert manifest.prompt == "What does the line say?"
    assert manifest.dataset_fingerprint.startswith("sha256:")
    assert manifest.metrics == outcome.trained.metrics
    assert {"before", "after", "gain", "retention", "listening", "loss"} <= manifest.metrics.keys()
    card = (folder / "README.md").read_text()
    assert "What does the line say?" in card
    assert "unchanged, bit for bit" in card
    kinds = [event["event"] for event in seen]
    assert list(dict.fromkeys(kinds)) == ["gate", "exam", "start", "step", "eval", "done"]
    for side, asked_again in (("before", 0), ("after", outcome.trained.metrics["listening"]["rows"])):
        told = [(event["done"], event["total"]) for event in seen if event["event"] == "exam" and event["side"] == side]
        questions = outcome.trained.metrics["rows"] + outcome.trained.metrics["retention"]["rows"] + asked_again
        assert (told[0], told[-1]) == ((0, questions), (questions, questions))
        assert told == sorted(told)
    assert kinds.count("eval") == 6
    assert (tmp_path / "work" / "curves.png").read_bytes().startswith(b"\x89PNG")
    losses = [event["loss"] for event in seen if event["event"] == "eval"]
    assert losses[-1] < losses[0]
    model = PeftModel.from_pretrained(load(str(model_folder), torch.device("cpu"), torch.float32).model, str(folder))
    assert sum(p.numel() for n, p in model.named_parameters() if "lora_" in n) == manifest.parameters


def test_a_taken_name_gets_its_next_version(train: Train) -> None:
    assert train(max_steps=1)[0].adapter.version == 1
    assert train(max_steps=1)[0].adapter.version == 2


@pytest.mark.parametrize(
    "asked",
    [
        {"preset": "balanced"},
        {"preset": "strong"},
        {"dora": True},
        {"lora_plus": 16},
        {"eva": True},
        {"include_audio_tower": True},
        {"rank": 3, "alpha": 5, "targets": r".*language_model.*o_proj"},
    ],
    ids=lambda asked: "-".join(asked),
)
def test_every_option_gives_an_adapter_that_fits(train: Train, asked: dict[str, Any]) -> None:
    outcome, _ = train(max_steps=2, **asked)
    report = outcome.adapter.report
    assert report.ok
    assert report.serving == ("alone" if "dora" in asked else "batched")
    assert ("audio_tower" in report.parts) == ("include_audio_tower" in asked)
    if "preset" in asked:
        assert "gate_proj" in report.targets


def test_a_projector_is_saved_alone_and_the_base_returns(train: Train, tmp_path: Path, begin: Train) -> None:
    run, seen = begin(
        method="projector", allow=("few_samples",), learning_rate=1e-3, drift_bound=1.0, retention_bound=1.0
    )
    before = {name: tensor.clone() for name, tensor in run.loaded.model.state_dict().items()}
    outcome = run.run()
    after = run.loaded.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert (outcome.adapter.report.parts, outcome.adapter.manifest.method) == (["projector"], "projector")
    tensors = load_file(tmp_path / "registry" / "tones" / "adapter_model.safetensors")
    assert {name.split("multi_modal_projector.")[-1] for name in tensors} == {"linear.weight", "linear.bias"}
    (weight,) = [tensor for name, tensor in tensors.items() if name.endswith("weight")]
    old = before["model.multi_modal_projector.linear.weight"]
    assert not torch.equal(weight, old)
    watched = [event for event in seen if event["event"] == "watch"]
    both = torch.cat([weight.flatten(), next(t for n, t in tensors.items() if n.endswith("bias"))])
    old = torch.cat([old.flatten(), before["model.multi_modal_projector.linear.bias"]])
    assert watched[-1]["relative_change"] == pytest.approx(float((both - old).norm() / old.norm()), rel=1e-3)


@pytest.mark.parametrize(("bound", "words"), [("drift_bound", "has moved"), ("retention_bound", "have changed")])
def test_a_projector_past_its_bounds_stops_by_itself(train: Train, tmp_path: Path, bound: str, words: str) -> None:
    with pytest.raises(TrainingFailed, match=words):
        train(method="projector", allow=("few_samples",), learning_rate=1.0, **{"drift_bound": 1e9, bound: 1e-6})
    assert not (tmp_path / "registry" / "tones").exists()
    asked = {"drift_bound": 1e9, bound: 1e-6, "keep": "last"}
    with pytest.raises(TrainingFailed, match=words):
        train(method="projector", allow=("few_samples",), learning_rate=1.0, work="last", **asked)


def test_a_head_learns_the_answers_as_classes(train: Train) -> None:
    outcome, _ = train(method="head", epochs=40)
    assert outcome.adapter.manifest.method == "head"
    assert outcome.adapter.report.serving == "classify"
    assert len(outcome.adapter.report.labels) == 6


def test_thirty_clips_of_noise_are_refused_by_name(train: Train, tmp_path: Path) -> None:
    """The experiment that ruins a projector, as written in docs/training-data.md."""
    noise = np.random.default_rng(0)
    lines = []
    for index in range(30):
        soundfile.write(tmp_path / f"{index}.wav", 0.3 * noise.standard_normal(16_000), 16_000)
        lines.append(json.dumps({"audio": f"{index}.wav", "text": f"Sample number {index}."}) + "\n")
    (tmp_path / "noise.jsonl").write_text("".join(lines))
    with pytest.raises(DataRefused) as caught:
        train(data=tmp_path / "noise.jsonl", method="projector")
    words = " ".join(caught.value.problems)
    assert "noise_only: 30 recordings are steady noise" in words
    assert "few_samples: 27 rows to train on" in words
    assert not (tmp_path / "registry").exists()


def test_broken_rows_are_refused_with_their_numbers(train: Train, tones: Path, tmp_path: Path) -> None:
    lines = tones.read_text().splitlines()
    lines[3] = '{"audio": '
    lines[7] = json.dumps({"audio": "gone.wav", "text": "x"})
    lines[9] = json.dumps({"audio": "0001.flac", "text": "<|im_end|>"})
    copy = tones.with_name("broken.jsonl")
    copy.write_text("\n".join(lines))
    with pytest.raises(DatasetError) as caught:
        train(data=copy)
    assert [problem.split(":")[1].split(" ")[0] for problem in caught.value.problems] == ["4", "8", "10"]


def test_unknown_options_and_codes_are_refused(begin: Train) -> None:
    with pytest.raises(BadRequest, match="the gate knows"):
        begin(allow=("everything",))[0].run()
    with pytest.raises(BadRequest, match="cannot name an adapter"):
        begin(name="base")
    with pytest.raises(BadRequest, match="cannot be read"):
        begin(model=Path("/nowhere"))[0].run()


def test_a_dry_run_measures_and_publishes_nothing(begin: Train, tmp_path: Path) -> None:
    run, seen = begin(epochs=3)
    run.check()
    told = estimate(run)
    assert (told.rows, told.steps) == (36, 15)
    assert told.training_seconds == pytest.approx(told.steps * told.step_seconds, abs=0.1)
    assert told.memory_gb > 0.05
    assert not (tmp_path / "registry").exists()
    assert not run.checkpoint.exists()
    assert "step" not in {event["event"] for event in seen}


@pytest.mark.parametrize("method", ["lora", "head"])
def test_a_dry_run_tells_whoever_listens(
    model_folder: Path, tones: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a job of the service that only checks runs it."""
    monkeypatch.setattr("training.cli._stop_on_signals", lambda run: None)  # those of the tests' own process stay
    told = tmp_path / "events.jsonl"
    words = ["train", str(tones), "--name", "tones", "--method", method, "--dry-run", "--events", str(told)]
    done = CliRunner().invoke(app, [*words, "--model", str(model_folder), "--work", str(tmp_path / "work")])
    assert done.exit_code == 0, done.output
    gate, checked = read_events(told)
    assert (gate["event"], gate["ok"], checked["event"]) == ("gate", True, "checked")
    assert checked["estimate"] is None if method == "head" else checked["estimate"]["rows"] == 36


def test_the_verdict_names_what_went_wrong() -> None:
    told = {
        "judged_by": "exact",
        "gain": {"value": 0.1, "low": -0.1, "high": 0.3, "better": False},
        "listening": {"changed": 0.0},
        "retention": {"similar": 0.2},
    }
    words = " ".join(verdict(told))
    assert all(part in words for part in ("No certain gain", "hardly listens", "General answers"))
    fine = {"judged_by": "exact", "gain": {"better": True, "value": 1, "low": 1, "high": 1}}
    assert verdict(fine) == []


def command(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, timeout=300)


def test_a_run_writes_nothing_into_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`overtone train runs/tones --name tones`: the run's events would be read as data there."""
    monkeypatch.chdir(tmp_path)
    write(Path("runs/tones"), 4)
    assert work_folder("runs/tones", "tones") == Path("runs/tones-run")
    assert work_folder(str(tmp_path / "runs" / "tones"), "tones") == Path("runs/tones-run")
    assert work_folder("runs/tones/data.jsonl", "tones") == Path("runs/tones")
    assert work_folder("runs/tones", "line") == Path("runs/line")


def test_the_command_line_says_what_is_wrong(tones: Path, model_folder: Path) -> None:
    usual = ("training", "train", str(tones), "--model", str(model_folder))
    for words, told in [
        ((), "--name"),
        (("--name", "x", "--set", "speed=9"), "speed"),
        (("--name", "x", "--set", "rank"), "key=value"),
        (("--name", "x", "--method", "magic"), "method"),
        (("--name", "x", "--method", "head", "--dora"), "dora is no option of --method head"),
        (("--name", "x", "--hidden", "8"), "hidden is no option of --method lora"),
        (("--name", "x", "--push-to-hub", "../x"), "push_to_hub"),
        (("--name", "x", "--device", "banana"), "is no device"),
    ]:
        done = command(*usual, *words)
        assert done.returncode == 2
        assert told in done.stderr
        assert "Traceback" not in done.stderr
        refused = json.loads(command(*usual, *words, "--json").stdout)["error"]
        assert (refused["code"], told in refused["message"]) == ("bad_request", True)
    checked = command(*usual, "--check")
    assert checked.returncode == 0
    assert "can be trained on" in checked.stderr


def test_a_missing_extra_is_told(tmp_path: Path) -> None:
    blocked = "import sys; sys.modules['torch.utils.tensorboard'] = None; from training.cli import app; app()"
    words = [sys.executable, "-c", blocked, "train", "data.jsonl", "--name", "x", "--work", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "pip install 'overtone[train]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_json_and_tensorboard_tell_what_was_done(tones: Path, model_folder: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    usual = ["training", "train", str(tones), "--model", str(model_folder), "--device", "cpu", "--name", "x", "--json"]
    asked = [
        "--set",
        "evaluate_rows=2",
        "--set",
        "max_new_tokens=4",
        "--epochs",
        "2",
        "--rank",
        "2",
        "--lora-plus",
        "4",
    ]
    places = ["--registry", str(tmp_path / "registry"), "--work", str(tmp_path / "work")]
    done = command(*usual, *places, *asked)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["adapter"] == {"name": "x", "version": 1}
    manifest = read_manifest(tmp_path / "registry" / "x")
    assert manifest is not None
    assert (told["metrics"], manifest.rank) == (manifest.metrics, 2)
    board = EventAccumulator(str(tmp_path / "work" / "tensorboard"))
    board.Reload()
    seen = read_events(tmp_path / "work" / "events.jsonl")
    losses = [(event["step"], event["loss"]) for event in seen if event["event"] == "step"]
    assert [(one.step, pytest.approx(one.value, rel=1e-4)) for one in board.Scalars("train/loss")] == losses
    assert len(board.Scalars("validation/loss")) == 2
    assert all(event["memory_gb"] > 0 for event in seen if event["event"] == "step")


def test_the_tower_s_data_is_compared_with_the_reference_as_well(begin: Train) -> None:
    """What is trained changes nothing of whether the base model knows such sounds."""
    found = [begin(include_audio_tower=tower)[0].check().findings for tower in (False, True)]
    assert found[0] == found[1]
    assert "out_of_distribution" in {finding.code for finding in found[0]}


def test_eva_that_finds_no_end_is_told(train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("training.methods.peft_model.EVA_PASSES", 0)
    with pytest.raises(TrainingFailed, match="leave out --eva"):
        train(eva=True)


def test_runs_can_share_what_was_heard(begin: Train) -> None:
    first: Run = begin(work="a")[0]
    first.run()
    second: Run = begin(work="b")[0]
    files = {file: file.stat().st_mtime_ns for file in first.audio_features._cache.iterdir()}
    second.run()
    assert {file: file.stat().st_mtime_ns for file in second.audio_features._cache.iterdir()} == files
