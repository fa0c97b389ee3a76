"""The gate names what is wrong with data, and takes speech for speech."""

import io
import json
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from rich.console import Console

from app.audio.decode import Limits, decode
from app.audio.segments import cut
from app.models.loading import load
from tests.training.sounds import RATE, babble, wav, white, write, write_lines
from training.audio_features import AudioFeatures
from training.data.checks.findings import CODES, GateReport
from training.data.checks.gate import check
from training.data.checks.report import lines_of, table_of
from training.data.checks.sound_checks import audio_key, is_noise, measure, measure_all
from training.data.readers import read_rows
from training.data.reference import FOLDER, Reference, reference_of, shipped, tower_embedding
from training.data.rows import Row, Sound, Turn
from training.data.splitting import split

ROOT = Path(__file__).parents[2]
HUMAN = sorted((ROOT / "tests" / "data" / "human").glob("*.flac"))
PAGE = (ROOT / "docs" / "training-data.md").read_text()
LIMITS = Limits(max_seconds=60, max_bytes=10 << 20)
ESPEAK = shutil.which("espeak-ng")


def row(sound, response="yes", number=0, prompt="What?", label=None) -> Row:
    sounds = (
        (sound if isinstance(sound, Sound) else Sound(f"{number}.wav", data=wav(sound)),) if sound is not None else ()
    )
    turns = (Turn("user", "<audio>" * len(sounds) + prompt), Turn("assistant", response))
    return Row(turns, sounds, label, f"data.jsonl:{number}")


def good(count: int) -> list[Row]:
    return [row(babble(0.3, number), f"answer {number}", number, label="ab"[number % 2]) for number in range(count)]


def gate(train, validation=(), method="lora", **options) -> GateReport:
    return check(train, validation, method=method, rate=RATE, window_seconds=10, limits=LIMITS, **options)


def codes(report: GateReport) -> dict[str, tuple[str, int]]:
    return {finding.code: (finding.severity, finding.count) for finding in report.findings}


@pytest.mark.parametrize("method", ["lora", "head"])
def test_sound_data_passes_without_a_word(method):
    rows = good(24)
    report = gate(rows[:20], rows[20:], method)
    assert report.findings == []
    assert (report.rows, report.validation_rows, report.clips) == (20, 4, 24)
    assert report.seconds == pytest.approx(24 * 0.3)
    assert report.classes == ({"a": 10, "b": 10} if method == "head" else {})


def test_findings_name_their_recordings():
    rows = good(22)
    silent, broken = row(np.zeros(8000, np.float32), "silent", 30), row(babble(0.3, 40), "broken", 40)
    broken = replace(broken, sounds=(Sound("40.wav", data=b"no audio"),))
    twice = replace(rows[0], place="data.jsonl:50")
    report = gate([*rows, silent, broken, twice], rows[:1])
    named = {finding.code: finding.recordings for finding in report.findings}
    assert named["silent"] == ["30.wav"]
    assert named["unreadable"] == ["40.wav"]
    assert named["duplicates"] == ["0.wav"]
    assert named["leakage"] == ["0.wav"]
    assert GateReport.of(report.to_dict()) == report


def test_thirty_samples_of_noise_for_the_projector_are_refused(tmp_path, monkeypatch):
    """The page's own script, run for real."""
    monkeypatch.chdir(tmp_path)
    (script,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(script, {})
    rows = read_rows("noise.jsonl", default_prompt="What is said?")
    measured = measure_all(rows, rate=RATE, limits=LIMITS)
    train, validation = split(rows, fraction=0.1, seed=0, key_of=partial(audio_key, measured=measured))
    report = gate(train, validation, "projector", measured=measured)
    assert [finding.code for finding in report.refused(())] == ["noise_only", "few_samples"]
    assert codes(report) == {"noise_only": ("error", 30), "few_samples": ("error", 27)}
    assert [finding.code for finding in report.refused(["few_samples"])] == ["noise_only"]
    assert report.refused(["few_samples", "noise_only"]) == []
    for line in re.findall(r"^error: .*", PAGE, re.MULTILINE):
        assert any(told.startswith(line) for told in lines_of(report))


def coloured(seconds: float, power: float, seed: int) -> np.ndarray:
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(int(seconds * RATE)))
    frequency = np.maximum(np.fft.rfftfreq(int(seconds * RATE), 1 / RATE), 20)
    samples = np.fft.irfft(spectrum * frequency**power)
    return (0.3 * samples / np.abs(samples).max()).astype(np.float32)


