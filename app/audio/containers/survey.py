"""The container of some bytes, by their beginning."""

from collections.abc import Callable

from app.audio.containers import boxes, frames, riff
from app.audio.containers.extent import Check, Extent, tag_at, unbounded

_W64 = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_MAGIC: tuple[tuple[int, bytes, Callable[[bytes, Check], Extent]], ...] = (
    (0, b"caff", riff.caf),
    (0, b".snd", riff.au),
    (0, _W64, riff.wave64),
    (0, b"OggS", boxes.ogg),
    (0, b"\x1a\x45\xdf\xa3", boxes.matroska),
    (0, bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"), boxes.asf),
    (0, b"FLV\x01", boxes.flv),
    (0, b"#!AMR\n", frames.amr),
    (0, b"#!AMR-WB\n", frames.amr),
)
_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"moof", b"pnot", b"sidx"})


def untagged(data: bytes, check: Check = unbounded) -> bytes:
    """The file without ID3 tags that stand before it."""
    place = 0
    while data[place : place + 3] == b"ID3" and (length := tag_at(data, place)) and place + length < len(data):
        check()
        place += length
    return data[place:] if place else data


def survey(data: bytes, check: Check = unbounded) -> Extent | None:
    """The extent of the container; None where the bytes are none that is known here. Raises what ``check`` does."""
    for place, magic, read in _MAGIC:
        if data[place : place + len(magic)] == magic:
            return read(data, check)
    head, kind = data[:4], data[8:12]
    if head in (b"RIFF", b"RIFX", b"RF64", b"BW64") and kind == b"WAVE":
        return riff.wave(data, check)
    if head == b"RIFF" and kind == b"AVI ":
        return riff.avi(data, check)
    if head == b"FORM" and kind in (b"AIFF", b"AIFC"):
        return riff.aiff(data, check)
    if head == b"fLaC":
        return frames.flac(data, check)
    if data[4:8] in _BOXES:
        return boxes.mp4(data, check)
    if (data[:1] == b"\x47" and data[188:189] == b"\x47") or (data[4:5] == b"\x47" and data[196:197] == b"\x47"):
        return frames.transport(data, check)
    if data[:4] == b"\0\0\1\xba":
        return frames.program(data, check)
    if head[:2] == b"\x0b\x77":
        return frames.frames(data, "AC-3", frames.ac3_frame, check, b"\x0b")
    known = (("MP3", frames.mpeg_frame), ("AAC", frames.adts_frame))
    ordered = known[::-1] if frames.adts_frame(data, 0) else known
    return next((found for name, read in ordered if (found := frames.frames(data, name, read, check))), None)
