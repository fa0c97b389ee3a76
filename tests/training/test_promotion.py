"""A new version answers only if it is not worse than the one before; truths are plain PEFT's own answers."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from safetensors.torch import load_file

from app.errors import BadRequest, NotFound
from app.models.loading import LoadedModel
from app.models.prompt import PromptRenderer
from app.registry.adapter_files.manifest import read_manifest
from app.registry.local import LocalRegistry
from tests.support import make_adapter, make_head, peft_model, random_model
from training.answers import Answerer
from training.audio_features import AudioFeatures
from training.data.rows import Turn
from training.examples import Example
from training.methods.forward import Forward
from training.options import TrainOptions
from training.promotion import Contest, current_version, sentences
from training.run import Run

Train = Callable[..., Any]
TOKENS = 8


@pytest.fixture(scope="session")
def adapter_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(random_model(), tmp_path_factory.mktemp("made") / "tones", 3)


@pytest.fixture
def registry(fresh: LoadedModel, adapter_folder: Path, tmp_path: Path) -> LocalRegistry:
    """It holds version 1 of `tones`."""
    found = LocalRegistry(tmp_path / "registry", fresh.spec, max_rank=64, keep_versions=5)
    found.open()
    found.publish(adapter_folder, "tones")
    return found


def by_peft(folder: Path, examples: list[Example], audio_features: AudioFeatures, fresh: LoadedModel) -> list[str]:
    """The answers of the adapter as plain PEFT loads it."""
    model = peft_model(random_model(), folder).eval()
    renderer = PromptRenderer(fresh.processor)
    return Answerer(Forward(model.base_model.model, audio_features), renderer, TOKENS).answer(examples)


def with_truths(examples: list[Example], truths: list[str], corrected: int) -> list[Example]:
    """The examples whose right answers are these; the first few of them corrected ones."""
    turns = [(*one.row.turns[:-1], Turn("assistant", truth)) for one, truth in zip(examples, truths, strict=True)]
    return [
        replace(one, row=replace(one.row, turns=said, corrected=place < corrected))
        for place, (one, said) in enumerate(zip(examples, turns, strict=True))
    ]


def test_figures_are_those_of_plain_peft(
    registry: LocalRegistry,
    adapter_folder: Path,
    examples: list[Example],
    audio_features: AudioFeatures,
    fresh: LoadedModel,
) -> None:
    asked = examples[:4]
    renderer = PromptRenderer(fresh.processor)
    truths = by_peft(adapter_folder, asked, audio_features, fresh)
    base = Answerer(Forward(fresh.model, audio_features), renderer, TOKENS).answer(asked)
    assert not set(truths) & set(base)
    rows = with_truths(asked, truths, corrected=3)
    before = {name: tensor.clone() for name, tensor in fresh.model.state_dict().items()}
    current = current_version(registry, "tones")
    assert current is not None
    contest = Contest(registry, current, rows[3:], rows, 64)
    answered = contest.answers_of_current(fresh, audio_features, renderer, TOKENS)
    assert not isinstance(answered, str)
    assert (answered.corrected, answered.held_out) == (truths[:3], truths[3:])
    after = fresh.model.state_dict()
    assert all(bool((tensor == after[name]).all()) for name, tensor in before.items())
    assert before.keys() == after.keys()

    worse = contest.report(contest.answers(Answerer(Forward(fresh.model, audio_features), renderer, TOKENS)), answered)
    assert worse["promoted"] is False
    assert worse["reason"] == "worse than version 1 on rows that are held out and corrected"
    assert (worse["corrected"]["rows"], worse["held_out"]["rows"]) == (3, 1)
    same = contest.report(answered, answered)
    assert (same["promoted"], "reason" in same) == (True, False)
    half = contest.report(replace(answered, corrected=base[:3]), answered)
    assert half["reason"] == "worse than version 1 on rows that are corrected"
    wrong = with_truths(asked, base, corrected=3)
    better = Contest(registry, current, wrong[3:], wrong, 64).report(replace(answered, held_out=base[3:]), answered)
    assert better["promoted"] is True


def test_what_cannot_be_asked_is_not_replaced_by_itself(
    registry: LocalRegistry, tmp_path: Path, fresh: LoadedModel, audio_features: AudioFeatures, examples: list[Example]
) -> None:
    registry.publish(make_head(tmp_path / "kinds"), "kinds")
    tower = make_adapter(random_model(), tmp_path / "tower", 4, target_modules=r".*audio_tower.*q_proj")
    registry.publish(tower, "tower")
    for name, words in (("kinds", "classification head"), ("tower", "audio tower")):
        current = current_version(registry, name)
        assert current is not None
        contest = Contest(registry, current, examples[:1], examples[:1], 64)
        found = contest.answers_of_current(fresh, audio_features, PromptRenderer(fresh.processor), TOKENS)
        assert isinstance(found, str)
        assert words in found
        assert contest.report(contest.answers(Answer()), found)["promoted"] is False
    assert current_version(registry, "unknown") is None


class Answer(Answerer):
    """Says nothing to everything."""

    def __init__(self) -> None: ...

    def answer(self, examples: Any, *, silent: bool = False, answered: Any = None) -> list[str]:
        return ["" for _ in examples]


def test_a_worse_version_is_kept_and_the_one_before_answers(
    registry: LocalRegistry,
    adapter_folder: Path,
    begin: Train,
    tones: Path,
    examples: list[Example],
    audio_features: AudioFeatures,
    fresh: LoadedModel,
    tmp_path: Path,
) -> None:
    """A whole run on rows whose right answers are those of the version before."""
    some = examples[:6]
    truths = by_peft(adapter_folder, some, audio_features, fresh)
    rows = [json.loads(line) for line in tones.read_text().splitlines()[:6]]
    data = tones.with_name("corrected.jsonl")
    marked = [row | {"response": truth, "corrected": True} for row, truth in zip(rows, truths, strict=True)]
    data.write_text("".join(json.dumps(row) + "\n" for row in marked))
    run: Run
    run, seen = begin(
        data=data, promote="not_worse", max_steps=1, learning_rate=1e-9, allow=("few_samples",), max_new_tokens=TOKENS
    )
    outcome = run.run()
    assert outcome is not None
    compared = outcome.trained.metrics["comparison"]
    assert compared["with"] == {"name": "tones", "version": 1}
    assert compared["corrected"]["rows"] == 4  # as many as are asked
    assert compared["promoted"] is False
    assert seen[-1]["adapter"] == {"name": "tones", "version": 2, "promoted": False}
    manifest = read_manifest(tmp_path / "registry" / "tones")
    assert manifest is not None
    assert manifest.version == 1
    assert "rollback tones --version 2" in sentences(compared, "tones", 2)[-1]

    registry.refresh()  # as a running service does
    assert registry.get("tones").version == 1
    assert registry.versions("tones") == [1, 2]
    with pytest.raises(NotFound):  # no version is older than the current one
        registry.rollback("tones")
    assert registry.rollback("tones", 2).version == 2
    assert registry.get("tones").manifest.metrics["comparison"] == compared


def test_a_head_is_not_compared() -> None:
    with pytest.raises(ValueError, match="promote"):
        TrainOptions(data="x", name="x", method="head", promote="not_worse")


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "adapter_model.safetensors"))


def test_training_goes_on_from_the_version_that_answers(
    registry: LocalRegistry, adapter_folder: Path, train: Train, tmp_path: Path
) -> None:
    """Its rank and layers are kept; without a learning rate worth the name, so are its numbers."""
    before = tensors_of(adapter_folder)
    outcome, seen = train(start="current", max_steps=1, learning_rate=1e-12, keep="last")
    assert outcome.adapter.version == 2
    after = tensors_of(tmp_path / "registry" / "tones")
    assert after.keys() == before.keys()
    for key, tensor in before.items():
        torch.testing.assert_close(after[key].float(), tensor.float(), atol=1e-6, rtol=0)
    assert next(one for one in seen if one["event"] == "start")["start"] == "current"

    outcome, _ = train(start="current", work="more", max_steps=3, keep="last")
    assert outcome.adapter.version == 3
    learned = tensors_of(tmp_path / "registry" / "tones")
    assert any((learned[key] - after[key]).abs().max() > 1e-5 for key in after)


def test_only_a_lora_that_answers_can_be_gone_on_from(
    registry: LocalRegistry, train: Train, begin: Train, tmp_path: Path
) -> None:
    tower = make_adapter(random_model(), tmp_path / "tower", 4, target_modules=r".*audio_tower.*q_proj")
    registry.publish(tower, "tower")
    registry.publish(make_head(tmp_path / "kinds"), "kinds")
    for name, words in (("tower", "cannot be trained on"), ("kinds", "No LoRA"), ("nobody", "No LoRA")):
        with pytest.raises(BadRequest, match=words):
            train(name=name, work=name, start="current", max_steps=1)
    for asked in ({"rank": 4}, {"preset": "strong"}, {"method": "head"}):
        with pytest.raises(ValueError, match="start=current"):
            begin(start="current", **asked)


def test_rows_of_another_data_set_are_added(begin: Train, tones: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    rows = [json.loads(line) for line in tones.read_text().splitlines()[:4]]
    moved = []
    for number, row in enumerate(rows):
        samples, rate = soundfile.read(tones.parent / row["audio"])
        soundfile.write(tmp_path / "more" / f"{number}.flac", 0.5 * samples, rate)
        moved.append(json.dumps(row | {"audio": f"{number}.flac", "corrected": True}))
    (tmp_path / "more" / "data.jsonl").write_text("\n".join(moved))
    roots = (str(tones.parent), str(tmp_path / "more"))
    alone, _ = begin(audio_roots=roots)
    run, _ = begin(also=(str(tmp_path / "more" / "data.jsonl"),), audio_roots=roots)
    both = [*run.data.train, *run.data.validation]
    assert len(both) == len(alone.data.train) + len(alone.data.validation) + 4
    assert sum(row.corrected for row in both) == 4
    assert run.data.fingerprint != alone.data.fingerprint
