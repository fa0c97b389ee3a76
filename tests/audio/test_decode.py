"""Every accepted format, what the receipt says of it, and every kind of file that is none."""

import contextlib
import io
import time
import tracemalloc

import av
import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from app.audio.decode import Limits, decode
from app.audio.files import BLOCK_SAMPLES
from app.errors import AudioError, OvertoneError, TooLarge
from tests.audio.makers import RATE, by_av, by_soundfile, tone

LIMITS = Limits(max_seconds=60, max_bytes=8 << 20)
SOUNDFILE = [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"),
             ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]  # fmt: skip
PYAV = [("mp4", "aac"), ("webm", "libopus"), ("matroska", "flac")]


def loudest(samples: np.ndarray, rate: int = RATE) -> float:
    """The strongest frequency, Hz."""
    return float(np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples))


def hear(data: bytes, limits: Limits = LIMITS):
    return decode(data, rate=RATE, limits=limits, filename="clip.bin")


@pytest.mark.parametrize(("container", "codec"), SOUNDFILE)
def test_soundfile_formats(container, codec):
    recording = hear(by_soundfile(tone(), 48_000, container, codec))
    assert loudest(recording.samples) == pytest.approx(440, abs=2)
    assert recording.receipt.seconds == pytest.approx(1.0, abs=0.06)
    assert (recording.receipt.container, recording.receipt.codec) == (container, codec)
    assert recording.samples.dtype == np.float32


@pytest.mark.parametrize(("container", "codec"), PYAV)
def test_what_browsers_and_phones_record(container, codec):
    recording = hear(by_av(tone(), container, codec))
    assert loudest(recording.samples) == pytest.approx(440, abs=3)
    assert recording.receipt.seconds == pytest.approx(1.0, abs=0.06)
    assert recording.receipt.sample_rate == 48_000


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 96_000])
def test_any_rate(rate):
    recording = hear(by_soundfile(tone(rate=rate), rate))
    assert len(recording.samples) == pytest.approx(RATE, abs=3)
    assert loudest(recording.samples) == pytest.approx(440, abs=2)
    assert recording.receipt.sample_rate == rate


@pytest.mark.parametrize("channels", [2, 8])
def test_channels_are_averaged(channels):
    waves = [tone(frequency=220 * (index + 1)) for index in range(channels)]
    recording = hear(by_soundfile(np.column_stack(waves), 48_000, "WAV", "FLOAT"))
    assert recording.receipt.channels == channels
    assert recording.receipt.warnings == []
    expected = soxr.resample(np.mean(waves, axis=0), 48_000, RATE)
    np.testing.assert_allclose(recording.samples, expected, atol=1e-5)
    assert recording.receipt.peak == pytest.approx(0.3, rel=0.01)


def test_the_receipt_tells_silence_clipping_and_padding():
    assert hear(by_soundfile(np.zeros(48_000), 48_000)).receipt.silent
    loud = hear(by_soundfile(np.clip(10 * tone(), -1, 1), 48_000, "WAV", "FLOAT")).receipt
    assert loud.clipped > 0.5
    assert any("clipped" in warning for warning in loud.warnings)
    short = hear(by_soundfile(tone(0.04), 48_000))
    assert len(short.samples) == RATE // 10
    assert any("Padded" in warning for warning in short.receipt.warnings)
    assert hear(by_soundfile(tone(), 48_000)).receipt.warnings == []


def test_the_hash_names_the_samples():
    exact = (tone() * 32767).astype(np.int16)
    data = by_soundfile(exact, 48_000)
    assert hear(data).sha256 == hear(data).sha256
    assert hear(data).sha256 == hear(by_soundfile(exact, 48_000, "FLAC")).sha256
    assert hear(data).sha256 != hear(by_soundfile(tone(frequency=441), 48_000)).sha256


@pytest.mark.parametrize(
    "data",
    [b"", b"just text " * 50, b"\x89PNG\r\n\x1a\n" + bytes(500), b"RIFF$\0\0\0WAVE", by_soundfile(tone(), 48_000)[:20]],
    ids=["empty", "text", "picture", "header", "truncated header"],
)
def test_what_is_no_audio_is_told(data):
    with pytest.raises(AudioError, match=r"send .*wav|no samples"):
        hear(data)


def test_no_samples_and_no_numbers():
    with pytest.raises(AudioError, match="no samples"):
        hear(by_soundfile(np.zeros(0), 48_000))
    broken = tone()
    broken[100] = np.nan
    with pytest.raises(AudioError, match="not numbers"):
        hear(by_soundfile(broken, 48_000, "WAV", "FLOAT"))


def test_finite_samples_that_would_overflow_are_refused():
    for loud in (np.full((16_000, 8), 3e38), np.sign(tone()) * 3e38, np.full(16_000, 1e300)):
        with pytest.raises(AudioError, match="not numbers"):
            hear(by_soundfile(loud, 48_000, "WAV", "DOUBLE"))


def test_text_that_names_other_files_opens_none(tmp_path, monkeypatch):
    (tmp_path / "private.wav").write_bytes(by_soundfile(tone(), 48_000))
    monkeypatch.chdir(tmp_path)
    session = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n"
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nprivate.wav\n#EXT-X-ENDLIST\n"
    begun = time.monotonic()
    for text in (b"ffconcat version 1.0\nfile private.wav\n", playlist, session):
        with pytest.raises(AudioError, match="not audio"):
            hear(text)
    assert time.monotonic() - begun < 5  # the session description would wait for packets