@pytest.mark.parametrize("seconds", [0.5, 1, 3, 20])
@pytest.mark.parametrize("power", [0, -0.5, -1, 0.5], ids=["white", "pink", "brown", "blue"])
def test_steady_noise_is_noise(power, seconds):
    found = [is_noise(coloured(seconds, power, seed), RATE) for seed in range(20)]
    assert sum(found) >= 19, "99 % by the measurement in sound_checks"


@pytest.mark.parametrize("rate", [8000, 44_100])
@pytest.mark.parametrize("kind", ["as it is", "uniform", "beyond full scale", "then silence"])
def test_noise_in_any_dress_is_noise(kind, rate, tmp_path):
    samples = np.random.default_rng(0).standard_normal(2 * rate)
    if kind == "uniform":
        samples = np.random.default_rng(0).uniform(-1, 1, 2 * rate)
    elif kind == "then silence":
        samples = np.concatenate([0.3 * samples, np.zeros(3 * rate)])
    path = write(tmp_path / "noise.wav", samples * (0.3 if kind == "as it is" else 1), rate)
    assert measure(Sound("noise.wav", path), rate=RATE, limits=LIMITS).noise


@pytest.mark.parametrize("path", HUMAN, ids=lambda path: path.stem)
def test_people_are_no_noise_even_in_noise(path):
    measured = measure(Sound(path.name, path), rate=RATE, limits=LIMITS)
    assert (measured.noise, measured.silent, measured.clipped < 0.01) == (False, False, True)
    samples, _ = soundfile.read(path, dtype="float32")
    noise = white(len(samples) / RATE, level=float(np.sqrt(np.square(samples).mean())))
    assert not is_noise(samples + noise[: len(samples)], RATE)


@pytest.mark.skipif(not ESPEAK, reason="espeak-ng is not installed")
@pytest.mark.parametrize("voice", ["en", "en+f3", "en+whisper", "en+whisperf", "de", "zh"])
@pytest.mark.parametrize("words", ["Show me the way to the next station, please.", "yes", "six", "sh"])
def test_synthetic_and_whispered_speech_is_no_noise(voice, words, tmp_path):
    path = tmp_path / "said.wav"
    subprocess.run([str(ESPEAK), "-v", voice, "-w", str(path), words], check=True)
    assert not measure(Sound("said.wav", path), rate=RATE, limits=LIMITS).noise


def test_tones_and_changing_sounds_are_no_noise():
    time = np.arange(2 * RATE) / RATE
    chord = sum(np.sin(2 * np.pi * frequency * time) for frequency in (220, 277, 330, 440))
    hum = np.sign(np.sin(2 * np.pi * 110 * time))
    gusts = white(2) * np.interp(time, np.linspace(0, 2, 9), [0.1, 1, 0.3, 1, 0.1, 0.6, 0.2, 1, 0.4])
    tone = np.sin(2 * np.pi * 440 * time)
    for sound in (
        tone,
        tone + white(2, level=0.7),
        chord,
        hum,
        gusts,
        babble(2),
        white(2) * np.linspace(0, 1, len(time)),
    ):
        assert not is_noise(np.asarray(sound, np.float32), RATE)


def test_findings_about_recordings(tmp_path):
    gone = write(tmp_path / "gone.wav")
    sounds = [
        np.zeros(RATE, np.float32),
        white(1),
        np.clip(20 * babble(1, 5), -1, 1),
        babble(11),
        babble(0.15),
        Sound("text.wav", data=b"hello"),
        Sound("gone.wav", gone),
        Sound("long.wav", data=wav(babble(61))),
    ]
    rows = [row(sound, f"answer {number}", number) for number, sound in enumerate(sounds)] + [
        row(babble(0.3, number), f"answer {number}", number) for number in range(10, 25)
    ]
    gone.unlink()
    report = gate(rows)
    assert codes(report) == {
        "unreadable": ("error", 3),
        "silent": ("error", 1),
        "noise_only": ("error", 1),
        "clipped": ("warning", 1),
        "too_long": ("warning", 1),
        "too_short": ("warning", 1),
    }
    examples = {finding.code: finding.examples for finding in report.findings}
    assert examples["silent"] == ["data.jsonl:0 (0.wav)"]
    assert [example.partition(": ")[0] for example in examples["unreadable"]] == [
        "data.jsonl:5 (text.wav)",
        "data.jsonl:6 (gone.wav)",
        "data.jsonl:7 (long.wav)",
    ]
    assert "not audio" in examples["unreadable"][0]
    assert codes(gate(rows, long_audio="reject"))["too_long"] == ("error", 1)
    assert [finding.code for finding in report.refused(CODES)] == ["unreadable"], "cannot be allowed"
    labelled = [Row(one.turns, one.sounds, "ab"[index % 2], one.place) for index, one in enumerate(rows)]
    assert codes(gate(labelled, method="head"))["noise_only"] == ("warning", 1)


