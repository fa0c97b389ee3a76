"""Recordings of a run are decoded beside it: a file that ends its decoder costs its rows, by name."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import training.data.decoding as decoding
from app.audio.decode import Limits, Recording, decode
from app.audio.forkserver import DECODING
from app.audio.pool import DecodingPool, NoDecoder
from app.errors import AudioError
from tests.audio.misbehaving import NoWork, decode_or_crash
from tests.training.sounds import RATE, babble, write, write_lines
from training.audio_features import AudioFeatures
from training.data.checks.gate import check
from training.data.checks.sound_checks import Measures, measure_all
from training.data.decoding import decode_sound, decoders
from training.data.rows import Row, Sound, Turn
from training.prepare import DataRefused

LIMITS = Limits(60, 10 << 20)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[DecodingPool[Recording]]:
    """Decoding processes with a fault, in place of a run's own."""
    pool = DecodingPool(decode_or_crash, 2, 10.0, DECODING)
    monkeypatch.setattr(decoding, "_pool", lambda _: pool)
    yield pool
    pool.close()


def row(sound: Sound, number: int = 0) -> Row:
    return Row(
        (Turn("user", "<audio>What?"), Turn("assistant", f"answer {number}")), (sound,), None, f"d.jsonl:{number}"
    )


def good(folder: Path, count: int) -> list[Sound]:
    return [
        Sound(f"{number}.wav", write(folder / f"{number}.wav", babble(0.3, number), RATE)) for number in range(count)
    ]


def test_files_that_end_their_decoder_are_refused_by_name(faulty: DecodingPool[Recording], tmp_path: Path) -> None:
    sounds = good(tmp_path, 24)
    sounds[5:5] = [Sound("crash.mov", data=b"CRASH"), Sound("hoard.ogg", data=b"HOARD")]
    report = check(
        [row(sound, number) for number, sound in enumerate(sounds)],
        [],
        method="lora",
        rate=RATE,
        window_seconds=10,
        limits=LIMITS,
    )
    (finding,) = report.findings
    assert (finding.code, finding.count, finding.final) == ("unreadable", 2, True)
    assert finding.recordings == ["crash.mov", "hoard.ogg"]
    crashed, hoarded = finding.examples
    assert crashed.startswith("d.jsonl:5 (crash.mov): ")
    assert "made its decoder crash" in crashed
    assert "takes more memory" in hoarded
    assert faulty.crashes == 1
    assert report.seconds == pytest.approx(24 * 0.3)


def test_a_run_over_such_a_file_ends_with_a_refusal(
    faulty: DecodingPool[Recording], begin: Callable[..., Any], tmp_path: Path
) -> None:
    good(tmp_path, 24)
    (tmp_path / "crash.wav").write_bytes(b"CRASH")
    names = [*(f"{number}.wav" for number in range(24)), "crash.wav"]
    data = write_lines(
        tmp_path / "data.jsonl", [{"audio": name, "prompt": "What?", "response": f"it is {name}"} for name in names]
    )
    run, seen = begin(data=data)
    with pytest.raises(DataRefused) as refused:
        run.run()
    assert refused.value.problems == ["unreadable: 1 recordings cannot be read"]
    (gate,) = (event for event in seen if event["event"] == "gate")
    unreadable = gate["report"]["findings"][0]
    assert unreadable["recordings"] == ["crash.wav"]
    assert "made its decoder crash" in unreadable["examples"][0]


def test_features_come_of_the_same_processes(
    faulty: DecodingPool[Recording], audio_features: AudioFeatures, tmp_path: Path
) -> None:
    (sound,) = good(tmp_path, 1)
    with pytest.raises(AudioError, match="made its decoder crash"):
        audio_features.extract([Sound("crash.mov", data=b"CRASH")])
    ((clip,),) = audio_features.extract([sound])
    assert clip.frames == 30


def test_no_file_is_decoded_in_the_process_that_trains(
    audio_features: AudioFeatures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sounds = good(tmp_path, 3)
    wanted = [decode(sound.read(), rate=RATE, limits=LIMITS) for sound in sounds]

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("decoded here")

    for module in ("app.audio.decode.open_av", "app.audio.decode.open_soundfile", "app.audio.decode.survey"):
        monkeypatch.setattr(module, refuse)
    measured = measure_all([row(sound) for sound in sounds], rate=RATE, limits=LIMITS)
    assert [one.sha256 for one in measured.values() if isinstance(one, Measures)] == [one.sha256 for one in wanted]
    assert [len(clips) for clips in audio_features.extract(sounds)] == [1, 1, 1]


def test_parts_of_a_recording_take_one_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where several threads ask for their first ones at the same time."""
    path = write(tmp_path / "long.wav", np.concatenate([babble(0.5, number) for number in range(40)]))
    parts = [Sound("long.wav", path, start=0.5 * number, end=0.5 * number + 0.5) for number in range(40)]
    whole, calls = decode(path.read_bytes(), rate=RATE, limits=LIMITS).samples, []
    original = decoding._decode

    def counted(*arguments: Any) -> Recording:
        calls.append(arguments[1])
        return original(*arguments)

    monkeypatch.setattr(decoding, "_decode", counted)
    monkeypatch.setattr("training.data.checks.sound_checks.decoders", lambda: 8)
    measured = measure_all([row(part, number) for number, part in enumerate(parts)], rate=RATE, limits=LIMITS)
    assert calls == ["long.wav"]
    assert all(isinstance(one, Measures) and one.seconds == 0.5 for one in measured.values())
    found = decode_sound(parts[7], rate=RATE, limits=LIMITS)
    np.testing.assert_array_equal(found.samples, whole[round(3.5 * RATE) : round(4 * RATE)])


def test_a_recording_that_failed_is_tried_anew(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(b"no audio")
    part = Sound("x.wav", path, start=0.1, end=0.2)
    with pytest.raises(AudioError):
        decode_sound(part, rate=RATE, limits=LIMITS)
    write(path)
    assert decode_sound(part, rate=RATE, limits=LIMITS).receipt.seconds == 0.1


def test_a_machine_that_starts_no_decoder_ends_the_run_and_blames_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool: DecodingPool[Recording] = DecodingPool(NoWork(), 1, 10.0, DECODING)  # type: ignore[arg-type]
    monkeypatch.setattr(decoding, "_pool", lambda _: pool)
    with pytest.raises(NoDecoder):
        measure_all([row(sound) for sound in good(tmp_path, 3)], rate=RATE, limits=LIMITS)


def test_processes_of_one_launch_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert decoders() == 8
    for processes, each in ((2, 4), (3, 2), (16, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert decoders() == each
