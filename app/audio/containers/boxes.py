"""Containers of boxes, pages and elements: MP4 and QuickTime, Ogg, Matroska and WebM, ASF, FLV."""

from dataclasses import dataclass

from app.audio.containers.extent import Check, Extent, tag_at

_EBML, _SEGMENT, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
_IN_CLUSTER = frozenset({0xE7, 0xA3, 0xA0, 0xAB, 0xA7, 0xAF, 0xEC, 0xBF, 0x5854})
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_ASF_TOP = frozenset(  # header, data, simple index, index, media object index, timecode index
    map(
        bytes.fromhex,
        (
            "3026b2758e66cf11a6d900aa0062ce6c",
            "3626b2758e66cf11a6d900aa0062ce6c",
            "90080033b1e5cf1189f400a0c90349cb",
            "d329e2d6da35d111903400a0c90349be",
            "f803b1fead12644c840f2a1d2f7ad48c",
            "d03fb73c4a0c0348953dedf7b6228f0c",
        ),
    )
)


def mp4(data: bytes, check: Check) -> Extent:
    place, kinds = 0, set[bytes]()
    while place + 8 <= len(data):
        check()
        size, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if size == 1 and place + 16 <= len(data):
            size = int.from_bytes(data[place + 8 : place + 16], "big")
        elif size == 0:
            size = len(data) - place
        if tag_at(data, place) or size < 8 or not all(0x20 <= byte < 0x7F or byte == 0xA9 for byte in kind):
            break
        if kind == b"ftyp" and b"moov" in kinds:
            break  # another file
        if place + size > len(data) and kind != b"mdat":
            return Extent("MP4", place, cut=True, index=b"moov" in kinds)  # FFmpeg refuses all over a part of a box
        kinds.add(kind)
        place += size
    started = 0 < len(data) - place < 8 and data[place:].strip(b"\0") != b"" and not tag_at(data, place)
    return Extent("MP4", min(place, len(data)), place > len(data) or started, index=b"moov" in kinds)


@dataclass
class _Stream:
    """A logical Ogg stream. Rates in Hz; ``base``: granule before its first sound."""

    rate: int
    base: int
    first: int = -1
    last: int = 0
    ended: bool = False

    @property
    def seconds(self) -> float:
        begin = self.base if self.first <= 3 * self.rate + self.base else self.first  # joined while it was live
        return max(0, self.last - begin) / self.rate


def ogg(data: bytes, check: Check) -> Extent:
    """Ogg, also several streams one after another."""
    place = skipped = 0
    groups: list[dict[bytes, _Stream | None]] = []
    cut = began = False
    parts: list[int] = []
    while place + 27 <= len(data):
        check()
        if data[place : place + 4] != b"OggS":
            found = data.find(b"OggS", place)
            if found < 0:
                break
            skipped += found - place
            place = found
            continue
        flags, serial = data[place + 5], data[place + 14 : place + 18]
        granule = int.from_bytes(data[place + 6 : place + 14], "little", signed=True)
        body = place + 27 + data[place + 26]
        size = body - place + sum(data[place + 27 : body])
        cut = place + size > len(data)
        if cut:
            break
        if flags & 2:
            if not began:
                groups.append({})
                parts.append(place)
            groups[-1][serial] = _ogg_stream(data[body : body + 128])
        began = bool(flags & 2)
        if groups and (stream := groups[-1].get(serial)):
            if granule > 0:
                stream.first = granule if stream.first < 0 else stream.first
                stream.last = max(stream.last, granule)
            stream.ended = stream.ended or bool(flags & 4)
        place += size
    streams = [[one for one in group.values() if one] for group in groups]
    seconds = sum(max((one.seconds for one in group), default=0.0) for group in streams)
    open_end = bool(streams) and bool(streams[-1]) and not all(one.ended for one in streams[-1])
    started = b"OggS".startswith(data[place : place + 4]) and place < len(data)
    cut = cut or started or open_end
    return Extent("Ogg", len(data) if cut else place, cut, seconds or None, skipped, parts=tuple(parts))


