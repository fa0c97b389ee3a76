"""Kinds of files that are no recording, or none that is read here, each with a way on."""

import base64
import binascii
import re

from app.audio.containers.extent import Extent

_START: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG", "a PNG picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"GIF8", "a GIF picture"),
    (0, b"II*\0", "a TIFF picture"),
    (0, b"MM\0*", "a TIFF picture"),
    (8, b"WEBP", "a WebP picture"),
    (4, b"ftypheic", "a HEIF picture"),
    (4, b"ftypmif1", "a HEIF picture"),
    (4, b"ftypavif", "an AVIF picture"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\xd0\xcf\x11\xe0", "an old Office document"),
    (0, b"PK\3\4", "a ZIP archive (or an Office document); unpack it and send the recording inside"),
    (0, b"PK\5\6", "an empty ZIP archive"),
    (0, b"\x1f\x8b", "a gzip file; unpack it and send what is inside"),
    (0, b"BZh", "a bzip2 file; unpack it and send what is inside"),
    (0, b"\xfd7zXZ", "an xz file; unpack it and send what is inside"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it and send the recording inside"),
    (0, b"Rar!", "a RAR archive; unpack it and send the recording inside"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file; unpack it and send what is inside"),
    (257, b"ustar", "a tar archive; unpack it and send the recording inside"),
    (0, b"MThd", "a MIDI file: it holds notes, not sound; play it into a wav file"),
    (0, b"#EXTM3U", "a playlist (m3u), which only names recordings; send the recording itself"),
    (0, b"[playlist]", "a playlist (pls), which only names recordings; send the recording itself"),
    (0, b"ffconcat", "a list of files for FFmpeg; send the recording itself"),
    (0, b"v=0", "a session description (SDP); send the recording itself"),
    (
        0,
        b"version https://git-lfs",
        "a Git LFS pointer in place of the recording; run `git lfs pull` and send the file",
    ),
    (0, b"\x7fELF", "a program"),
    (0, b"SQLite format 3", "an SQLite data base"),
    (0, b"\x93NUMPY", "a NumPy array; write the samples as wav"),
    (0, b"PAR1", "a Parquet table"),
    (0, b"ARROW1", "an Arrow table"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"#!SILK", "a SILK voice message (WeChat, QQ, Skype); convert it to wav"),
    (1, b"#!SILK", "a SILK voice message (WeChat, QQ, Skype); convert it to wav"),
    (0, b"wvpk", "a WavPack file; convert it to flac"),
    (0, b"MAC ", "a Monkey's Audio file; convert it to flac"),
    (0, b"TTA1", "a True Audio file; convert it to flac"),
    (0, b"MPCK", "a Musepack file; convert it to mp3 or wav"),
    (0, b"MP+", "a Musepack file; convert it to mp3 or wav"),
    (0, b"DSD ", "a DSD file; convert it to flac"),
    (0, b"FRM8", "a DSD file; convert it to flac"),
    (0, b".RMF", "a RealMedia file; convert it to mp3 or wav"),
    (0, b".ra\xfd", "a RealAudio file; convert it to mp3 or wav"),
    (0, b"Creative Voice File", "a VOC file; convert it to wav"),
    (0, b"NIST_1A", "a NIST SPHERE file; convert it to wav (`sph2pipe -f wav`, `sox`)"),
    (0, b"ADIF", "an AAC file in ADIF form; convert it to m4a"),
    (8, b"8SVX", "an 8SVX file; convert it to wav"),
    (0, b"\x02dss", "a DSS dictation; convert it to wav or mp3"),
    (0, b"\x03ds2", "a DS2 dictation; convert it to wav or mp3"),
    (8, b"QLCM", "a QCELP voice memo; convert it to wav"),
    (0, b"\x7f\xfe\x80\x01", "a DTS stream; convert it to wav"),
    (0, b"IMPM", "a tracker module; play it into a wav file"),
    (0, b"MATLAB 5.0", "a MATLAB file; write the samples as wav"),
)
_ENCRYPTED_ASF = bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e")
_SOUND = {
    b"RIFF": "wav",
    b"fLaC": "flac",
    b"OggS": "ogg",
    b"ID3": "mp3",
    b"\xff": "mp3 or aac",
    b"\x1aE\xdf\xa3": "webm",
    b"caff": "caf",
}
_BASE64 = re.compile(rb"(?:data:[\w/.+;=, -]{0,80}base64,)?[A-Za-z0-9+/_\-\s]{48,}={0,2}\s*\Z")


def recognised(data: bytes) -> str | None:
    """The kind of a file that is certainly no recording, or none that is read here; None where it is not recognised."""
    for place, magic, name in _START:
        if data[place : place + len(magic)] == magic:
            return name
    if not data.strip(b"\0"):
        return "nothing but zero bytes: the recording or its download failed"
    head = data[:4096]
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") and head[2:].count(0) > len(head) // 3:
        return "text (UTF-16)"
    if data[:2] == b"MZ" and b"PE\0\0" in head:
        return "a program"
    if data[:2] == b"BM" and int.from_bytes(data[2:6], "little") == len(data):
        return "a BMP picture"
    return _text(data, head.removeprefix(b"\xef\xbb\xbf").lstrip())


def _text(data: bytes, head: bytes) -> str | None:
    lowered = head[:512].lower()
    if lowered.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page, often what a link gives in place of a download; open the link and save the recording"
    if lowered.startswith(b"<svg") or (lowered.startswith(b"<?xml") and b"<svg" in lowered):
        return "an SVG picture"
    if lowered.startswith(b"<asx"):
        return "a playlist (asx), which only names recordings; send the recording itself"
    if lowered.startswith(b"<?xml"):
        return "an XML document"
    if _BASE64.match(data[:65536] if len(data) > 65536 else data) and (inside := _inside(head)):
        return f"base64 text of {inside}; decode it before it is sent as a file"
    if any(byte < 9 or 13 < byte < 32 for byte in head) or not head:
        return None
    try:
        head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:
            return None
    return "JSON" if head[:1] in (b"{", b"[") else "text"


def _inside(head: bytes) -> str | None:
    """The kind of recording in base64 text; None where there is none."""
    text = head.rpartition(b"base64,")[2][:64].translate(None, b" \r\n\t").replace(b"-", b"+").replace(b"_", b"/")
    try:
        start = base64.b64decode(text[: len(text) // 4 * 4])
    except (binascii.Error, ValueError):
        return None
    if start[4:8] == b"ftyp":
        return "an m4a or mp4 recording"
    return next((f"a {name} recording" for magic, name in _SOUND.items() if start.startswith(magic)), None)


def encrypted(data: bytes) -> bool:
    """True for an MP4 or WMA file that is protected against copies (DRM)."""
    if data[:4] == b"\x30\x26\xb2\x75":
        return _ENCRYPTED_ASF in data[:65536]
    place = data.find(b"stsd") if data[4:8] == b"ftyp" else -1
    while place >= 0:
        if data[place + 16 : place + 20] in (b"drms", b"enca"):
            return True
        place = data.find(b"stsd", place + 4)
    return data[4:12] in (b"ftypaax ", b"ftypaaxc")


def raw_words(size: int) -> str:
    """Advice for bytes without any known beginning."""
    return (
        f"its {size:,} bytes begin like no known format. Raw samples need a header that tells rate and channels: "
        "`ffmpeg -f s16le -ar 16000 -ac 1 -i FILE out.wav`"
    )


def cut_words(extent: Extent) -> str | None:
    """The reason why a file of a known container has no samples: its end or its index is missing; None for another."""
    if not extent.index:
        return (
            "an MP4 (m4a, mov, 3gp) without its index, the moov box: the recording or its upload was cut off before "
            "its end. Send the whole file; an interrupted recording can be repaired with the app that made it, or with "
            "untrunc"
        )
    if extent.cut:
        article = "a" if extent.name in _CONSONANTS else "an"
        return f"{article} {extent.name} file that was cut off, without any sound in what is there; send the whole file"
    return None


_CONSONANTS = frozenset({"WAV", "W64", "CAF", "FLAC", "WMA", "Matroska or WebM"})  # "an" stands before all others
