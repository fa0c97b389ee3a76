"""Where a recording ends: all that was sent is heard, or the receipt reports what was not."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.audio.containers.survey import survey
from app.audio.decode import Limits, decode
from app.audio.pool import Decoder, DecodingPool
from app.errors import AudioError
from tests.audio.makers import (
    RATE,
    ape_tag,
    by_av,
    by_soundfile,
    id3v1,
    id3v2,
    noise,
    pcm16,
    tone,
    wav_header,
    without_total,
    without_xing,
)

LIMITS = Limits(max_seconds=60, max_bytes=64 << 20)
SECONDS = 1.5
BOXES = (
    "mov-pcm_s16le mp4-aac ipod-alac 3gp-aac webm-libopus matroska-flac avi-pcm_s16le avi-mp3 mpegts-aac mpegts-mp2"
    " mpegts-ac3 mpeg-mp2 flv-aac adts-aac mp3-libmp3lame mp2-mp2 ac3-ac3 ogg-libopus ogg-flac flac-flac wav-pcm_s16le"
    " wav-adpcm_ms w64-pcm_s16le caf-alac"
)
WRITTEN = (
    "WAV-PCM_16 WAV-FLOAT WAV-ALAW RF64-PCM_16 W64-PCM_24 AIFF-PCM_16 AIFF-FLOAT CAF-PCM_16 AU-PCM_16 AU-ULAW"
    " FLAC-PCM_16 FLAC-PCM_24 OGG-VORBIS OGG-OPUS MP3-MPEG_LAYER_III"
)
HEARD_TO_THE_CUT = (
    "WAV-PCM_16 WAV-FLOAT AIFF-PCM_16 CAF-PCM_16 AU-ULAW W64-PCM_24 mp3-libmp3lame FLAC-PCM_16 adts-aac live-webm"
    " fragmented faststart matroska-flac"
)
LIVE = {"live": "1", "cluster_time_limit": "300"}
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "200000"}


def made(seconds: float = SECONDS, seed: int = 0) -> dict[str, bytes]:
    """A recording in each form."""
    sound = noise(seconds, 48_000, seed=seed)
    phone = noise(seconds, 8_000, seed=seed)
    boxes = {form: by_av(sound, *form.split("-")) for form in BOXES.split()}
    written = {form: by_soundfile(sound, 48_000, *form.split("-")) for form in WRITTEN.split()}
    others = {
        "amr": by_av(phone, "amr", "libopencore_amrnb", 8_000),
        "fragmented": by_av(sound, "mp4", "aac", **FRAGMENTED),
        "faststart": by_av(sound, "mp4", "aac", movflags="faststart"),
        "live-webm": by_av(sound, "webm", "libopus", **LIVE),
        "piped-flac": without_total(written["FLAC-PCM_16"]),
        "bare-mp3": without_xing(boxes["mp3-libmp3lame"]),
    }
    return boxes | written | others


MADE, OTHER = made(), made(2.0, seed=1)
CONTINUED = (  # forms whose recordings go on one after another
    "mpegts-aac mpegts-mp2 mpegts-ac3 mpeg-mp2 adts-aac mp3-libmp3lame mp2-mp2 ac3-ac3 ogg-libopus ogg-flac flac-flac"
    " FLAC-PCM_16 FLAC-PCM_24 OGG-VORBIS OGG-OPUS MP3-MPEG_LAYER_III piped-flac bare-mp3"
)


def hear(data: bytes):
    return decode(data, rate=RATE, limits=LIMITS).receipt


@pytest.mark.parametrize("form", MADE)
def test_a_whole_recording_is_heard_whole_and_without_a_word(form):
    receipt = hear(MADE[form])
    assert receipt.seconds == pytest.approx(SECONDS, abs=0.08)
    assert receipt.warnings == []


def test_decoding_processes_hear_the_same_of_every_form():
    """They can open no file, so nothing may be loaded at its first use."""
    surround = by_av(np.repeat(tone()[:, None], 8, 1), "flac", "flac", layout="7.1")
    pool = DecodingPool(Decoder(RATE, LIMITS), 1, 30.0)
    try:
        for data in [*MADE.values(), surround]:
            there, here = pool.run(data), decode(data, rate=RATE, limits=LIMITS)
            assert (there.sha256, there.receipt) == (here.sha256, here.receipt)
    finally:
        pool.close()


@pytest.mark.parametrize("form", MADE)
def test_two_recordings_in_one_file_are_both_heard_or_reported(form):
    receipt = hear(MADE[form] + OTHER[form])
    if form in CONTINUED.split():
        assert receipt.seconds == pytest.approx(SECONDS + 2.0, abs=0.15)
        assert receipt.warnings == []
    else:
        assert receipt.seconds == pytest.approx(SECONDS, abs=0.08)
        assert ["follows the first one" in warning for warning in receipt.warnings] == [True]


@pytest.mark.parametrize("form", sorted(MADE))
@pytest.mark.parametrize(
    "tag", [id3v1(), ape_tag(), ape_tag() + id3v1(), bytes(5_000)], ids=["id3v1", "ape", "both", "zeros"]
)
def test_tags_and_padding_at_the_end_are_no_sound(form, tag):
    receipt = hear(MADE[form] + tag)
    assert receipt.seconds == pytest.approx(SECONDS, abs=0.08)
    assert receipt.warnings == []


@pytest.mark.parametrize("form", sorted(MADE))
def test_tags_before_the_recording_are_passed_over(form):
    assert hear(id3v2() + MADE[form]).seconds == pytest.approx(SECONDS, abs=0.08)


@pytest.mark.parametrize("form", ["mp3-libmp3lame", "bare-mp3", "adts-aac", "mp2-mp2"])
def test_tags_in_the_middle_are_passed_over(form):
    receipt = hear(MADE[form] + id3v1() + id3v2() + OTHER[form] + ape_tag())
    assert receipt.seconds == pytest.approx(SECONDS + 2.0, abs=0.15)
    assert receipt.warnings == []


@pytest.mark.parametrize("form", sorted(set(MADE) - {"mpeg-mp2"}))
def test_what_follows_the_end_and_is_no_sound_is_reported(form):
    junk = np.random.default_rng(5).bytes(6_000)
    receipt = hear(MADE[form] + junk)
    assert receipt.seconds == pytest.approx(SECONDS, abs=0.1)
    assert any("bytes" in warning for warning in receipt.warnings)


@pytest.mark.parametrize(
    "form", sorted(set(MADE) - {"WAV-PCM_16", "WAV-FLOAT", "WAV-ALAW", "wav-pcm_s16le", "wav-adpcm_ms"})
)
def test_another_kind_of_recording_at_the_end_is_reported(form):
    receipt = hear(MADE[form] + MADE["WAV-PCM_16"])
    assert receipt.warnings
    assert receipt.seconds == pytest.approx(SECONDS, abs=0.1)


# Where frames end so does all that tells of more: the rest of these is missing without a trace in what is there
FRAMES = {"mp2-mp2": 1152, "mpegts-aac": 188, "mpegts-mp2": 188, "mpegts-ac3": 188}
OPEN = {"adts-aac", "bare-mp3", "amr", "ac3-ac3", "piped-flac", "live-webm", "fragmented", "mpeg-mp2", *FRAMES}


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(MADE)), st.floats(0.001, 1.0))
def test_cut_anywhere_what_is_there_is_heard_and_reported_or_refused_with_a_reason(form, share):
    whole = MADE[form]
    cut = whole[: min(len(whole) - 1, int(len(whole) * share))]
    try:
        receipt = hear(cut)
    except AudioError:
        return
    lost = SECONDS - receipt.seconds
    if lost > 0.05 and form not in OPEN:
        assert any("cut off" in warning or "damaged" in warning for warning in receipt.warnings)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["adts-aac", "bare-mp3", "amr", "ac3-ac3", "live-webm", "fragmented"]), st.floats(0.2, 1.0))
def test_cut_inside_a_frame_is_reported_even_without_any_declared_length(form, share):
    whole = MADE[form]
    cut = whole[: min(len(whole) - 1, int(len(whole) * share))]
    extent = survey(cut)
    receipt = hear(cut)
    assert extent is not None
    reported = any("cut off" in warning for warning in receipt.warnings)
    assert reported or not extent.cut
    assert receipt.seconds >= SECONDS * len(cut) / len(whole) - 0.5


@pytest.mark.parametrize("form", HEARD_TO_THE_CUT.split())
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_cut_recordings_are_heard_up_to_the_cut(form, share):
    receipt = hear(MADE[form][: int(len(MADE[form]) * share)])
    assert receipt.seconds == pytest.approx(SECONDS * share, abs=0.15)
    assert receipt.warnings[0].startswith("The file seems cut off")


@pytest.mark.parametrize("size", [0, 0xFFFF_FFFF, 0x7FFF_FFFF, 0x7FFF_F000, 0xFFFF_FFDB, 0x8000_0000])
@pytest.mark.parametrize("riff", [None, 0, 0xFFFF_FFFF])
def test_wav_with_an_open_length(size, riff):
    receipt = hear(wav_header(size, riff=riff) + pcm16(noise(1.0)))
    assert receipt.seconds == 1.0
    assert receipt.warnings == []


def test_wav_without_samples_is_not_taken_for_one_with_an_open_length():
    listed = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf60.16.100\0"
    with pytest.raises(AudioError, match="no samples"):
        hear(wav_header(0) + listed)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_wav_that_declares_less_than_it_holds(share):
    samples = pcm16(noise(2.0))
    declared = int(len(samples) * share) // 2 * 2
    receipt = hear(wav_header(declared) + samples)
    assert receipt.seconds == pytest.approx(2 * share, abs=1e-3)
    assert any(f"as samples {2 - 2 * share:.1f} s" in warning for warning in receipt.warnings)


def test_chunks_behind_the_samples_are_no_sound():
    samples = pcm16(noise(1.0))
    for name in (b"LIST", b"id3 ", b"bext", b"JUNK"):
        chunk = name + struct.pack("<I", 100) + bytes(range(100))
        for riff in (36 + len(samples), 36 + len(samples) + 108):
            receipt = hear(wav_header(len(samples), riff=riff) + samples + chunk)
            assert (receipt.seconds, receipt.warnings) == (1.0, [])


def test_an_aiff_or_au_written_into_a_pipe_is_heard_whole():
    au = bytearray(by_soundfile(noise(1.0), RATE, "AU"))
    au[8:12] = b"\xff\xff\xff\xff"
    assert (hear(bytes(au)).seconds, hear(bytes(au)).warnings) == (1.0, [])
    caf = bytearray(by_soundfile(noise(1.0), RATE, "CAF"))
    place = caf.index(b"data") + 4
    caf[place : place + 8] = b"\xff" * 8
    assert (hear(bytes(caf)).seconds, hear(bytes(caf)).warnings) == (1.0, [])


def test_variable_bit_rate_without_a_header_is_heard_whole():
    """A length estimated from the first frames would end much too early."""
    sound = np.concatenate([noise(1.0, 16_000, 0.3), np.zeros(64_000, np.float32), noise(2.0, 16_000, 0.1)])
    whole = by_soundfile(sound, 16_000, "MP3", "MPEG_LAYER_III", compression_level=0.4, bitrate_mode="VARIABLE")
    receipt = hear(without_xing(whole))
    assert receipt.seconds == pytest.approx(7.0, abs=0.15)
    assert receipt.warnings == []
    late = by_soundfile(sound[::-1], 16_000, "MP3", "MPEG_LAYER_III", compression_level=0.4, bitrate_mode="VARIABLE")
    assert hear(without_xing(late)).warnings == []


def test_what_an_mp3_header_tells_and_the_file_lacks_is_reported():
    whole = MADE["MP3-MPEG_LAYER_III"]
    ends = whole.rindex(b"\xff\xfb", 0, len(whole) * 2 // 3)  # between two frames: no frame is incomplete
    assert any("cut off" in warning for warning in hear(whole[:ends]).warnings)


def test_many_recordings_of_speech_synthesis_in_one_file():
    pieces = [by_av(tone(0.8, frequency=300 + 100 * index), "mp3", "libmp3lame") for index in range(6)]
    recording = decode(b"".join(pieces), rate=RATE, limits=LIMITS)
    assert recording.receipt.seconds == pytest.approx(4.8, abs=0.35)
    last = recording.samples[-RATE // 2 :]
    assert np.abs(np.fft.rfft(last)).argmax() * RATE / len(last) == pytest.approx(800, abs=5)


def test_damage_inside_does_not_end_the_recording():
    for form in ("FLAC-PCM_16", "mp3-libmp3lame", "adts-aac", "mpegts-aac"):
        data = bytearray(OTHER[form])
        middle = len(data) // 2
        data[middle : middle + 200] = np.random.default_rng(0).bytes(200)
        receipt = hear(bytes(data))
        assert receipt.seconds > 1.7
        assert receipt.warnings