def test_same_audio_in_another_format_leaks(tmp_path):
    samples = (babble(1) * 2**15).astype(np.int16)
    write(tmp_path / "a.wav", samples / 2**15)
    soundfile.write(tmp_path / "a.flac", samples, RATE)
    rows = good(20)
    one, other = (row(Sound(name, tmp_path / name), "hello", 50) for name in ("a.wav", "a.flac"))
    assert codes(gate([*rows, one], [other]))["leakage"] == ("error", 1)
    measured = measure_all([*rows, one, other], rate=RATE, limits=LIMITS)
    train, validation = split([*rows, one, other], fraction=0.3, seed=0, key_of=partial(audio_key, measured=measured))
    assert "leakage" not in codes(gate(train, validation, measured=measured))


def test_repeated_and_contradicting_rows():
    rows = good(20)
    again = row(babble(0.3, 3), "answer 3", 90)
    against = row(babble(0.3, 4), "something else", 91)
    asked = row(babble(0.3, 5), "another answer", 92, prompt="And what else?")
    report = gate([*rows, again, against, asked])
    assert codes(report) == {"duplicates": ("warning", 1), "contradictory": ("warning", 2)}
    assert {finding.code: finding.examples for finding in report.findings} == {
        "duplicates": ["data.jsonl:90"],
        "contradictory": ["data.jsonl:4", "data.jsonl:91"],
    }


def test_findings_about_answers():
    assert codes(gate(good(19))) == {"few_samples": ("warning", 19)}
    assert codes(gate(good(20), method="projector")) == {"few_samples": ("error", 20)}
    same = [row(babble(0.3, number), "yes", number) for number in range(20)]
    assert codes(gate(same)) == {"constant_label": ("error", 20)}
    empty = gate([*good(20), row(babble(0.3, 30), " ", 30)])
    assert codes(empty) == {"empty_label": ("error", 1)}
    assert empty.refused(["empty_label"]) == []
    alone = Row((Turn("user", "<audio>?"),), good(1)[0].sounds, "a", "data.jsonl:9")
    assert gate([*good(20)[1:], alone]).refused(CODES)[0].code == "empty_label", "nothing there to train on"
    assert codes(gate([*good(20), row(None, "text", 40)])) == {}
    mute = [row(None, f"text {number}", number, prompt=f"{number}?") for number in range(20)]
    assert codes(gate(mute)) == {"no_audio": ("error", 20)}


def test_findings_about_classes():
    rows = good(20)
    few = [row(babble(0.3, number), "x", number, label="rare") for number in range(30, 34)]
    unseen = row(babble(0.3, 40), "x", 40, label="new")
    report = gate([*rows, *few], [unseen], "head")
    assert codes(report) == {"class_too_small": ("warning", 4), "unseen_class": ("warning", 1)}
    assert report.classes == {"a": 10, "b": 10, "rare": 4}
    one = gate(rows[::2], method="head")
    assert codes(one) == {"constant_label": ("error", 10)}
    unlabelled = gate([*rows, row(babble(0.3, 50), "x", 50)], method="head")
    assert codes(unlabelled) == {"empty_label": ("error", 1)}
    assert one.refused(CODES)
    assert unlabelled.refused(CODES)


@dataclass(frozen=True)
class Counted(Sound):
    reads: Counter = field(default_factory=Counter, compare=False)

    def read(self) -> bytes:
        self.reads[self.name] += 1
        return super().read()


def test_every_recording_is_decoded_once():
    reads, told = Counter(), []
    sounds = [Counted(f"{number}.wav", data=wav(babble(0.3, number)), reads=reads) for number in range(40)]
    rows = [row(sound, f"answer {number}", number) for number, sound in enumerate(sounds * 2)]
    gate(rows[:60], rows[60:], progress=lambda done, total: told.append((done, total)))
    assert set(reads.values()) == {1}
    assert told == [(number, 40) for number in range(1, 41)]


