"""Any number of channels in any container; channels that cancel, are silent, or change inside a stream."""

import struct
import subprocess
import sys

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from app.audio.decode import Limits, decode
from tests.audio.makers import RATE, by_av, by_soundfile, noise, tone

LIMITS = Limits(max_seconds=60, max_bytes=64 << 20)
LAYOUTS = {3: "3.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1", 16: "hexadecagonal"}
MANY = "mov/pcm_s16le mov/pcm_f32le matroska/pcm_s24le avi/pcm_s16le wav/pcm_s16le wav/pcm_f64le caf/pcm_s16le"
MANY += " aiff/pcm_s16be au/pcm_s16be matroska/tta"
CHANGING = "flac/flac ogg/flac adts/aac mpegts/aac ogg/libopus mp3/libmp3lame"
SURROUND = (
    "mp4/aac ipod/aac mpegts/aac adts/aac avi/aac webm/libopus ogg/libopus mpegts/libopus flac/flac ogg/flac mp4/flac"
)


def hear(data: bytes):
    return decode(data, rate=RATE, limits=LIMITS)


CASES = [
    *(
        (form, count)
        for form in MANY.split()
        for count in (1, 2, 3, 7, 8, 9, 12, 16, 24)
        if (form, count) != ("matroska/tta", 24)
    ),
    *(
        (form, count)
        for form in SURROUND.split()
        for count in (1, 2, 3, 5, 6, 7, 8)
        if (form, count) != ("mpegts/libopus", 7)
    ),
]


@pytest.mark.parametrize(("form", "channels"), CASES)
def test_any_number_of_channels(form, channels):
    container, codec = form.split("/")
    samples = np.repeat(tone(0.5)[:, None], channels, 1)
    if channels in (6, 7, 8) and codec in ("aac", "libopus"):
        samples[:, 3] = 0  # encoders filter the channel for deep tones
    recording = hear(by_av(samples, container, codec, layout=LAYOUTS.get(channels)))
    assert recording.receipt.channels == channels
    assert recording.receipt.seconds == pytest.approx(0.5, abs=0.06)
    assert recording.samples[2000:6000].std() == pytest.approx(0.212, rel=0.2)
    assert not any("damaged" in one or "cut off" in one for one in recording.receipt.warnings)


def test_channels_in_an_order_of_the_files_own_do_not_end_the_process():
    """A process of its own, since the fault is a double free."""
    program = (
        "import sys\nfrom app.audio.decode import Limits, decode\n"
        "data = sys.stdin.buffer.read()\n"
        "for _ in range(3): print(decode(data, rate=16000, limits=Limits(60, 1 << 20)).receipt.seconds)"
    )
    mov = _mov_in_own_order()
    damaged = mov[:4] + b"junk" + mov[8:]  # FFmpeg recognises it by the boxes that follow
    for data in (_caf_in_own_order(), _aiff_in_own_order(), mov, damaged):
        done = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr[-500:]
        assert done.stdout.split() == [b"1.0"] * 3


def _caf_in_own_order() -> bytes:
    """Right before left."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return name + struct.pack(">q", len(body)) + body

    form = struct.pack(">d4sIIIII", 16_000.0, b"ima4", 0, 68, 64, 2, 0)
    order = struct.pack(">III", 0, 0, 2) + b"".join(struct.pack(">IIfff", name, 0, 0, 0, 0) for name in (2, 1))
    packets = chunk(b"pakt", struct.pack(">qqii", 250, 16_000, 0, 0))
    sound = b"\0\0\0\0" + (b"\0\x10" + bytes(range(32))) * 500
    return b"caff\0\1\0\0" + chunk(b"desc", form) + chunk(b"chan", order) + packets + chunk(b"data", sound)


def _aiff_in_own_order() -> bytes:
    """Right before left."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return name + struct.pack(">I", len(body)) + body

    rate = bytes.fromhex("400cfa00000000000000")  # 16,000 as an 80-bit float
    form = struct.pack(">hIh", 2, 250, 16) + rate + b"ima4\0\0"
    order = struct.pack(">III", 0, 0, 2) + b"".join(struct.pack(">IIfff", name, 0, 0, 0, 0) for name in (2, 1))
    sound = bytes(8) + (b"\0\x10" + bytes(range(32))) * 500
    chunks = chunk(b"FVER", b"\xa2\x80\x51\x40") + chunk(b"COMM", form) + chunk(b"CHAN", order) + chunk(b"SSND", sound)
    return b"FORM" + struct.pack(">I", 4 + len(chunks)) + b"AIFC" + chunks


def _mov_in_own_order() -> bytes:
    data = by_av(np.column_stack([tone(1.0, RATE)] * 2), "mov", "pcm_s16le", RATE)
    place = data.index(b"chan")
    size = int.from_bytes(data[place - 4 : place], "big")
    order = struct.pack(">IIII", 0, 0, 0, 2) + b"".join(struct.pack(">IIfff", name, 0, 0, 0, 0) for name in (2, 1))
    box = struct.pack(">I", 8 + len(order)) + b"chan" + order
    grown = bytearray(data[: place - 4] + box + data[place - 4 + size :])
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd"):
        at = grown.index(name) - 4
        grown[at : at + 4] = (int.from_bytes(grown[at : at + 4], "big") + len(box) - size).to_bytes(4, "big")
    entry = grown.index(b"stsd") + 12
    grown[entry : entry + 4] = (int.from_bytes(grown[entry : entry + 4], "big") + len(box) - size).to_bytes(4, "big")
    return bytes(grown)


