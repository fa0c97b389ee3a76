"""Damaged recordings of every container, codec and number of channels; and that the fuzzer sees what it looks for."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from app.audio.decode import Recording
from app.audio.ffmpeg import DEMUXERS
from app.audio.worker import MEMORY_BYTES
from tests.audio.makers import by_soundfile, noise
from tests.audio.mutations import MOST_BYTES, damaged
from tests.audio.seeds import BY_AV, Seed, all_seeds, made
from tests.security.fuzz_audio import Fuzzer, decoded

FILES = 3_000
DEMUXER_OF = {"mp4": "mov", "ipod": "mov", "3gp": "mov", "webm": "matroska", "adts": "aac", "mp2": "mp3", "vob": "mpeg"}
SOUND = by_soundfile(noise(1.0), 16_000)


def test_damaged_recordings_neither_crash_nor_exceed_what_a_decoder_may_take() -> None:
    fuzzer = Fuzzer(seed=1)
    for number in range(FILES):
        fuzzer.run(number)
    fuzzer.close()
    assert [(one.number, one.seed, one.kind, one.words) for one in fuzzer.findings] == []
    assert fuzzer.outcomes["decoded"] > FILES // 4  # damage that is always refused would reach no codec
    assert fuzzer.outcomes["AudioError"] > FILES // 10


def test_every_container_is_fuzzed_with_up_to_24_channels() -> None:
    assert {DEMUXER_OF.get(name, name) for name in BY_AV} == set(DEMUXERS.split(","))
    assert len(set(all_seeds())) == len(all_seeds())
    for container in ("mov", "matroska", "avi", "wav", "w64", "caf", "aiff", "au", "WAV", "W64", "AIFF", "CAF"):
        counts = {
            count for count in (1, 2, 7, 8, 9, 24) for codec in ("pcm_s16le", "pcm_s16be", "PCM_16")
            if made(Seed(container, codec, count))
        }  # fmt: skip
        assert counts == {1, 2, 7, 8, 9, 24}, container


def test_a_case_is_the_same_file_each_time_and_damaged() -> None:
    one, two, other = Fuzzer(seed=5), Fuzzer(seed=5), Fuzzer(seed=6)
    for number in range(20):
        assert one.case(number) == two.case(number) != other.case(number)
    draw = random.Random(1)
    files = [damaged(draw, SOUND, SOUND) for _ in range(200)]
    assert sum(file != SOUND for file in files) > 150
    assert all(0 < len(file) <= MOST_BYTES for file in files)


def _asked(data: bytes) -> bool:
    """Not the recordings with which a worker warms up."""
    return data[:4] == b"RIFF" and len(data) <= len(SOUND)


def _crash(data: bytes) -> Recording:
    if _asked(data):
        os.kill(os.getpid(), signal.SIGSEGV)
    return decoded(data)


def _bug(data: bytes) -> Recording:
    return decoded(data[: len(data) // 0])


def _loop(data: bytes) -> Recording:
    while _asked(data):
        pass
    return decoded(data)


def _nan(data: bytes) -> Recording:
    recording = decoded(data)
    recording.samples[3] = np.nan
    return recording


def _infinite(data: bytes) -> Recording:
    recording = decoded(data)
    return replace(recording, receipt=replace(recording.receipt, peak=float("inf")))


def _short(data: bytes) -> Recording:
    recording = decoded(data)
    return replace(recording, samples=recording.samples[:100])


def _hoard(data: bytes) -> Recording:
    if len(data) < len(SOUND):
        np.ones(300 << 20, np.int8)
    return decoded(SOUND)


def _exhaust(data: bytes) -> Recording:
    if _asked(data):
        np.ones(2 * MEMORY_BYTES, np.int8)
    return decoded(data)


_LEFT: list[np.ndarray] = []


def _leak(data: bytes) -> Recording:
    _LEFT.append(np.ones(90 << 20, np.int8))
    return decoded(data)


@pytest.fixture
def fuzzer_of() -> Iterator[Callable[..., Fuzzer]]:
    opened: list[Fuzzer] = []

    def make(call: Callable[[bytes], Recording]) -> Fuzzer:
        opened.append(Fuzzer(0, call))
        return opened[-1]

    yield make
    for fuzzer in opened:
        fuzzer.close()


@pytest.mark.parametrize(
    ("call", "kind", "files"),
    [
        (_crash, "crash", 1),
        (_bug, "error", 1),
        (_loop, "time", 1),
        (_nan, "result", 1),
        (_infinite, "result", 1),
        (_short, "result", 1),
        (_exhaust, "memory", 1),
        (_hoard, "memory", 2),
        (_leak, "memory", 7),
    ],
)
def test_the_fuzzer_sees(
    fuzzer_of: Callable[..., Fuzzer], call: Callable[[bytes], Recording], kind: str, files: int
) -> None:
    fuzzer = fuzzer_of(call)
    found = [fuzzer.examine(SOUND[: len(SOUND) - 2 * number]) for number in range(files)]
    assert {one[0] for one in found if one} == {kind}


def test_the_fuzzer_finds_nothing_in_a_whole_recording(fuzzer_of: Callable[..., Fuzzer]) -> None:
    assert fuzzer_of(decoded).examine(SOUND) is None
