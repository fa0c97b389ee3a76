"""Rows that mean a part of their recording are heard and trained on that part alone."""

import numpy as np
import pytest

from app.audio.decode import Limits
from app.errors import AudioError
from tests.training.sounds import RATE, babble, write, write_lines
from tests.training.sources import prepared, refused, rows
from training.data.decoding import decode_sound

LIMITS = Limits(60, 10 << 20)


def test_nemo_manifest(tmp_path):
    write(tmp_path / "long.wav", babble(3))
    row = {"audio_filepath": "long.wav", "text": "x", "duration": 0.5, "offset": 1.0}
    (found,) = rows(write_lines(tmp_path / "manifest.jsonl", [row]))
    assert (found.sounds[0].start, found.sounds[0].end) == (1.0, 1.5)
    (found,) = rows(write_lines(tmp_path / "manifest.jsonl", [{**row, "offset": 0}]))
    assert (found.sounds[0].start, found.sounds[0].end) == (None, 0.5)


PARTS = {
    "start,end": ((0.5, 1.25), (0.5, 1.25)),
    "start_ms,end_ms": ((500, 1250), (0.5, 1.25)),
    "Start (ms),End (ms)": ((500, 1250), (0.5, 1.25)),
    "onset,offset": ((0.5, 1.25), (0.5, 1.25)),
    "offset,duration": ((0.5, 0.75), (0.5, 1.25)),
    "begin_time,end_time": (("0:00.5", "0:01,25"), (0.5, 1.25)),
    "start": ((0.5,), (0.5, None)),
    "end": ((1.25,), (None, 1.25)),
    "start_seconds,duration_s": ((0.5, 0.75), (0.5, 1.25)),
}


@pytest.mark.parametrize("names", PARTS)
def test_a_part_of_a_recording(tmp_path, names):
    samples = babble(2)
    write(tmp_path / "a.wav", samples)
    values, (start, end) = PARTS[names]
    row = {"audio": "a.wav", "text": "x", **dict(zip(names.split(","), values, strict=True))}
    (found,) = rows(write_lines(tmp_path / "data.jsonl", [row]))
    heard = decode_sound(found.sounds[0], rate=RATE, limits=LIMITS)
    wanted = samples[int((start or 0) * RATE) : int((end or 2) * RATE)]
    np.testing.assert_allclose(heard.samples, wanted, atol=1e-4)
    assert heard.receipt.seconds == pytest.approx(len(wanted) / RATE, abs=1e-3)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"start": 1, "end": 1}, "there is no part from 1 s to 1 s"),
        ({"start": 2, "end": 1}, "there is no part"),
        ({"start": -1, "end": 1}, "start must be a time in seconds"),
        ({"start": "soon"}, "start must be a time in seconds, not 'soon'"),
        ({"start": True, "end": 2}, "start must be a time in seconds"),
        ({"start_samples": 8000, "end_samples": 16000}, "counts samples"),
        ({"start_ms": 100, "end": 1}, "start_ms says its unit and end does not"),
        ({"start": 0.1, "begin": 0.2, "end": 1}, "name different times"),
        ({"audio": ["a.wav", "a.wav"], "start": 0, "end": 1}, "a part of one recording, and here are 2"),
    ],
)
def test_a_part_that_is_unclear_is_refused(tmp_path, more, words):
    write(tmp_path / "a.wav")
    told = refused(write_lines(tmp_path / "data.jsonl", [{"audio": "a.wav", "text": "x", **more}]))
    assert words in told
    assert "data.jsonl:1" in told


def test_a_part_beyond_the_end_is_unreadable(tmp_path):
    write(tmp_path / "a.wav", babble(1))
    row = {"audio": "a.wav", "text": "x"}
    found = rows(write_lines(tmp_path / "d.jsonl", [{**row, "start": 500, "end": 900}, {**row, "end": 1.05}]))
    with pytest.raises(AudioError, match="start_ms and end_ms: milliseconds"):
        decode_sound(found[0].sounds[0], rate=RATE, limits=LIMITS)
    assert decode_sound(found[1].sounds[0], rate=RATE, limits=LIMITS).receipt.seconds == 1.0


def test_parts_of_one_recording_stay_on_one_side(tmp_path, fresh):
    lines = []
    for name in "abcdef":
        write(tmp_path / f"{name}.wav", babble(2, ord(name)))
        lines += [{"audio": f"{name}.wav", "start": n / 2, "end": n / 2 + 0.5, "text": f"{name}{n}"} for n in range(4)]
    data = prepared(write_lines(tmp_path / "data.jsonl", lines), fresh)
    sides = [{row.sounds[0].name for row in side} for side in (data.train, data.validation)]
    assert not sides[0] & sides[1]
    assert len(data.train) + len(data.validation) == 24
    one = prepared(write_lines(tmp_path / "one.jsonl", lines[:4]), fresh)
    assert len(one.validation) == 1, "a single recording is divided by its parts"