@pytest.mark.parametrize("form", CHANGING.split())
def test_rate_and_channels_that_change_inside_a_stream(form):
    container, codec = form.split("/")
    low = 16_000 if codec == "libopus" else 44_100
    parts = [
        by_av(tone(1.2), container, codec),
        by_av(tone(1.2, low), container, codec, low),
        by_av(np.column_stack([tone(1.2)] * 2), container, codec),
    ]
    recording = hear(b"".join(parts))
    assert recording.receipt.seconds == pytest.approx(3.6, abs=0.15)
    assert len(recording.samples) == pytest.approx(3.6 * RATE, abs=0.15 * RATE)
    assert recording.receipt.warnings == []
    third = len(recording.samples) // 3
    for part in range(3):
        heard = recording.samples[part * third + 3000 : (part + 1) * third - 3000]
        strongest = np.abs(np.fft.rfft(heard * np.hanning(len(heard)))).argmax() * RATE / len(heard)
        assert strongest == pytest.approx(440, abs=3)


def stereo(left: np.ndarray, right: np.ndarray, rate: int = RATE, codec: str = "PCM_16") -> bytes:
    return by_soundfile(np.column_stack([left, right]), rate, "WAV", codec)


def test_opposite_phase_is_heard():
    speech = noise(2.0)
    recording = hear(stereo(speech, -speech))
    assert not recording.receipt.silent
    assert recording.receipt.rms_dbfs == pytest.approx(-20, abs=0.2)
    np.testing.assert_allclose(recording.samples, speech, atol=1e-4)
    assert any("out of phase" in warning for warning in recording.receipt.warnings)


@pytest.mark.parametrize("share", [-0.8, -0.95, -1.0])
def test_channels_that_cancel_in_part_are_heard_at_their_level(share):
    speech = noise(2.0)
    recording = hear(stereo(speech, share * speech))
    np.testing.assert_allclose(recording.samples, speech, atol=1e-4)
    assert any("out of phase" in warning for warning in recording.receipt.warnings)


def test_channels_that_cancel_for_a_while_are_heard_throughout():
    speech = noise(10.0)
    other = speech.copy()
    other[6 * RATE : 7 * RATE] *= -1
    recording = hear(stereo(speech, other))
    np.testing.assert_allclose(recording.samples, speech, atol=1e-4)
    assert any("out of phase" in warning for warning in recording.receipt.warnings)


def test_of_three_channels_that_one_which_cancels_another_is_left_out():
    first, second = noise(2.0, seed=1), noise(2.0, seed=2, level=0.05)
    second[:RATE] = 0  # so that for a while the first is alone
    recording = hear(by_soundfile(np.column_stack([first, -first, second]), RATE, "WAV", "FLOAT"))
    np.testing.assert_allclose(recording.samples, (first + second) / 2, atol=1e-4)
    assert any("channels 1 and 3 of 3" in warning for warning in recording.receipt.warnings)


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_opposite_phase_in_video(codec):
    speech = noise(2.0, 48_000)
    recording = hear(by_av(np.column_stack([speech, -speech]), "mov", codec))
    assert not recording.receipt.silent
    assert recording.receipt.rms_dbfs > -24


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-0.7, 1.0), st.floats(0.1, 1.0))
def test_ordinary_stereo_is_the_mean_of_its_channels(seed, correlation, balance):
    first, second = noise(1.0, seed=seed), noise(1.0, seed=seed + 1)
    right = balance * (correlation * first + np.sqrt(1 - correlation**2) * second)
    data = stereo(first, right, codec="FLOAT")
    recording = hear(data)
    np.testing.assert_allclose(recording.samples, (first + right.astype(np.float32)) / 2, atol=1e-6)
    assert recording.receipt.warnings == []


@pytest.mark.parametrize("channels", [2, 6, 8])
@pytest.mark.parametrize("alive", [0, 1])
def test_a_silent_channel_does_not_lower_the_others(channels, alive):
    samples = np.zeros((2 * RATE, channels), np.float32)
    samples[:, alive] = noise(2.0)
    recording = hear(by_soundfile(samples, RATE, "WAV", "FLOAT"))
    np.testing.assert_allclose(recording.samples, samples[:, alive], atol=1e-6)
    assert any("silent and" in warning for warning in recording.receipt.warnings)
    assert not recording.receipt.silent


def test_a_clipped_channel_is_reported_whatever_the_others_hold():
    loud = np.clip(10 * tone(1.0, RATE), -1, 1)
    receipt = hear(by_soundfile(np.column_stack([0.01 * noise(1.0)] * 7 + [loud]), RATE, "WAV", "FLOAT")).receipt
    assert receipt.clipped > 0.5
    assert any("clipped" in warning for warning in receipt.warnings)


def test_mixing_more_channels_than_are_compared_still_hears_opposite_ones():
    speech = noise(1.0)
    samples = np.column_stack([speech, -speech] * 20)
    recording = hear(by_soundfile(samples, RATE, "WAV", "FLOAT"))
    np.testing.assert_allclose(recording.samples, speech, atol=1e-5)


def test_opposite_phase_at_another_rate_equals_one_channel_resampled():
    speech = noise(1.0, 48_000)
    recording = hear(stereo(speech, -speech, 48_000, "FLOAT"))
    np.testing.assert_allclose(recording.samples, soxr.resample(speech, 48_000, RATE), atol=1e-5)
