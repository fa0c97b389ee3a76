"""Blocks of one track to mono samples at the model's rate. Memory is bounded by the limit of seconds."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from app.audio.files import BLOCK_SAMPLES, Block, Clock, Samples, Source
from app.audio.levels import Levels, Verdict, Weights, dbfs
from app.errors import AudioError, TooLarge

LOUDEST = 1e10  # beyond any integer scale exported as float; larger samples are damage, and would overflow


@dataclass(frozen=True)
class DecodedTrack:
    """One decoded track. ``mono`` [n] at the model's rate; one verdict per segment of equal rate and channels.

    ``sample_rate`` (Hz) and ``channels``: of the first segment. ``offset``: the largest mean that was removed.
    ``mixes``: weights of the channels in each segment, where the plain mean cancels them.
    """

    source: Source
    mono: Samples
    sample_rate: int
    channels: int
    seconds: float
    verdicts: tuple[Verdict, ...]
    rms_dbfs: float
    offset: float
    mixes: tuple[Weights | None, ...]

    @property
    def silent(self) -> bool:
        return all(one.silent for one in self.verdicts)


class _Segment:
    """Blocks of one rate and one number of channels."""

    def __init__(self, source: Source, rate: int, channels: int, to_rate: int, weights: Weights | None) -> None:
        if weights is not None and len(weights) != channels:
            weights = None
        self.rate, self.channels = rate, channels
        self.levels = Levels(rate, channels, full_scale=source.full_scale, floating=source.floating, weights=weights)
        self._resample = _resampler(rate, to_rate)
        self._parts: list[Samples] = []

    def add(self, block: Samples, peak: float) -> None:
        self._parts.append(self._resample(self.levels.add(block, peak), False))

    def end(self) -> tuple[Samples, Verdict]:
        """Mono samples at full scale 1, without an offset."""
        last = self._resample(np.zeros(0, np.float32), True)
        mono = _together([*self._parts, last])
        self._parts.clear()
        verdict = self.levels.verdict()
        if verdict.scale != 1:
            mono = mono * np.float32(verdict.scale)
        if verdict.offset:
            mono = mono - np.float32(verdict.offset)
        return mono, verdict


def decode_track(
    opener: Callable[[], Source | None], rate: int, max_seconds: float, clock: Clock, named: str, *, whole: bool = True
) -> DecodedTrack | None:
    """Decode the track that ``opener`` returns, which may hold no sample; None where it returns none.

    The track is decoded again with other weights where the mean of its channels cancels them. ``named``: the file's
    name in brackets, for messages. ``whole``: the file is not cut off, so the length in its header is right. Raises
    AudioError or TooLarge.
    """
    mixes: Sequence[Weights | None] = ()
    while True:
        source = opener()
        clock.check()  # the libraries hide an error that is raised inside a read
        if source is None:
            return None
        if whole and (source.declared or 0) > max_seconds:
            raise _too_long(max_seconds, named)
        decoded = _collect(source, rate, max_seconds, clock, named, mixes)
        again = [verdict.again for verdict in decoded.verdicts]
        if all(one is None for one in again):
            return decoded
        mixes = [new if new is not None else old for new, old in zip(again, decoded.mixes, strict=True)]


def _collect(
    source: Source, rate: int, max_seconds: float, clock: Clock, named: str, mixes: Sequence[Weights | None]
) -> DecodedTrack:
    segments: list[_Segment] = []
    done: list[tuple[Samples, Verdict]] = []
    used: list[Weights | None] = []
    segment: _Segment | None = None
    seconds = 0.0
    for block_rate, block in joined(source.blocks):
        clock.check()
        peak = max(float(block.max(initial=0)), -float(block.min(initial=0)))
        if not peak <= LOUDEST:  # NaN compares false
            raise AudioError(f"The audio{named} holds samples that are not numbers (NaN or infinite); export it again.")
        if segment is None or (segment.rate, segment.channels) != (block_rate, block.shape[1]):
            if segment:
                done.append(segment.end())
            weights = mixes[len(used)] if len(used) < len(mixes) else None
            segment = _Segment(source, block_rate, block.shape[1], rate, weights)
            segments.append(segment)
            used.append(weights)
        segment.add(block, peak)
        seconds += len(block) / block_rate
        if seconds > max_seconds:
            raise _too_long(max_seconds, named)
    clock.check()
    if segment:
        done.append(segment.end())
    verdicts = tuple(verdict for _, verdict in done)
    frames = sum(one.levels.frames for one in segments)
    squares = sum(verdict.power * one.levels.frames for verdict, one in zip(verdicts, segments, strict=True))
    return DecodedTrack(
        source=source,
        mono=_together([wave for wave, _ in done]),
        sample_rate=segments[0].rate if segments else source.sample_rate,
        channels=segments[0].channels if segments else source.channels,
        seconds=seconds,
        verdicts=verdicts,
        rms_dbfs=dbfs(squares / max(1, frames)),
        offset=max((verdict.offset for verdict in verdicts), key=abs, default=0.0),
        mixes=tuple(used),
    )


def _together(parts: Sequence[Samples]) -> Samples:
    """The parts as one array; the only part that is not empty is not copied."""
    full = [part for part in parts if len(part)]
    return full[0] if len(full) == 1 else np.concatenate([*full, np.zeros(0, np.float32)])


def _too_long(max_seconds: float, named: str) -> TooLarge:
    return TooLarge(f"The audio{named} lasts longer than {max_seconds:g} s; send it in parts.")


def joined(blocks: Iterator[Block]) -> Iterator[Block]:
    """The same samples in fewer, larger blocks: each operation on a block may wait for the interpreter's lock."""
    parts: list[Samples] = []
    size, rate = 0, 0
    for block_rate, block in blocks:
        other = parts and (block_rate != rate or block.shape[1] != parts[0].shape[1])
        if parts and (other or size + block.size > BLOCK_SAMPLES):
            yield rate, np.concatenate(parts)
            parts, size = [], 0
        rate = block_rate
        parts.append(block)
        size += block.size
    if parts:
        yield rate, np.concatenate(parts)


def _resampler(source_rate: int, rate: int) -> Callable[[Samples, bool], Samples]:
    """A function of a mono block [n] and whether it is the last; it returns the samples ready at ``rate`` Hz."""
    if source_rate == rate:
        return lambda block, last: block
    import soxr

    stream = soxr.ResampleStream(source_rate, rate, 1, dtype="float32", quality="HQ")
    return lambda block, last: stream.resample_chunk(block, last=last)