def test_reference_of_gaussian_embeddings_is_what_its_words_say():
    generator = np.random.default_rng(0)
    made = generator.normal(3, 0.5, (200, 16))
    reference = reference_of(made)
    assert reference.distances(reference.mean[None]) == pytest.approx([0])
    assert (reference.distances(generator.normal(3, 0.5, (200, 16))) < reference.limit).all()
    assert (reference.distances(generator.normal(6, 0.5, (200, 16))) > reference.limit).all()


@pytest.fixture(scope="module")
def embed(tmp_path_factory):
    """The embedded model's ear."""
    loaded = load(str(ROOT / "app" / "models" / "overtone-tiny"), torch.device("cpu"), torch.float32)
    return tower_embedding(AudioFeatures(loaded, LIMITS, tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def reference(embed) -> Reference:
    return reference_of(embed(shipped()))


def test_shipped_reference_is_small_and_from_the_human_clips():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 300_000
    human = {path.name: path.read_bytes() for path in HUMAN}
    assert len(shipped()) == 7
    assert all(human[sound.name] == sound.read() for sound in shipped())


def test_embedding_is_the_mean_over_a_whole_recording(embed):
    short, long = babble(3), babble(25)
    one, other = embed([Sound("short", data=wav(short)), Sound("long", data=wav(long))])
    assert one.shape == other.shape == (384,)
    spans = cut(decode(wav(long), rate=16_000, limits=LIMITS).samples, 160_000).spans
    assert len(spans) >= 3
    parts = embed([Sound(str(one.start), data=wav(long[one.start : one.end])) for one in spans])
    lengths = [one.end - one.start for one in spans]
    np.testing.assert_allclose(other, np.average(parts, axis=0, weights=lengths), atol=2e-3)


def test_out_of_distribution_tells_other_people_from_noise_and_tones(embed, reference):
    known = {sound.name for sound in shipped()}
    people = [Sound(path.name, path) for path in HUMAN if path.name not in known]
    time = np.arange(3 * RATE) / RATE
    strange = [Sound(f"noise{n}", data=wav(white(n))) for n in (1, 3)]
    strange += [Sound(f"sine{n}", data=wav(0.3 * np.sin(2 * np.pi * n * time))) for n in (220, 1000)]
    assert (reference.distances(embed(people)) < 0.6 * reference.limit).all()
    assert (reference.distances(embed(strange)) > 1.1 * reference.limit).all()
    rows = [row(sound, f"answer {number}", number) for number, sound in enumerate([*people * 4, *strange])]
    assert codes(gate(rows, embed=embed))["out_of_distribution"] == ("warning", 4)
    rows = [row(sound, f"answer {number}", number) for number, sound in enumerate([*people * 4])]
    assert "out_of_distribution" not in codes(gate(rows, embed=embed))


def test_report_in_a_terminal_and_in_words(tmp_path):
    rows = [*good(20), row(white(3), "x [bold]", 77), row(Sound("[red]no.wav", data=b""), "y", 78)]
    report = gate(rows)
    console = Console(file=io.StringIO(), width=100)
    console.print(table_of(report))
    shown = console.file.getvalue()
    assert "22 rows to train on, 0 held out, 22 recordings, 0:09" in shown
    assert "--allow noise_only" in shown
    assert "[red]no.wav" in shown, "names are no markup"
    assert "repair or remove them" in shown
    lines = list(lines_of(report, ["noise_only"]))
    assert any(line.startswith("error: noise_only: 1 recordings") and line.endswith("; allowed") for line in lines)
    assert json.loads(json.dumps(report.to_dict()))["findings"][0]["code"] == "unreadable"


def test_the_page_tells_every_code():
    assert re.findall(r"^\| `(\w+)` \| .* \| (?:error|warning)", PAGE, re.MULTILINE) == list(CODES)


def test_a_corrupted_dataset_is_refused_with_its_lines(tmp_path):
    write(tmp_path / "a.wav")
    (tmp_path / "b.wav").write_bytes(b"RIFF....")
    rows = [{"audio": "a.wav", "text": "one"}, {"audio": "b.wav", "text": "two"}]
    source = write_lines(tmp_path / "data.jsonl", rows)
    report = gate(read_rows(str(source), default_prompt="?"))
    assert [finding.examples[0].partition(":")[2][:8] for finding in report.refused(CODES)] == ["2 (b.wav"]
