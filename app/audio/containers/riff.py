"""Containers of chunks with a type and a length: wav, rf64, w64, aiff, caf, au, avi."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from app.audio.containers.extent import Check, Extent, tag_at

OPEN = 0x7F00_0000  # a length from here on, or 0, was left open by a writer that could not go back
_PLAIN_TAGS = {1, 3, 6, 7}  # WAVE: PCM, float, A-law, µ-law
_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
_W64_FORMAT = b"fmt \xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
_NAMES = (
    "LIST id3 ID3 bext iXML JUNK junk PAD FLLR fact cue smpl inst PEAK cart acid axml chna levl umid _PMX DISP"
    " afsp olym minf elm1 regn SAUR CSET strc clm MARK COMT NAME AUTH (c) ANNO AESD APPL FVER info uuid strg peak"
)
_METADATA = frozenset(name.ljust(4).encode() for name in _NAMES.split())  # chunks that stand behind samples
Order = Literal["little", "big"]


@dataclass
class _Format:
    """Rate in Hz and bytes per frame of plain samples; 0 where unknown."""

    rate: int = 0
    frame: int = 0
    plain: bool = False

    def seconds(self, size: int) -> float | None:
        return size // self.frame / self.rate if self.plain and self.frame and self.rate else None


def wave(data: bytes, check: Check) -> Extent:
    """RIFF, RIFX, RF64 and BW64 with WAVE."""
    order: Order = "big" if data[:4] == b"RIFX" else "little"
    form, place, long_size = _Format(), 12, None
    while place + 8 <= len(data):
        check()
        kind, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], order)
        body = data[place + 8 : place + 8 + min(size, 64)]
        if kind == b"ds64" and len(body) >= 16:
            long_size = int.from_bytes(body[8:16], "little")
        elif kind == b"fmt " and len(body) >= 16:
            form = _wave_format(body, order)
        elif kind == b"data":
            if data[:4] in (b"RF64", b"BW64") and size == 0xFFFF_FFFF and long_size is not None:
                size = long_size
            return _with_samples(data, "WAV", place + 8, size, form, order, check)
        place += 8 + size + size % 2
    return Extent("WAV", len(data), cut=True)


def _wave_format(body: bytes, order: Order) -> _Format:
    tag, channels, rate, _, align, bits = struct.unpack(("<" if order == "little" else ">") + "HHIIHH", body[:16])
    if tag == 0xFFFE and len(body) >= 26:
        tag = int.from_bytes(body[24:26], order)
    return _Format(rate, align or channels * -(-bits // 8), tag in _PLAIN_TAGS)


def _with_samples(data: bytes, name: str, start: int, size: int, form: _Format, order: Order, check: Check) -> Extent:
    """The extent of a container whose samples begin at ``start``; metadata that follows them belongs to it."""
    present = len(data) - start
    if not 0 < size < OPEN and not (size == 0 and _metadata_end(data, start, order, check) == len(data)):
        return Extent(name, len(data), seconds=form.seconds(present), plain=form.plain)
    if size >= present + max(1, form.frame):  # less than a frame is a writer's rounding
        return Extent(name, len(data), cut=True, seconds=form.seconds(present), plain=form.plain)
    end = _metadata_end(data, min(start + size, len(data)), order, check)
    return Extent(name, end, seconds=form.seconds(size), plain=form.plain)


def _metadata_end(data: bytes, place: int, order: Order, check: Check) -> int:
    """Where chunks of metadata that begin at ``place``, or one byte on, end."""
    while True:
        check()
        for begin in (place, place + 1):
            if data[begin : begin + 4] in _METADATA and begin + 8 <= len(data):
                place = min(len(data), begin + 8 + int.from_bytes(data[begin + 4 : begin + 8], order))
                break
        else:
            return min(len(data), place + (len(data) - place == 1))  # the last byte of an odd length


def wave64(data: bytes, check: Check) -> Extent:
    form, place = _Format(), 40
    while place + 24 <= len(data):
        check()
        size = int.from_bytes(data[place + 16 : place + 24], "little")
        if data[place : place + 16] == _W64_FORMAT:
            form = _wave_format(data[place + 24 : place + 64], "little")
        if data[place : place + 16] == _W64_DATA:
            start, length = place + 24, max(0, size - 24)
            if size >= 1 << 62 or not length:
                return Extent("W64", len(data), seconds=form.seconds(len(data) - start), plain=form.plain)
            total = int.from_bytes(data[16:24], "little")
            end = min(len(data), max(start + -(-length // 8) * 8, total if total < 1 << 62 else 0))
            present = min(length, len(data) - start)
            return Extent("W64", end, start + length > len(data), form.seconds(present), plain=form.plain)
        if size < 24:
            break
        place += -(-size // 8) * 8
    return Extent("W64", len(data), cut=True)


def aiff(data: bytes, check: Check) -> Extent:
    """FORM with AIFF or AIFC."""
    form, place = _Format(), 12
    while place + 8 <= len(data):
        check()
        kind, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "big")
        body = data[place + 8 : place + 8 + min(size, 64)]
        if kind == b"COMM" and len(body) >= 18:
            channels, bits = int.from_bytes(body[:2], "big"), int.from_bytes(body[6:8], "big")
            exponent, mantissa = int.from_bytes(body[8:10], "big") & 0x7FFF, int.from_bytes(body[10:18], "big")
            rate = mantissa >> max(0, 63 - (exponent - 16383)) if 16383 <= exponent < 16383 + 32 else 0
            coding = body[18:22] if data[8:12] == b"AIFC" else b"NONE"
            widths = {b"ulaw": 1, b"ULAW": 1, b"alaw": 1, b"ALAW": 1, b"fl32": 4, b"FL32": 4, b"fl64": 8, b"FL64": 8}
            known = coding in (b"NONE", b"sowt", b"twos", b"raw ", b"in24", b"in32")
            form = _Format(rate, channels * widths.get(coding, -(-bits // 8)), known or coding in widths)
        elif kind == b"SSND":
            if not 8 < size < OPEN:
                return Extent("AIFF", len(data), seconds=form.seconds(len(data) - place - 16), plain=form.plain)
            found = _with_samples(data, "AIFF", place + 8, size, form, "big", check)
            total = 8 + int.from_bytes(data[4:8], "big")  # chunks after the samples, as far as the form goes
            end = max(found.end, min(total, len(data))) if total < OPEN else found.end
            seconds = form.seconds(min(size, len(data) - place - 8) - 8)
            return Extent("AIFF", end, found.cut, seconds, plain=form.plain)
        place += 8 + size + size % 2
    return Extent("AIFF", len(data), cut=True)


def caf(data: bytes, check: Check) -> Extent:
    form, place, samples, seconds, cut = _Format(), 8, False, None, False
    while place + 12 <= len(data) and data[place : place + 4].isascii() and data[place] > 0x20:
        check()
        kind, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 12], "big", signed=True)
        if kind == b"caff" or tag_at(data, place):
            break
        if kind == b"desc" and place + 44 <= len(data):
            rate, coding, _, frame, *_ = struct.unpack(">d4sIIIII", data[place + 12 : place + 44])
            usual = rate if 0 < rate < 1e9 else 0
            form = _Format(int(usual), frame, coding in (b"lpcm", b"ulaw", b"alaw"))
        if kind == b"data":
            samples, present = True, len(data) - place - 12
            left_open = size < 0 or size > 1 << 62
            cut = not left_open and size > present
            seconds = form.seconds((present if left_open else min(size, present)) - 4)
            if left_open or cut:
                return Extent("CAF", len(data), cut, seconds, plain=form.plain)
        elif size < 0:
            break
        place += 12 + size
    if not samples or place > len(data):
        cut = True
    return Extent("CAF", min(place, len(data)), cut, seconds, plain=form.plain)


def au(data: bytes, check: Check) -> Extent:
    if len(data) < 24:
        return Extent("AU", len(data), cut=True)
    start, size, coding, rate, channels = struct.unpack(">IIIII", data[4:24])
    widths = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}
    form = _Format(rate, channels * widths.get(coding, 0), coding in widths)
    return _with_samples(data, "AU", start, size or 0xFFFF_FFFF, form, "big", check)


def avi(data: bytes, check: Check) -> Extent:
    """RIFF with AVI, and the AVIX parts that go on beyond a gigabyte."""
    place = 0
    for kind, begin, size in _lists(data, check):
        if kind not in (b"AVI ", b"AVIX") or (begin and kind == b"AVI "):
            break
        place = begin + 8 + size + size % 2
        if size == 0 or size >= OPEN:
            return Extent("AVI", len(data))
    return Extent("AVI", min(place, len(data)), cut=place > len(data) + 1)


def _lists(data: bytes, check: Check) -> Iterator[tuple[bytes, int, int]]:
    place = 0
    while data[place : place + 4] == b"RIFF":
        check()
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        yield data[place + 8 : place + 12], place, size
        place += 8 + size + size % 2