def _ogg_stream(head: bytes) -> _Stream | None:
    """Of sound; None for pictures and what else Ogg may hold."""
    if head[:7] == b"\x01vorbis" and len(head) >= 16:
        return _checked(int.from_bytes(head[12:16], "little"), 0)
    if head[:8] == b"OpusHead" and len(head) >= 12:
        return _checked(48_000, int.from_bytes(head[10:12], "little"))
    if head[:5] == b"\x7fFLAC" and len(head) >= 30:
        return _checked(int.from_bytes(head[27:30], "big") >> 4, 0)
    if head[:8] == b"Speex   " and len(head) >= 40:
        return _checked(int.from_bytes(head[36:40], "little"), 0)
    return None


def _checked(rate: int, base: int) -> _Stream | None:
    return _Stream(rate, base) if rate > 0 else None


def matroska(data: bytes, check: Check) -> Extent:
    """Matroska and WebM, also live ones, whose segment and clusters have no length."""
    place, end, seen = 0, len(data), False
    while place < len(data):
        check()
        element = _element(data, place)
        if element is None:
            return Extent("Matroska or WebM", len(data), cut=True)
        kind, begin, size = element
        if kind == _EBML and seen:
            return Extent("Matroska or WebM", place)
        if kind not in _TOP:
            return Extent("Matroska or WebM", place) if seen else Extent("Matroska or WebM", len(data))
        if kind == _SEGMENT:
            seen = True
            if size is not None:
                end = begin + size
                if end > len(data):
                    return Extent("Matroska or WebM", len(data), cut=True)
                place = end
                continue
            place = begin
        elif kind == _CLUSTER and size is None:
            place = begin
            while place < len(data) and (inner := _element(data, place)) and inner[0] in _IN_CLUSTER:
                check()
                place = inner[1] + (inner[2] or 0)
        else:
            place = begin + (size or 0)
    return Extent("Matroska or WebM", min(place, len(data)), cut=place > len(data) or not seen)


_TOP = frozenset(
    {_EBML, _SEGMENT, _CLUSTER, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367}
    | {0xEC, 0xBF}
)


def _element(data: bytes, place: int) -> tuple[int, int, int | None] | None:
    """Identity, where the content begins and its size (None: left open); None where the file ends in the head."""
    first = data[place]
    width = 9 - first.bit_length()
    if width > 4 or place + width >= len(data):
        return None if place + max(width, 1) >= len(data) else (0, place, 0)
    kind = int.from_bytes(data[place : place + width], "big")
    place += width
    length = 9 - data[place].bit_length()
    if length > 8:
        return (0, place, 0)
    if place + length > len(data):
        return None
    size = int.from_bytes(data[place : place + length], "big") & ((1 << 7 * length) - 1)
    return kind, place + length, None if size == (1 << 7 * length) - 1 else size


def asf(data: bytes, check: Check) -> Extent:
    """WMA and WMV."""
    place = 0
    while place + 24 <= len(data) and data[place : place + 16] in _ASF_TOP:
        check()
        if place and data[place : place + 16] == data[:16]:
            break  # another file
        size = int.from_bytes(data[place + 16 : place + 24], "little")
        if size < 24 and data[place : place + 16] == _ASF_DATA:
            return Extent("WMA", len(data))  # live: its length was left open
        if size < 24:
            break
        place += size
    return Extent("WMA", min(place, len(data)), cut=place > len(data))


def flv(data: bytes, check: Check) -> Extent:
    place = int.from_bytes(data[5:9], "big") + 4
    while place + 15 <= len(data) and data[place] & 0x1F in (8, 9, 18) and not any(data[place + 8 : place + 11]):
        check()
        size = int.from_bytes(data[place + 1 : place + 4], "big")
        if place + 15 + size > len(data):
            return Extent("FLV", len(data), cut=True)
        place += 15 + size
    started = 0 < len(data) - place < 15 and data[place] & 0x1F in (8, 9, 18)
    return Extent("FLV", len(data) if started else min(place, len(data)), cut=started)