def test_a_header_that_points_before_the_start_prints_no_traceback(monkeypatch):
    raised = []
    monkeypatch.setattr("sys.unraisablehook", raised.append)
    damaged = bytearray(by_soundfile(tone(), 48_000, "AIFF"))
    damaged[38] = 0x7F
    with contextlib.suppress(OvertoneError):
        hear(bytes(damaged))
    assert not raised


def test_a_web_page_is_not_taken_for_headerless_sound():
    with pytest.raises(AudioError, match="not audio"):
        hear(b"<!doctype html><html>" + b"<p>x</p>" * 2_000)


def test_a_video_without_sound_is_no_audio():
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as file:
        stream = file.add_stream("mpeg4", rate=24)
        stream.width = stream.height = 64
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with pytest.raises(AudioError, match="not audio"):
        hear(target.getvalue())


def test_too_long_is_refused_before_it_is_all_decoded():
    hour = by_soundfile(np.zeros(8_000 * 3600, np.int16), 8_000, "FLAC")
    begun = time.process_time()
    with pytest.raises(TooLarge, match="60 s"):
        hear(hour)
    assert time.process_time() - begun < 5


def test_memory_follows_the_limit_not_what_a_small_file_unfolds_to():
    data = by_soundfile(np.zeros((50 * 48_000, 8), np.int16), 48_000, "FLAC")  # 77 MB as float32
    assert len(data) < 100_000
    tracemalloc.start()
    try:
        hear(data)
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


def test_a_length_that_no_header_tells_is_bounded_while_decoding():
    with pytest.raises(TooLarge, match="1 s"):
        hear(by_av(tone(3.0), "adts", "aac"), Limits(1, 8 << 20))


def test_too_many_bytes_are_refused():
    with pytest.raises(TooLarge, match="MB"):
        hear(bytes(2 << 20), Limits(60, 1 << 20))


@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG"])
def test_a_file_cut_off_gives_what_is_there(container):
    noise = 0.1 * np.random.default_rng(0).standard_normal(6 * 48_000).astype(np.float32)  # fills several Ogg pages
    data = by_soundfile(noise, 48_000, container, "VORBIS" if container == "OGG" else "PCM_16")
    recording = hear(data[: len(data) * 3 // 4])
    assert 2.0 < len(recording.samples) / RATE < 5.0
    assert any("cut off" in warning or "damaged" in warning for warning in recording.receipt.warnings)


@pytest.mark.parametrize(("container", "codec"), SOUNDFILE)
def test_whole_files_are_not_called_cut_off(container, codec):
    assert hear(by_soundfile(tone(2.0), 48_000, container, codec)).receipt.warnings == []


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_block_by_block_equals_all_at_once(rate):
    data = by_soundfile(tone(2.0, rate), rate, "WAV", "FLOAT")
    whole = soxr.resample(tone(2.0, rate), rate, RATE)
    np.testing.assert_allclose(hear(data).samples, whole, atol=1e-5)


@pytest.mark.parametrize("codec", ["PCM_16", "FLOAT"])
def test_several_blocks_equal_what_soundfile_reads_at_once(codec):
    noise = 0.1 * np.random.default_rng(0).standard_normal((25 * 48_000, 2)).astype(np.float32)
    data = by_soundfile(noise, 48_000, "WAV", codec)
    whole, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    assert whole.size > 2 * BLOCK_SAMPLES
    recording = hear(data, Limits(max_seconds=60, max_bytes=16 << 20))
    np.testing.assert_allclose(recording.samples, soxr.resample(whole.mean(1), 48_000, RATE), atol=1e-5)
    assert recording.receipt.peak == pytest.approx(np.abs(whole).max(), abs=1e-4)
    assert recording.receipt.seconds == 25.0


SEEDS = [
    by_soundfile(tone(0.2), 48_000),
    by_soundfile(tone(0.2), 48_000, "OGG", "VORBIS"),
    by_av(tone(0.2), "mp4", "aac"),
]


@settings(max_examples=150, deadline=5_000)
@given(st.integers(0, 2), st.integers(0, 4_000), st.binary(min_size=1, max_size=16), st.integers(0, 20_000))
def test_damaged_files_are_decoded_or_refused_never_more(which, at, junk, length):
    seed = SEEDS[which]
    damaged = (seed[:at] + junk + seed[at + len(junk) :])[:length]
    try:
        recording = hear(damaged)
    except OvertoneError:
        return
    assert np.isfinite(recording.samples).all()
    assert len(recording.samples) <= 61 * RATE


@settings(max_examples=60, deadline=5_000)
@given(st.binary(max_size=600))
def test_random_bytes_are_refused_or_decoded_never_more(data):
    try:
        hear(data)
    except OvertoneError as error:
        assert error.status in (413, 415)  # noqa: PT017, either outcome is right


def test_decoding_ends_after_its_time():
    data = by_soundfile(tone(40.0), 48_000)
    with pytest.raises(TooLarge, match="takes longer"):
        hear(data, Limits(60, 8 << 20, max_cpu_seconds=0.0))
    assert hear(data, Limits(60, 8 << 20, max_cpu_seconds=10.0)).receipt.seconds == 40
