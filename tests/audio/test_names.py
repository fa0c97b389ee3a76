"""Files that are no recording, or none that can be read: the error names what they are, and the way on."""

import base64
import gzip
import io
import json
import struct
import zipfile

import numpy as np
import pytest

from app.audio.decode import Limits, decode
from app.audio.sniff import encrypted
from app.errors import AudioError
from tests.audio.makers import by_av, by_soundfile, noise, pcm16, tone

WAV = by_soundfile(noise(1.0), 16_000)
M4A = by_av(tone(2.0), "ipod", "aac")


def zipped() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a.wav", WAV)
    return target.getvalue()


FILES = {
    "PNG picture": b"\x89PNG\r\n\x1a\n" + bytes(500),
    "JPEG picture": b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(500),
    "GIF picture": b"GIF89a" + bytes(100),
    "WebP picture": b"RIFF" + struct.pack("<I", 100) + b"WEBPVP8 " + bytes(100),
    "HEIF picture": b"\0\0\0\x18ftypheic" + bytes(200),
    "PDF document": b"%PDF-1.7\n" + bytes(100),
    "ZIP archive": zipped(),
    "gzip file": gzip.compress(WAV),
    "MIDI file": b"MThd" + struct.pack(">IHHH", 6, 0, 1, 96) + b"MTrk" + bytes(50),
    "playlist": b"#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1/a.mp3\n",
    "HTML page": b"\n<!DOCTYPE html><html><body>Sign in</body></html>",
    "JSON": json.dumps({"error": {"code": 404, "message": "no such file"}}).encode(),
    "text": "Bonjour, ceci n'est pas un enregistrement, mais du texte en français.".encode(),
    "UTF-16": "this is text".encode("utf-16") * 5,
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "base64 text of a wav recording": base64.encodebytes(WAV),
    "base64 text of an m4a": b"data:audio/mp4;base64," + base64.b64encode(M4A),
    "zero bytes": bytes(4_000),
    "SILK voice message": b"\x02#!SILK_V3" + bytes(range(200)),
    "WavPack": b"wvpk" + bytes(200),
    "NIST SPHERE": b"NIST_1A\n   1024\n" + bytes(2000),
    "NumPy array": b"\x93NUMPY\1\0" + bytes(100),
    "begin like no known format": np.random.default_rng(3).bytes(3000).replace(b"\xff", b"\0"),
}


@pytest.mark.parametrize("name", FILES)
def test_what_the_file_is_stands_in_the_error(name):
    with pytest.raises(AudioError, match=name) as caught:
        decode(FILES[name], rate=16_000, limits=Limits(60, 8 << 20), filename="clip.m4a")
    assert "clip.m4a" in str(caught.value)
    assert caught.value.status == 415


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_an_mp4_without_its_index_is_told_to_be_cut_off(share):
    with pytest.raises(AudioError, match=r"MP4 .*without its index.*cut off"):
        decode(M4A[: int(M4A.rindex(b"moov") * share)], rate=16_000, limits=Limits(60, 8 << 20))


def test_raw_samples_are_told_to_lack_a_header():
    with pytest.raises(AudioError, match="ffmpeg -f s16le"):
        decode(pcm16(noise(1.0)), rate=16_000, limits=Limits(60, 8 << 20))


def test_encrypted_recordings_are_named():
    protected = M4A.replace(b"mp4a", b"drms", 1)
    assert encrypted(protected)
    with pytest.raises(AudioError, match="encrypted"):
        decode(protected, rate=16_000, limits=Limits(60, 8 << 20))
    assert not encrypted(M4A)


def test_an_empty_file_is_named():
    with pytest.raises(AudioError, match="is empty"):
        decode(b"", rate=16_000, limits=Limits(60, 8 << 20))
