"""Recordings of a data set: whatever the service can hear counts, and is found under any spelling of its name."""

import io
import unicodedata

import numpy as np
import pytest
import soundfile

from app.audio.decode import SUFFIXES, Limits
from tests.training.sounds import babble, wav, write, write_lines
from tests.training.sources import line, refused, rows, source
from training.data.decoding import decode_sound

# How each kind is made: suffixes, FFmpeg's container and codec, and the rate
KINDS = {
    ".wav .wave": ("wav", "pcm_s16le", 16_000),
    ".flac": ("flac", "flac", 16_000),
    ".opus .ogg .oga": ("ogg", "libopus", 48_000),
    ".spx": ("ogg", "libspeex", 16_000),
    ".mp3 .mpga": ("mp3", "libmp3lame", 16_000),
    ".mp2": ("mp2", "mp2", 44_100),
    ".m4a .m4b .mp4 .m4v": ("mp4", "aac", 16_000),
    ".mov .qt": ("mov", "aac", 16_000),
    ".3gp": ("3gp", "aac", 16_000),
    ".3g2": ("3g2", "aac", 16_000),
    ".webm .weba": ("webm", "libopus", 48_000),
    ".mka .mkv": ("matroska", "libopus", 48_000),
    ".aac .adts": ("adts", "aac", 16_000),
    ".aif .aiff .aifc": ("aiff", "pcm_s16be", 16_000),
    ".amr": ("amr", "libopencore_amrnb", 8_000),
    ".awb": ("amr", "libvo_amrwbenc", 16_000),
    ".caf": ("caf", "pcm_s16le", 16_000),
    ".wma .wmv .asf": ("asf", "wmav2", 44_100),
    ".au .snd": ("au", "pcm_s16be", 16_000),
    ".w64": ("w64", "pcm_s16le", 16_000),
    ".rf64": ("RF64", "", 16_000),
    ".avi": ("avi", "libmp3lame", 44_100),
    ".flv": ("flv", "aac", 44_100),
    ".mpg .mpeg": ("mpeg", "mp2", 44_100),
    ".ts .m2ts .mts": ("mpegts", "aac", 16_000),
}


def encoded(container: str, codec: str, rate: int) -> bytes:
    """A second of babble. Skips the test where this FFmpeg has no such encoder."""
    import av

    samples = np.interp(np.arange(rate) / rate, np.arange(16_000) / 16_000, babble(1)).astype(np.float32)
    memory = io.BytesIO()
    if not codec:
        soundfile.write(memory, samples, rate, format=container)
        return memory.getvalue()
    with av.open(memory, "w", format=container) as output:
        try:
            stream = output.add_stream(codec, rate=rate, layout="mono")
        except av.codec.codec.UnknownCodecError:
            pytest.skip(f"FFmpeg without {codec}")
        if rate == 44_100:
            stream.bit_rate = 64_000
        frame = av.AudioFrame.from_ndarray((samples[None] * 32_767).astype(np.int16), format="s16", layout="mono")
        frame.sample_rate = rate
        context = stream.codec_context
        context.open()
        into = av.AudioResampler(format=context.format, layout="mono", rate=rate, frame_size=context.frame_size or None)
        for piece in [*into.resample(frame), *into.resample(None)]:
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))
    return memory.getvalue()


@pytest.mark.parametrize("suffixes", KINDS)
def test_what_a_suffix_stands_for_is_heard(tmp_path, suffixes):
    data = encoded(*KINDS[suffixes])
    for number, suffix in enumerate(suffixes.split()):
        (tmp_path / "rain").mkdir(exist_ok=True)
        (tmp_path / "rain" / f"{number}{suffix}").write_bytes(data)
    found = rows(tmp_path)
    assert len(found) == len(suffixes.split())
    for row in found:
        heard = decode_sound(row.sounds[0], rate=16_000, limits=Limits(60, 10 << 20))
        assert 0.9 < heard.receipt.seconds < 1.2


def test_every_suffix_is_of_such_a_kind():
    assert {suffix for suffixes in KINDS for suffix in suffixes.split()} == SUFFIXES


def test_every_suffix_of_a_recording_counts_and_others_are_told(tmp_path):
    for number, suffix in enumerate(sorted(SUFFIXES)):
        (tmp_path / "rain").mkdir(exist_ok=True)
        (tmp_path / "rain" / f"{number}{suffix.upper() if number % 2 else suffix}").write_bytes(
            wav(babble(0.3, number))
        )
    hidden = ("rain/._1.wav", "rain/.DS_Store", "__MACOSX/rain/1.wav", ".git/config")
    for name in (*hidden, "rain/x.xyz", "rain/none"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = source(tmp_path)
    assert len(found.rows) == len(SUFFIXES)
    assert dict(found.notes.passed_over) == {
        **dict.fromkeys(hidden, "a hidden file"),
        "rain/x.xyz": "no recording and no data file by its name",
        "rain/none": "no recording and no data file by its name",
    }


@pytest.mark.parametrize(("named", "lies"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")])
def test_names_in_either_unicode_form(tmp_path, named, lies):
    stem = "für Elise é"
    write(tmp_path / unicodedata.normalize(lies, f"Ordner ü/{stem}.wav"))
    row = {"audio": unicodedata.normalize(named, f"Ordner ü/{stem}.wav"), "text": "x"}
    (found,) = rows(write_lines(tmp_path / "data.jsonl", [row]))
    assert found.sounds[0].read()[:4] == b"RIFF"
    beside = tmp_path / "beside"
    write(beside / unicodedata.normalize(lies, f"{stem}.wav"))
    (beside / unicodedata.normalize(named, f"{stem}.txt")).write_text("words")
    assert [row.response for row in rows(beside)] == ["words"]


def test_names_that_differ_in_capitals(tmp_path):
    write(tmp_path / "Clips" / "A.WAV")
    source = write_lines(tmp_path / "data.jsonl", [line("clips/a.wav")])
    assert rows(source)[0].sounds[0].path == tmp_path / "Clips" / "A.WAV"
    write(tmp_path / "Clips" / "a.wav")
    assert rows(source)[0].sounds[0].path == tmp_path / "Clips" / "a.wav"
    assert "may be Clips/" in refused(write_lines(tmp_path / "data.jsonl", [line("clips/A.wav")]))
