"""Files that hold several tracks, or none that is sound: the right one is used, and the receipt reports the others."""

import io

import av
import numpy as np
import pytest

from app.audio.decode import Limits, decode
from app.errors import AudioError
from tests.audio.makers import RATE, by_av, noise, tone, tracks_by_av

LIMITS = Limits(max_seconds=60, max_bytes=64 << 20)
SILENCE = np.zeros(48_000, np.float32)
CONTAINERS = [("mp4", "aac"), ("mov", "pcm_s16le"), ("matroska", "libopus"), ("mpegts", "aac"), ("avi", "pcm_s16le")]


def hear(data: bytes):
    return decode(data, rate=RATE, limits=LIMITS)


def strongest(samples: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * RATE / len(samples))


@pytest.mark.parametrize(("container", "codec"), CONTAINERS)
@pytest.mark.parametrize("first_silent", [True, False])
def test_the_track_that_is_not_silent(container, codec, first_silent):
    tracks = [SILENCE, tone()] if first_silent else [tone(), SILENCE]
    recording = hear(tracks_by_av(tracks, container, codec))
    assert strongest(recording.samples) == pytest.approx(440, abs=3)
    assert (recording.receipt.track, recording.receipt.tracks) == (2 if first_silent else 1, 2)
    assert any("2 audio tracks" in warning for warning in recording.receipt.warnings)


@pytest.mark.parametrize("default", [0, 1, 2])
def test_the_default_track_before_others(default):
    tracks = [tone(frequency=frequency) for frequency in (300, 600, 900)]
    recording = hear(tracks_by_av(tracks, "mp4", "aac", default=default))
    assert strongest(recording.samples) == pytest.approx(300 * (default + 1), abs=4)
    assert recording.receipt.track == default + 1
    assert any("3 audio tracks" in warning for warning in recording.receipt.warnings)


def test_a_silent_default_track_gives_way_to_one_that_is_not():
    recording = hear(tracks_by_av([tone(), SILENCE], "mp4", "aac", default=1))
    assert strongest(recording.samples) == pytest.approx(440, abs=3)
    assert recording.receipt.track == 1


def test_several_silent_tracks_are_silent():
    receipt = hear(tracks_by_av([SILENCE, SILENCE], "mp4", "aac")).receipt
    assert receipt.silent
    assert receipt.tracks == 2


def test_the_name_of_a_track_is_told():
    data = tracks_by_av([tone(), noise(1.0, 48_000)], "matroska", "libopus", titles=("Microphone", "Desktop"))
    assert any("'Microphone'" in warning for warning in hear(data).receipt.warnings)


def test_one_track_is_no_reason_for_a_word():
    receipt = hear(by_av(tone(), "mp4", "aac")).receipt
    assert (receipt.track, receipt.tracks, receipt.warnings) == (1, 1, [])


@pytest.mark.parametrize("container", ["mp4", "matroska", "avi"])
def test_a_video_without_sound_is_named(container):
    target = io.BytesIO()
    with av.open(target, "w", format=container) as file:
        stream = file.add_stream("mpeg4", rate=24)
        stream.width = stream.height = 64
        for _ in range(5):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        file.mux(stream.encode(None))
    with pytest.raises(AudioError, match=r"video .*without a sound track"):
        hear(target.getvalue())
