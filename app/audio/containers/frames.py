"""Streams of frames without a container: mp3 and its kin, AAC in ADTS, AMR, FLAC, MPEG transport streams."""

from collections.abc import Callable

from app.audio.containers.extent import Check, Extent, rest_of, tag_at

Frame = tuple[int, float]  # length in bytes, seconds
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_KBITS = {
    (True, 3): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 1): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 3): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 1): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_SEARCHED = 1 << 16  # bytes in which a stream begins
_ADTS_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)
_AC3_KBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
_AMR = (13, 14, 16, 18, 20, 21, 27, 32, 6, 0, 0, 0, 0, 0, 0, 1)
_AMR_WB = (18, 24, 33, 37, 41, 47, 51, 59, 61, 6, 0, 0, 0, 0, 1, 1)


def mpeg_frame(data: bytes, place: int) -> Frame | None:
    """The MPEG audio frame (layer 1 to 3) whose header stands at ``place``."""
    head = data[place : place + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    bits, rate = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or not layer or rate == 3 or not 0 < bits < 15:
        return None
    first = version == 3
    hertz, kbits = _RATES[version][rate], _KBITS[first, layer][bits - 1]
    padding = head[2] >> 1 & 1
    if layer == 3:
        return (12_000 * kbits // hertz + padding) * 4, 384 / hertz
    samples = 1152 if first or layer == 2 else 576
    return samples * 125 * kbits // hertz + padding, samples / hertz


def adts_frame(data: bytes, place: int) -> Frame | None:
    head = data[place : place + 7]
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 > 12:
        return None
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return (length, 1024 * ((head[6] & 3) + 1) / _ADTS_RATES[head[2] >> 2 & 15]) if length >= 7 else None


def ac3_frame(data: bytes, place: int) -> Frame | None:
    """AC-3 and E-AC-3."""
    head = data[place : place + 6]
    if len(head) < 6 or head[:2] != b"\x0b\x77":
        return None
    kind, code = head[4] >> 6, head[4] & 63
    if head[5] >> 3 > 10:
        blocks = 6 if kind == 3 else (1, 2, 3, 6)[head[4] >> 4 & 3]
        rate = (48_000, 44_100, 32_000, 24_000)[kind]
        return 2 * (((head[2] & 7) << 8 | head[3]) + 1), 256 * blocks / rate
    if kind == 3 or code > 37:
        return None
    kbits, rate = _AC3_KBITS[code // 2], (48_000, 44_100, 32_000)[kind]
    words = 1536 * 1000 * kbits // rate // 16 + (code & 1 if kind == 1 else 0)
    return 2 * words, 1536 / rate


def frames(
    data: bytes, name: str, frame_at: Callable[[bytes, int], Frame | None], check: Check, sync: bytes = b"\xff"
) -> Extent | None:
    """The extent of a stream of frames, tags between them; None where no two frames follow each other."""
    if (first := frame_at(data, 0)) and first[0] > len(data):
        return Extent(name, len(data), cut=True)
    place, skipped, count = _Search(data[:_SEARCHED], frame_at, sync, check).next(0), 0, 0
    if place < 0:
        return None
    seconds, cut, declared = 0.0, False, 0
    parts, torn = list[int](), True
    search = _Search(data, frame_at, sync, check)
    while place < len(data):
        check()
        if frame := frame_at(data, place):
            length, lasts = frame
            if torn and name != "MP3":  # FFmpeg ends such streams at a tag
                parts.append(place)
            torn = False
            cut = place + length > len(data)
            if not cut:
                frames = _xing_frames(data, place, length) if name == "MP3" else None
                if frames is not None:
                    declared += frames
                else:
                    count, seconds = count + 1, seconds + lasts
            place += length
        elif length := tag_at(data, place):
            place, torn = place + length, True
        elif len(data) - place < 4 and count:
            cut = cut or data[place : place + 1] == sync
            break
        else:
            found = search.next(place + 1)
            if found < 0 and (not count or skipped > place // 2):
                return None
            if found < 0:
                return Extent(
                    name, place if rest_of(data, place, check) else len(data), cut, seconds, skipped, parts=tuple(parts)
                )
            skipped += found - place if count and data[place:found].strip(b"\0") else 0
            place = found
    if not count or skipped > len(data) // 2:
        return None
    return Extent(name, len(data), cut or count < declared, seconds, skipped, parts=tuple(parts))


class _Search:
    """Looks for the next frame in a stream with other bytes between its frames."""

    def __init__(self, data: bytes, frame_at: Callable[[bytes, int], Frame | None], sync: bytes, check: Check) -> None:
        self._data, self._frame_at, self._sync, self._check = data, frame_at, sync, check
        self._tag = data.find(b"ID3")

    def next(self, place: int) -> int:
        """Where the next frame stands that another, a tag or the end follows; -1 where there is none.

        ``place`` never runs backwards from one call to the next.
        """
        data = self._data
        while True:
            self._check()
            if 0 <= self._tag < place:  # found once, not at every turn: each search may go to the end of the file
                self._tag = data.find(b"ID3", place)
            tag = self._tag
            place = data.find(self._sync, place)
            if tag >= 0 and (tag < place or place < 0) and tag_at(data, tag):
                return tag
            if place < 0:
                return -1
            if frame := self._frame_at(data, place):
                after = place + frame[0]
                if after >= len(data) or self._frame_at(data, after) or tag_at(data, after):
                    return place
            place += 1


def _xing_frames(data: bytes, place: int, length: int) -> int | None:
    """The number of frames that a Xing, Info or VBRI header states; None for a frame of sound."""
    body = data[place : place + min(length, 256)]
    for mark in (b"Xing", b"Info"):
        at = body.find(mark, 0, 48)
        if at >= 0 and not any(body[4:at].strip(b"\0")[2:]):
            return int.from_bytes(body[at + 8 : at + 12], "big") if body[at + 7 : at + 8] and body[at + 7] & 1 else 0
    if body[36:40] == b"VBRI":
        return int.from_bytes(body[50:54], "big")
    return None


def amr(data: bytes, check: Check) -> Extent:
    wide = data[:9] == b"#!AMR-WB\n"
    place, count = (9 if wide else 6), 0
    sizes = _AMR_WB if wide else _AMR
    padded = len(data.rstrip(b"\0"))  # zeros would count as frames
    while place < padded:
        check()
        size = sizes[data[place] >> 3 & 15]
        if not size or data[place] & 0x83:
            break
        count += place + size <= len(data)
        place += size
    return Extent("AMR", min(place, len(data)), place > len(data), 0.02 * count)


def flac(data: bytes, check: Check) -> Extent:
    """Native FLAC; several, one after another, count as one."""
    mark = b"fLaC\0\0\0\x22"
    seconds: float | None = 0.0
    place, parts = 0, list[int]()
    while place >= 0:
        check()
        parts.append(place)
        info = data[place + 8 : place + 42]
        rate = int.from_bytes(info[10:13], "big") >> 4
        total = int.from_bytes(info[13:18], "big") & 0xF_FFFF_FFFF
        seconds = seconds + total / rate if seconds is not None and total and rate else None
        place = data.find(mark, place + 42)
    end = len(data.rstrip(b"\0"))
    return Extent("FLAC", end if len(data) - end > 64 else len(data), len(data) < 42, seconds, parts=tuple(parts))


def transport(data: bytes, check: Check) -> Extent:
    """MPEG-TS in packets of 188 bytes, or 192 and 204 with time codes and checks."""
    for size, lead in ((188, 0), (192, 4), (204, 0)):
        if all(data[at : at + 1] in (b"\x47", b"") for at in range(lead, min(len(data), size * 20), size)):
            last = len(data) // size * size
            while last > size and data[last - size + lead] != 0x47:
                check()
                last -= size
            started = data[last + lead : last + lead + 1] == b"\x47"
            cut = started or _unfinished(data, last, size, lead)
            return Extent("MPEG-TS", len(data) if started else last, cut)
    return Extent("MPEG-TS", len(data))


def _unfinished(data: bytes, end: int, size: int, lead: int) -> bool:
    """True if the last packet of a stream declares more bytes than follow. Looks at the last 4096 packets."""
    missing: dict[int, int] = {}
    for place in range(max(0, end - 4096 * size) + lead, end, size):
        start, adaptation = data[place + 1] & 0x40, data[place + 3] >> 4 & 3
        begin = place + 4 + (1 + data[place + 4] if adaptation & 2 else 0)
        identity = (data[place + 1] & 31) << 8 | data[place + 2]
        payload = max(0, place + 188 - begin) if adaptation & 1 else 0
        if start and data[begin : begin + 3] == b"\0\0\1":
            length = int.from_bytes(data[begin + 4 : begin + 6], "big")
            missing[identity] = 6 + length if length else 0
        missing[identity] = missing.get(identity, 0) - payload
    return any(left > 0 for left in missing.values())


def program(data: bytes, check: Check) -> Extent:
    """MPEG-PS: packs and packets, of which all but pack headers carry their length."""
    place = 0
    while place + 4 <= len(data) and data[place : place + 3] == b"\0\0\1" and data[place + 3] >= 0xB9:
        check()
        kind = data[place + 3]
        if kind == 0xB9:
            place += 4
        elif kind == 0xBA:
            second = data[place + 4 : place + 5] >= b"\x40"
            place += 14 + (data[place + 13] & 7 if place + 13 < len(data) else 0) if second else 12
        else:
            place += 6 + int.from_bytes(data[place + 4 : place + 6], "big")
    started = 0 < len(data) - place < 4
    cut = place > len(data) or started
    return Extent("MPEG-PS", min(place, len(data)) if not started else len(data), cut)
