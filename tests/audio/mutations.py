"""Damage to recordings, drawn from a random number generator: what disks, networks and attackers do to files."""

import random
import re
import zlib
from collections.abc import Callable

MOST_BYTES = 1 << 18  # of a damaged file
_HEAD = 1_024  # bytes at either end that are hit more often: headers and indexes lie there
_NAME = re.compile(rb"[A-Za-z][A-Za-z0-9 ]{2}[A-Za-z0-9 ]|\x1aE\xdf\xa3|OggS|\xff[\xf0-\xff]")
_SMALL = (0, 1, 2, 3, 7, 8, 9, 24, 63, 64, 255, 256, 257, 65_535, 65_536)  # numbers of channels, and about them
_NAMES = (
    b"moov trak mdia minf stbl stsd stts stsc stsz stco co64 ctts edts elst moof traf trun tfhd mvex free mdat esds"
    b" wave chan chnl mp4a alac fLaC Opus samr sawb sqcp sevc spex ac-3 ec-3 dtsc mlpa lpcm sowt twos in24 in32 fl32"
    b" fl64 ima4 ulaw alaw QDM2 ms\0\x02 ms\0\x11 .mp3 agsm dvi4 pakt desc kuki data"
    b" info fmt  LIST fact ds64 bext id3  COMM"
    b" SSND AVI  hdrl strl strh strf movi idx1 auds 01wb RIFF RIFX RF64 FORM AIFF AIFC caff OggS Xing Info VBRI"
).split(b" ")
_CODECS = (
    b"A_AAC A_AC3 A_ALAC A_DTS A_EAC3 A_FLAC A_MLP A_MPEG/L2 A_MPEG/L1 A_MPEG/L3 A_MS/ACM A_OPUS A_PCM/FLOAT/IEEE"
    b" A_PCM/INT/BIG A_PCM/INT/LIT A_QUICKTIME A_TRUEHD A_TTA1 A_VORBIS A_WAVPACK4"
).split()
_TAGS = (
    1,
    2,
    3,
    6,
    7,
    0x0A,
    0x11,
    0x20,
    0x31,
    0x45,
    0x50,
    0x55,
    0x64,
    0xFF,
    0x160,
    0x161,
    0x162,
    0x163,
    0x2000,
    0x2001,
)
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def damaged(draw: random.Random, data: bytes, other: bytes) -> bytes:
    """``data`` after one to some ten mutations, parts of ``other`` among them."""
    damage = bytearray(data)
    while True:
        draw.choice(_MUTATIONS)(draw, damage, other)
        del damage[MOST_BYTES:]
        if not damage:
            damage += data[:1]
        if draw.random() < 0.35:
            break
    if b"OggS" in damage[:4] and draw.random() < 0.8:
        _check_pages(damage)
    return bytes(damage)


def _place(draw: random.Random, data: bytearray) -> int:
    """Mostly in the first or last KB, or just about the name of a box or chunk, where its size stands."""
    kind, end = draw.random(), len(data) - 1
    if kind < 0.35:
        return min(end, int(draw.expovariate(1 / 200)))
    if kind < 0.5:
        return max(0, end - int(draw.expovariate(1 / 300)))
    if kind < 0.8 and (names := [found.start() for found in _NAME.finditer(data[:65_536])]):
        near = draw.choice(names[:40] if draw.random() < 0.7 else names)
        return min(end, max(0, near + draw.randint(-8, 40)))
    return draw.randint(0, end)


def _flip(draw: random.Random, data: bytearray, other: bytes) -> None:
    for _ in range(draw.choice((1, 1, 2, 8))):
        data[_place(draw, data)] ^= 1 << draw.randrange(8)


def _overwrite(draw: random.Random, data: bytearray, other: bytes) -> None:
    place = _place(draw, data)
    new = draw.randbytes(draw.choice((1, 2, 4, 16, 64)))
    data[place : place + len(new)] = new


def _integer(draw: random.Random, data: bytearray, other: bytes) -> None:
    """An edge value, in place of an integer of one to eight bytes."""
    width = draw.choice((1, 2, 2, 3, 4, 4, 4, 8))
    place, bits = _place(draw, data), 8 * width
    values = (0, 1, (1 << bits) - 1, (1 << bits) - 2, (1 << bits - 1) - 1, 1 << bits - 1, 1 << draw.randrange(bits))
    value = draw.choice((*values, *_SMALL, len(data), len(data) - place, len(data) + 1)) & ((1 << bits) - 1)
    data[place : place + width] = value.to_bytes(width, draw.choice(("big", "little")))


