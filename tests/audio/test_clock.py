"""The structure of a container is read within the same time as its sound, whatever it is made of."""

import time

import pytest

from app.audio.containers.survey import survey, untagged
from app.audio.decode import Limits, declared_seconds, decode
from app.audio.files import Clock
from app.errors import TooLarge
from tests.audio.makers import by_soundfile, tone

pytestmark = pytest.mark.slow

SIZE = 3 << 20
MP3 = b"\xff\xfb\x14\xc4"  # a frame of 32 kbit/s at 48 kHz: 96 bytes
ADTS = b"\xff\xf1\x4c\x80\x00\xff\xfc"  # an empty frame: 7 bytes


def repeated(head: bytes, turn: bytes) -> bytes:
    return head + turn * (SIZE // len(turn))


FORMS = {
    "wav chunks": repeated(b"RIFF\xff\xff\xff\0WAVE", b"junk\0\0\0\0"),
    "wav metadata behind samples": repeated(
        b"RIFF\xff\xff\xff\0WAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data\2\0\0\0\0\0", b"LIST\0\0\0\0"
    ),
    "aiff chunks": repeated(b"FORM\0\xff\xff\xffAIFF", b"ANNO\0\0\0\0"),
    "caf chunks": repeated(b"caff\0\1\0\0", b"free" + bytes(8)),
    "w64 chunks": repeated(
        bytes.fromhex("726966662e91cf11a5d628db04c10000") + bytes(24), b"j" * 16 + b"\x18" + bytes(7)
    ),
    "mp4 boxes": repeated(b"\0\0\0\x08ftyp", b"\0\0\0\x08free"),
    "ogg pages": repeated(b"", b"OggS" + bytes(23)),
    "matroska elements": repeated(b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff", b"\xec\x80"),
    "asf objects": repeated(
        bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + b"\x18" + bytes(7),
        bytes.fromhex("90080033b1e5cf1189f400a0c90349cb") + b"\x18" + bytes(7),
    ),
    "flv tags": repeated(b"FLV\1\5\0\0\0\x09\0\0\0\0", b"\x08" + bytes(14)),
    "mpeg-ps packets": repeated(b"\0\0\1\xba" + b"\x44" + bytes(9), b"\0\0\1\xbe\0\0"),
    "amr frames": repeated(b"#!AMR\n", b"\x7c"),
    "flac one after another": repeated(b"", b"fLaC\0\0\0\x22" + bytes(34)),
    "mp3 frames": repeated(b"", MP3.ljust(96, b"\0")),
    "aac frames": repeated(b"", ADTS),
    "frames with junk between them": repeated(b"", MP3.ljust(96, b"\0") * 2 + b"junk"),
    "nothing but syncs": repeated(MP3.ljust(96, b"\0") * 3, b"\xff"),
    "tags": repeated(b"", b"ID3\4\0\0\0\0\0\0"),
    "tags behind frames": repeated(MP3.ljust(96, b"\0") * 3, b"TAG".ljust(128, b"\0")),
    "lyrics without an end": repeated(MP3.ljust(96, b"\0") * 3, MP3.ljust(96, b"\0") * 2 + b"LYRICSBEGIN")[: SIZE // 8],
}


@pytest.mark.parametrize("form", FORMS)
def test_a_structure_without_an_end_costs_its_time_and_no_more(form: str) -> None:
    """Asked at every turn, and cheap turns: the time may pass by a few of them."""
    data, turns = FORMS[form], 0

    def count() -> None:
        nonlocal turns
        turns += 1

    begun = time.thread_time()
    survey(untagged(data, count), count)
    took = time.thread_time() - begun
    assert turns > 1000  # it is a loop
    assert took / turns < 2e-3  # between two looks at the clock
    clock = Clock(0.0, " ('x')")
    begun = time.thread_time()
    with pytest.raises(TooLarge, match=r"\('x'\) takes longer"):
        survey(untagged(data, clock.tick), clock.tick)
    assert time.thread_time() - begun < 0.5


@pytest.mark.parametrize("form", ["tags", "mp4 boxes", "aac frames"])
def test_decoding_refuses_it(form: str) -> None:
    limits = Limits(60, 1 << 28, max_cpu_seconds=0.05)
    begun = time.thread_time()
    with pytest.raises(TooLarge, match=r"takes longer than 0\.05 s"):
        decode(FORMS[form] * 20, rate=16_000, limits=limits, filename="x")
    with pytest.raises(TooLarge, match=r"takes longer than 0\.05 s"):
        declared_seconds(FORMS[form] * 20, limits=limits, filename="x")
    assert time.thread_time() - begun < 2


def test_declared_seconds_are_the_recordings() -> None:
    limits = Limits(60, 1 << 24)
    for container, codec in (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("AIFF", "PCM_16")):
        data = by_soundfile(tone(2.5), 48_000, container, codec)
        assert declared_seconds(data, limits=limits) == pytest.approx(2.5, abs=0.05)
    assert declared_seconds(b"hello" * 9, limits=limits) == 0
