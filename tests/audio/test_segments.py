"""Cuts lie between words, nothing audible is lost, and long silence is left out."""

import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.audio import segments
from app.audio.segments import LONG_SILENCE_S, OVERLAP_S, PAD_S, Cut, cut, is_silent
from tests.audio.speech import HUMAN, NAMES, RATE, human, melody, noise, piece, silence, sine, spliced

pytestmark = pytest.mark.slow

WINDOW = 10 * RATE
PIECES = {name: piece(name) for name in NAMES}
WORDS = dict(line.split("\t")[::2] for line in (HUMAN / "transcripts.tsv").read_text().splitlines()[1:])


def whole(found: Cut, samples: np.ndarray, window: int = WINDOW) -> None:
    """What holds for any cut: in order, within the window, and with what was skipped all there is."""
    assert all(0 < span.end - span.start <= window for span in found.spans)
    held = np.zeros(len(samples), int)
    for span in (*found.spans, *found.skipped):
        held[span.start : span.end] += 1
    assert held.min() == 1
    for one, other in pairwise(found.spans):
        assert one.start < other.start
        assert one.end < other.end
    if not found.forced:
        assert held.max() == 1


def inside_one(found: Cut, start: int, end: int) -> bool:
    return any(span.start <= start and end <= span.end for span in found.spans)


def test_a_recording_that_fits_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "speech_probabilities", None)
    for samples in (silence(0.1), silence(10), human("librivox-0870"), np.tile(human("goforward"), 3)):
        assert cut(samples, WINDOW).spans == (segments.Span(0, len(samples)),)
        assert not cut(samples, WINDOW).skipped