def _shift(draw: random.Random, data: bytearray, other: bytes) -> None:
    """A number that is a little more or less than it was."""
    place = _place(draw, data)
    data[place] = (data[place] + draw.choice((-16, -2, -1, 1, 2, 16))) % 256


def _cut(draw: random.Random, data: bytearray, other: bytes) -> None:
    place = _place(draw, data)
    del data[place : place + draw.choice((1, 4, 64, 1_024, len(data)))]


def _insert(draw: random.Random, data: bytearray, other: bytes) -> None:
    place = _place(draw, data)
    data[place:place] = draw.choice(
        (draw.randbytes(draw.randint(1, 64)), bytes(16), b"\xff" * 16, b"ID3\4\0\0\0\0\0\7")
    )


def _double(draw: random.Random, data: bytearray, other: bytes) -> None:
    """A block repeated, also very often."""
    place = _place(draw, data)
    block = data[place : place + draw.choice((4, 32, 256, 2_048))]
    data[place:place] = block * draw.choice((1, 1, 2, 50))


def _exchange(draw: random.Random, data: bytearray, other: bytes) -> None:
    """Two blocks in each other's place."""
    one, two, size = _place(draw, data), _place(draw, data), draw.choice((4, 32, 256))
    data[one : one + size], data[two : two + size] = data[two : two + size], data[one : one + size]


def _splice(draw: random.Random, data: bytearray, other: bytes) -> None:
    """The beginning of this file and the end of another, or a piece of the other inside this one."""
    place, begin = _place(draw, data), _place(draw, bytearray(other))
    if draw.random() < 0.5:
        data[place:] = other[begin:]
    else:
        piece = other[begin : begin + draw.choice((16, 256, 4_096))]
        data[place : place + (len(piece) if draw.random() < 0.5 else 0)] = piece


def _append(draw: random.Random, data: bytearray, other: bytes) -> None:
    data += draw.choice((other, other[: len(other) // 2], bytes(data)))


def _rename(draw: random.Random, data: bytearray, other: bytes) -> None:
    """The name of a box, chunk or codec becomes another's."""
    if (codec := data.find(b"\x86")) >= 0 and data[:1] == b"\x1a" and draw.random() < 0.5:
        codec = data.find(b"A_", codec)
        if codec > 0:
            name, length = draw.choice(_CODECS), data[codec - 1] & 0x7F
            data[codec - 1 : codec + length] = bytes([0x80 | len(name)]) + name
            return
    if (form := data.find(b"fmt ")) >= 0 and draw.random() < 0.5:
        data[form + 8 : form + 10] = draw.choice(_TAGS).to_bytes(2, "little")
        return
    found = [one.start() for one in _NAME.finditer(data[:65_536])][:60]
    if found:
        place = draw.choice(found)
        data[place : place + 4] = draw.choice(_NAMES).ljust(4)


_MUTATIONS: tuple[Callable[[random.Random, bytearray, bytes], None], ...] = (
    *(_flip, _flip, _overwrite, _overwrite, _integer, _integer, _integer, _integer, _shift, _shift),
    *(_cut, _insert, _double, _exchange, _splice, _append, _rename, _rename),
)


def _check_pages(data: bytearray) -> None:
    """Right checksums for damaged Ogg pages, which FFmpeg and libogg would else pass over."""
    place = data.find(b"OggS")
    while place >= 0 and place + 27 <= len(data):
        body = place + 27 + data[place + 26]
        end = body + sum(data[place + 27 : body])
        page = bytes(data[place : place + 22]) + bytes(4) + bytes(data[place + 26 : end])
        data[place + 22 : place + 26] = _ogg_crc(page).to_bytes(4, "little")
        place = data.find(b"OggS", max(end, place + 4))


def _ogg_crc(page: bytes) -> int:
    """Ogg's CRC-32: zlib's polynomial, bits in the other order, nothing inverted."""
    register = zlib.crc32(page.translate(_REVERSED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int(f"{register:032b}"[::-1], 2)
