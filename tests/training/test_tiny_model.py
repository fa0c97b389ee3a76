"""The shipped model and adapters are whole and do on the shipped human clips what their cards say."""

import hashlib
import json
from pathlib import Path

import pytest

from training.pretrain import folder
from training.pretrain.evaluation.evaluate import Answers, answerer, score
from training.pretrain.evaluation.humans import Human, read
from training.pretrain.publish import expected
from training.pretrain.text.tasks import BY_NAME

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "app" / "models" / "overtone-tiny"
HUMAN = ROOT / "tests" / "data" / "human"
WORD_ERRORS = 30.0  # percent, all twelve clips, the prompt of the card's figures; slack for other CPUs' arithmetic
WORD_ERRORS_BY_DEFAULT = 32.0  # the same, a service's default prompt
SHORT = {
    "goforward.flac",
    "tidigits-2934z.flac",
    "cards-001.flac",
    "cards-003.flac",
    "cards-004.flac",
    "cards-005.flac",
}


@pytest.fixture(scope="module")
def clips() -> list[Human]:
    """The human clips of the repository."""
    return read(HUMAN)


@pytest.fixture(scope="module")
def base() -> Answers:
    """The base model, asked through plain Transformers."""
    return answerer(*folder.load(MODEL))


def test_files_are_the_published_ones() -> None:
    for line in (MODEL / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((MODEL / name).read_bytes()).hexdigest() == digest, name


def test_folder_is_small_enough_to_be_committed() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 45_000_000


def test_base_transcribes_human_clips(base: Answers, clips: list[Human]) -> None:
    stated = base(clips, BY_NAME["transcribe"].phrasings[-1])
    assert score(clips, stated)["all"]["wer"] <= WORD_ERRORS
    heard = base(clips, "Transcribe the audio.")
    assert score(clips, heard)["all"]["wer"] <= WORD_ERRORS_BY_DEFAULT
    said = {clip.path.name: (clip.text, text) for clip, text in zip(clips, heard, strict=True)}
    for name in SHORT:
        assert said[name][0] == said[name][1]


@pytest.mark.parametrize("name", ["nato", "command-json"])
def test_adapter_does_what_the_base_cannot(name: str, base: Answers, clips: list[Human]) -> None:
    from peft import PeftModel

    place = ROOT / "adapters" / name
    manifest = json.loads((place / "manifest.json").read_text())
    for file, digest in manifest["files"].items():
        assert hashlib.sha256((place / file).read_bytes()).hexdigest() == digest
    assert (place / "adapter_model.safetensors").stat().st_size <= 1_000_000
    tested = [(clip, right) for clip in clips if (right := expected(name, clip.text))]
    model, processor = folder.load(MODEL)
    adapted = answerer(PeftModel.from_pretrained(model, str(place)), processor)
    chosen = [clip for clip, _ in tested]
    after = adapted(chosen, manifest["prompt"])
    before = base(chosen, manifest["prompt"])
    correct = [answer for _, answer in tested]
    assert sum(map(str.__eq__, before, correct)) == 0
    assert sum(map(str.__eq__, after, correct)) >= 1
    assert manifest["metrics"]["after"]["exact_percent"] > manifest["metrics"]["before"]["exact_percent"]
