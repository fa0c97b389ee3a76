"""Levels as people write them: integers as floats, offsets, quiet recordings, old codecs, what is no number."""

import io

import numpy as np
import pytest
import soundfile

from app.audio.decode import Limits, decode
from app.errors import AudioError
from tests.audio.makers import RATE, by_av, by_soundfile, noise, pcm16, tone, wav_header
from training.data.checks.sound_checks import Measures, measure
from training.data.rows import Sound

LIMITS = Limits(max_seconds=60, max_bytes=64 << 20)


def hear(data: bytes):
    return decode(data, rate=RATE, limits=LIMITS)


def floats(samples: np.ndarray, codec: str = "FLOAT", container: str = "WAV") -> bytes:
    return by_soundfile(samples, RATE, container, codec)


INTEGERS = [
    (16, "WAV", "FLOAT"),
    (24, "WAV", "FLOAT"),
    (32, "WAV", "FLOAT"),
    (16, "WAV", "DOUBLE"),
    (32, "AIFF", "FLOAT"),
]
CODECS = "PCM_U8 PCM_16 PCM_24 PCM_32 FLOAT DOUBLE ULAW ALAW IMA_ADPCM MS_ADPCM GSM610"


@pytest.mark.parametrize(("bits", "container", "codec"), INTEGERS)
def test_integers_written_as_floats_are_scaled(bits, container, codec):
    speech = noise(1.0)
    recording = hear(floats(np.rint(speech * 2.0 ** (bits - 1)), codec, container))
    np.testing.assert_allclose(recording.samples, speech, atol=1e-4)
    assert recording.receipt.rms_dbfs == pytest.approx(-20, abs=0.1)
    assert recording.receipt.clipped == 0
    assert [f"{bits}-bit integers" in warning for warning in recording.receipt.warnings] == [True]


def test_filtered_integers_beyond_their_scale_are_scaled():
    recording = hear(floats(1.1 * 32768 * np.sin(np.arange(RATE) / 10)))
    assert np.abs(recording.samples).max() == pytest.approx(1, abs=0.01)
    assert any("divided by" in warning for warning in recording.receipt.warnings)


def test_integers_of_near_silence_stay_silent():
    steps = np.random.default_rng(0).integers(-3, 4, RATE).astype(np.float32)
    receipt = hear(floats(steps)).receipt
    assert receipt.silent
    assert any("16-bit integers" in warning for warning in receipt.warnings)


def test_floats_somewhat_beyond_full_scale_stay_as_they_are():
    recording = hear(floats(1.5 * np.sin(np.arange(RATE) / 10)))
    assert np.abs(recording.samples).max() == pytest.approx(1.5, abs=0.01)
    assert any("clipped" in warning for warning in recording.receipt.warnings)


def test_floats_far_beyond_full_scale_are_brought_there():
    recording = hear(floats(40 * np.sin(np.arange(RATE) / 10)))
    assert np.abs(recording.samples).max() == pytest.approx(1, abs=0.01)
    assert any("divided by" in warning for warning in recording.receipt.warnings)


def test_integers_as_floats_in_video_are_scaled():
    recording = hear(by_av(noise(1.0, 48_000) * 32768, "mov", "pcm_f32le"))
    assert np.abs(recording.samples).max() < 1
    assert any("divided by" in warning for warning in recording.receipt.warnings)


def test_full_scale_of_integers_as_floats_counts_as_clipped():
    receipt = hear(floats(np.rint(np.clip(np.sin(np.arange(RATE) / 10) * 60_000, -32768, 32767)))).receipt
    assert receipt.clipped > 0.3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(value):
    samples = noise(1.0)
    samples[777] = value
    with pytest.raises(AudioError, match="not numbers"):
        hear(floats(samples))
    with pytest.raises(AudioError, match="not numbers"):
        hear(by_av(np.column_stack([samples, samples]), "mov", "pcm_f32le"))


def test_an_offset_is_taken_out_and_is_no_level():
    recording = hear(floats(0.3 + noise(1.0, level=0.01)))
    assert float(recording.samples.mean()) == pytest.approx(0, abs=1e-4)
    assert recording.receipt.rms_dbfs == pytest.approx(-40, abs=0.3)
    assert any("offset" in warning for warning in recording.receipt.warnings)
    constant = hear(floats(np.full(RATE, 0.3))).receipt
    assert constant.silent


def test_quiet_is_told_from_silent():
    quiet = hear(floats(noise(1.0, level=2e-3))).receipt  # -54 dBFS
    assert not quiet.silent
    assert any("very quiet" in warning for warning in quiet.warnings)
    silent = hear(floats(noise(1.0, level=2e-4))).receipt  # -74 dBFS
    assert silent.silent
    assert silent.warnings == ["The recording is silent."]


def test_a_word_in_a_long_silence_is_not_silent():
    samples = np.zeros(50 * RATE, np.float32)
    samples[20 * RATE : 20 * RATE + RATE // 4] = noise(0.25, level=0.01)
    receipt = hear(by_soundfile(samples, RATE)).receipt
    assert not receipt.silent


@pytest.mark.parametrize("codec", CODECS.split())
def test_codecs_of_wav(codec):
    wave = tone(1.0, 8_000)
    data = by_soundfile(wave, 8_000, "WAV", codec)
    recording = decode(data, rate=8_000, limits=LIMITS)
    assert recording.receipt.seconds == pytest.approx(1, abs=0.1)
    reference = soundfile.read(io.BytesIO(data), dtype="float32")[0]
    count = min(len(reference), len(recording.samples))
    np.testing.assert_allclose(recording.samples[:count], reference[:count], atol=2e-3)
    assert recording.receipt.warnings == []


@pytest.mark.parametrize("codec", ["PCM_U8", "ULAW", "ALAW"])
def test_clipping_of_codecs_with_a_lower_full_scale(codec):
    receipt = hear(by_soundfile(np.clip(10 * tone(1.0, 8_000), -1, 1), 8_000, "WAV", codec)).receipt
    assert receipt.clipped > 0.5


def test_the_gate_judges_channels_as_the_service_does():
    speech = noise(1.0)
    inverted = by_soundfile(np.column_stack([speech, -speech]), RATE)
    one_clipped = by_soundfile(np.column_stack([0.1 * speech] * 7 + [np.sign(speech)]), RATE)
    scaled = floats(np.rint(speech * 32768))
    found = [measure(Sound("a.wav", data=data), rate=RATE, limits=LIMITS) for data in (inverted, one_clipped, scaled)]
    assert all(isinstance(one, Measures) for one in found)
    assert [(one.silent, one.clipped > 0.01) for one in found if isinstance(one, Measures)] == [
        (False, False),
        (False, True),
        (False, False),
    ]


def test_a_rate_that_is_none_is_named():
    with pytest.raises(AudioError, match="16 samples per second"):
        hear(wav_header(3200, 16) + pcm16(noise(0.1)))
