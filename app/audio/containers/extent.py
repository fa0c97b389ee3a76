"""The extent of a recording in its bytes."""

from collections.abc import Callable
from dataclasses import dataclass

Check = Callable[[], None]  # asked at every turn of a loop over bytes; raises once the time for a recording is over
_LYRICS = 1_000_100  # bytes of a Lyrics3 tag at most


def unbounded() -> None:
    """The `Check` of callers that know the bytes."""


@dataclass(frozen=True)
class Extent:
    """The facts of a container's structure, without decoding.

    ``name``: of the format. ``end``: bytes that belong to it; what follows is something else. ``cut``: the structure
    goes on beyond the file. ``seconds``: of sound that the bytes present should give. ``skipped``: bytes between the
    parts of the recording that belong to none. ``plain``: uncompressed, so that libsndfile reads it. ``index``: false
    where the file lacks the part without which nothing can be decoded. ``parts``: where each of several recordings
    that follow one another begins, if all are to be heard.
    """

    name: str
    end: int
    cut: bool = False
    seconds: float | None = None
    skipped: int = 0
    plain: bool = False
    index: bool = True
    parts: tuple[int, ...] = ()


def tag_at(data: bytes, place: int) -> int:
    """The length of a tag (ID3v1, ID3v2, APEv2, Lyrics3) that begins at ``place``; 0 where there is none."""
    head = data[place : place + 32]
    if head[:3] == b"ID3" and len(head) >= 10 and head[3] < 0xFF and not any(byte & 0x80 for byte in head[6:10]):
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        return 10 + size + (10 if head[5] & 0x10 else 0)
    if head[:3] == b"TAG" and len(data) - place >= 128:
        return 227 + 128 if head[:4] == b"TAG+" else 128
    if head[:8] == b"APETAGEX" and len(head) == 32:
        size = int.from_bytes(head[12:16], "little")  # items and footer
        return size + 32 if head[23] & 0x20 else 32  # a header counts itself, a lone footer follows its items
    if head[:11] == b"LYRICSBEGIN":
        ends = [data.find(mark, place, place + _LYRICS) for mark in (b"LYRICS200", b"LYRICSEND")]
        return min((end + 9 - place for end in ends if end > 0), default=0)
    return 0


def rest_of(data: bytes, place: int, check: Check = unbounded) -> int:
    """Number of bytes from ``place`` on that are neither tags nor zeros."""
    while place < len(data) and (length := tag_at(data, place)):
        check()
        place += length
    rest = data[place:]
    zeros = len(rest) - len(rest.lstrip(b"\0"))
    if zeros and rest[zeros:]:
        while (length := tag_at(rest, zeros)) and zeros < len(rest):
            check()
            zeros += length
    return max(0, len(rest) - zeros)