def test_the_pieces_are_words_without_pauses() -> None:
    """What the tests below stand on: no piece is empty, most have many words."""
    assert all(0.3 * RATE < len(sound) < 0.75 * WINDOW for sound in PIECES.values())
    assert sum(map(len, PIECES.values())) > 20 * RATE


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.floats(0.5, 9.0)), min_size=4, max_size=9),
    st.sampled_from([None, -75.0, -60.0]),
    st.sampled_from([10, 30]),
    st.sampled_from([1.0, 0.05]),
    st.booleans(),
)
def test_each_piece_is_heard_whole_in_one_clip(
    said: list[tuple[str, float]], floor: float | None, seconds: int, gain: float, overlap: bool
) -> None:
    """Spoken pieces with pauses of half a second and more between them, over digital silence or a noise floor."""
    parts = [part for name, pause in said for part in (PIECES[name], silence(pause))]
    samples, places = spliced(parts)
    if floor is not None:
        samples = samples + noise(len(samples) / RATE + 1, floor)[: len(samples)]
    samples = (samples * gain).astype(np.float32)
    found = cut(samples, seconds * RATE, transcript=overlap)
    whole(found, samples, seconds * RATE)
    assert not found.forced
    for (start, end), (name, _) in zip(places[::2], said, strict=True):
        assert inside_one(found, start, end), (name, start / RATE, end / RATE, found)
    for silent in found.skipped:
        assert not any(silent.start < end and start < silent.end for start, end in places[::2])
    pauses = [(start, end) for start, end in places[1::2] if end - start > (LONG_SILENCE_S + 0.2) * RATE]
    if len(samples) > seconds * RATE:
        assert len(found.skipped) >= len(pauses)
    fewest = sum(-(-len(run) // (seconds * RATE)) for run in np.split(samples, [one for one, _ in pauses]))
    assert len(found.spans) <= 2 * fewest + 1


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(NAMES), min_size=6, max_size=9), st.booleans())
def test_without_any_pause_everything_is_still_heard(names: list[str], overlap: bool) -> None:
    samples, _ = spliced([PIECES[name] for name in names])
    samples = np.concatenate([samples] * (2 * WINDOW // len(samples) + 1))
    found = cut(samples, WINDOW, transcript=overlap)
    whole(found, samples)
    for one, other in pairwise(found.spans):
        expected = OVERLAP_S * RATE if overlap and one.end in found.forced else 0
        assert one.end - other.start == expected


def test_a_cut_in_speech_lies_where_it_is_quiet() -> None:
    """With nothing but speech, the cut takes a closure, not a vowel."""
    samples = np.tile(PIECES["librivox-0920"], 6)
    found = cut(samples, WINDOW, transcript=True)
    assert found.forced
    level = np.sqrt(np.convolve(np.square(samples, dtype=np.float64), np.ones(800) / 800, mode="same"))
    for place in found.forced:
        assert level[place] < 0.5 * np.sqrt(np.square(samples, dtype=np.float64).mean())


@pytest.mark.parametrize("floor", [None, -70.0, -52.0])
def test_long_silence_is_skipped_to_a_pad(floor: float | None) -> None:
    """Before, between and after; short pauses stay, and so does the sound of the room beside speech."""
    speech = human("librivox-0880")
    parts = [silence(20), speech, silence(2), speech, silence(40), speech, silence(8)]
    samples, places = spliced(parts)
    if floor is not None:
        samples = samples + noise(len(samples) / RATE + 1, floor)[: len(samples)]
    found = cut(samples, WINDOW)
    whole(found, samples)
    assert len(found.spans) == 2
    kept = int(PAD_S * RATE)
    wanted = [places[0], places[4], places[6]]
    assert len(found.skipped) == 3
    for (start, end), silent in zip(wanted, found.skipped, strict=True):
        assert abs(silent.start - start - (kept if start else 0)) < 0.6 * RATE
        assert abs(silent.end - end + (kept if end < len(samples) else 0)) < 0.6 * RATE


SOUNDS = {
    "a tone": sine(20, 440, -30),
    "a faint tone": sine(20, 1000, -55),
    "a hum": sine(20, 100, -40),
    "music": melody(20, -25),
    "faint music": melody(20, -50),
    "rain": noise(20, -30),
    "far rain": noise(20, -42),
    "rumble": noise(20, -30, colour=1),
}


@pytest.mark.parametrize("kind", SOUNDS)
@pytest.mark.parametrize("alone", [True, False])
def test_sounds_without_speech_are_never_skipped(kind: str, alone: bool) -> None:
    """Alone, the sound is all there is; else it lies between sentences."""
    sound, speech = SOUNDS[kind], human("librivox-0870")
    samples = sound if alone else np.concatenate([speech, sound, speech])
    found = cut(samples, WINDOW)
    whole(found, samples)
    assert not found.skipped
    assert not alone or not found.forced


def test_events_in_silence_are_kept() -> None:
    """A knock, a faint beep and a whisper, each in the middle of long silence."""
    speech = human("librivox-0880")
    events = [noise(0.05, -30), sine(0.3, 1000, -55), speech * np.float32(0.01)]
    parts = [part for event in events for part in (speech, silence(12), event, silence(12))]
    samples, places = spliced([*parts, speech])
    found = cut(samples, WINDOW)
    whole(found, samples)
    for start, end in places[::2]:
        assert inside_one(found, start, end)
    assert sum(one.end - one.start for one in found.skipped) > 5 * 12 * RATE


def test_a_recording_that_is_silent_is_its_first_window() -> None:
    for samples in (silence(65), noise(65, -70), silence(65) + np.float32(0.2)):
        assert cut(samples, WINDOW) == Cut((segments.Span(0, WINDOW),), (segments.Span(WINDOW, len(samples)),))
        assert cut(samples, WINDOW, transcript=True) == Cut((), (segments.Span(0, len(samples)),))
        assert is_silent(samples)


def test_what_is_not_silent() -> None:
    for samples in (human("goforward") * np.float32(1e-4), sine(1, 440, -50), noise(3, -40)):
        assert not is_silent(samples)


def test_an_offset_is_no_sound() -> None:
    samples, _ = spliced([human("librivox-0870"), silence(20), human("librivox-0870")])
    assert len(cut(samples + np.float32(0.1), WINDOW).skipped) == 1


def test_any_number_of_threads_cuts_alike() -> None:
    samples = np.concatenate([human(name) for name in NAMES] * 3)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            found.append(cut(samples, WINDOW, transcript=True))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_few_clips_result() -> None:
    """Ten minutes of sentences: hardly more clips than full windows, and none cut in speech."""
    rng = np.random.default_rng(0)
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < 600 * RATE:
        parts += [human(str(rng.choice(NAMES))), silence(rng.uniform(0.1, 1.0))]
    samples = np.concatenate(parts)
    for seconds, most in ((30, 1.15), (10, 1.35)):
        found = cut(samples, seconds * RATE)
        whole(found, samples, seconds * RATE)
        assert not found.forced
        assert len(found.spans) <= most * len(samples) / (seconds * RATE)


def synthesised(folder: Path, text: str) -> np.ndarray:
    file = folder / "said.wav"
    if tool := shutil.which("espeak-ng"):
        subprocess.run([tool, "-w", str(file), text], check=True)
    elif tool := shutil.which("flite"):
        subprocess.run([tool, "-t", text, "-o", str(file)], check=True)
    else:
        pytest.skip("espeak-ng or flite")
    samples, rate = soundfile.read(file, dtype="float32")
    made = soxr.resample(samples, rate, RATE).astype(np.float32)
    loud = np.flatnonzero(np.abs(made) > 0.01)
    return made[loud[0] : loud[-1] + 1]


@pytest.mark.synthetic
def test_synthetic_words_at_the_edges(tmp_path: Path) -> None:
    """Numbers, one by one, so that even cuts would fall into many of them."""
    words = ["seventeen", "twenty two", "thirty nine", "forty", "fifty six", "eleven", "ninety", "sixty"]
    said = [synthesised(tmp_path, word) for word in words]
    parts = [part for index in range(48) for part in (said[index % 8], silence(0.3 + 0.05 * (index % 5)))]
    samples, places = spliced(parts)
    found = cut(samples, WINDOW, transcript=True)
    whole(found, samples)
    assert not found.forced
    assert all(inside_one(found, start, end) for start, end in places[::2])
    count = -(-len(samples) // WINDOW)
    even = np.cumsum([len(part) for part in np.array_split(samples, count)])[:-1]
    assert any(start < place < end for place in even for start, end in places[::2])
    assert len(found.spans) <= count + 1
