"""A long recording's windows: each is transcribed by a generation of its own, and their texts are joined in order.

Where two windows overlap, their texts are joined at the words that both have.
"""

import zlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest

from app.api.audio_input import DecodedAudio
from app.api.openai.joining import Joined, seam
from app.api.schemas.openai.transcription_response import Segment
from app.api.streaming import Generation
from app.engine.request import Done, Token

FRAMES_PER_SECOND = 100  # the unit of `seek`
Transcript = tuple[list[Token], Done]


@dataclass(frozen=True)
class Window:
    """One clip's part of the recording in seconds, and the generation that transcribes it.

    ``overlaps``: its audio begins with the end of the window before; each gets half of the time.
    """

    start: float
    end: float
    overlaps: bool
    generation: Generation


def times_of(audio: DecodedAudio) -> list[tuple[float, float, bool]]:
    """Start and end of each window in seconds, in order and disjoint; true where it overlaps the window before."""
    segments = audio.receipts[0].segments
    meets = [(one.end + other.start) / 2 if other.start < one.end else None for one, other in pairwise(segments)]
    starts, ends = [None, *meets], [*meets, None]
    return [
        (segment.start if start is None else start, segment.end if end is None else end, start is not None)
        for segment, start, end in zip(segments, starts, ends, strict=False)
    ]


def segments_of(windows: Sequence[Window], transcripts: Sequence[Transcript], temperature: float) -> list[Segment]:
    """One segment per window, without the words that the window before has as well."""
    texts = [done.text for _, done in transcripts]
    starts, ends, marks = [0] * len(texts), [len(text) for text in texts], [""] * len(texts)
    for number, window in enumerate(windows):
        if window.overlaps:
            before = number - 1
            found = seam(texts[before][starts[before] :], texts[number])
            ends[before], marks[before], starts[number] = starts[before] + found.end, found.marks, found.start
    return [
        _segment(number, window, text[start:end] + mark, _between(tokens, text, start, end), temperature)
        for number, (window, (tokens, _), text, start, end, mark) in enumerate(
            zip(windows, transcripts, texts, starts, ends, marks, strict=True)
        )
    ]


async def joined_deltas(windows: Sequence[Window], ends: list[Done]) -> AsyncIterator[str]:
    """Pieces of the whole text as they come; ``ends`` receives the end of each window."""
    joined = Joined()
    async for begins, piece in _pieces(windows, ends):
        if begins:
            joined.next_window()
        if delta := joined.push(piece):
            yield delta


async def _pieces(windows: Sequence[Window], ends: list[Done]) -> AsyncIterator[tuple[bool, str]]:
    """Text as it comes, with True at the beginning of a window.

    A window that overlaps another comes in one piece, once it is known where their texts meet.
    """
    before = ""
    for window, later in zip_longest(windows, windows[1:]):
        overlapped = later is not None and later.overlaps
        if not window.overlaps and not overlapped:
            begins = True
            async for event in window.generation.events():
                if isinstance(event, Done):
                    ends.append(event)
                else:
                    yield begins, event.text
                    begins = False
            continue
        ends.append(await window.generation.done())
        text = ends[-1].text
        if window.overlaps:
            found = seam(before, text)
            yield True, before[: found.end] + found.marks
            text = text[found.start :]
        before = text
        if not overlapped:
            yield True, text


def _between(tokens: Sequence[Token], text: str, start: int, end: int) -> list[Token]:
    """The tokens of a text that have a part between two of its characters."""
    kept, place = [], 0
    for token in tokens:
        after = place + len(token.text)
        if (after > start or start == 0) and (place < end or end == len(text)):
            kept.append(token)
        place = after
    return kept


def _segment(number: int, window: Window, text: str, tokens: Sequence[Token], temperature: float) -> Segment:
    logprobs = [token.logprobs.chosen for token in tokens if token.logprobs]
    data = text.encode()
    return Segment(
        id=number,
        seek=round(window.start * FRAMES_PER_SECOND),
        start=round(window.start, 3),
        end=round(window.end, 3),
        text=text,
        tokens=[token.id for token in tokens if token.id is not None],
        temperature=temperature,
        avg_logprob=sum(logprobs) / len(logprobs) if logprobs else 0.0,
        compression_ratio=len(data) / len(zlib.compress(data)),
    )
