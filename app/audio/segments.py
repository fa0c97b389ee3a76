"""Cuts of a recording longer than the encoder's window: in pauses, with long silence left out.

Service, command line and training share this code. The same samples give the same cuts.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.audio.files import Samples
from app.audio.levels import SILENT_DBFS
from app.audio.voice_activity import FRAME, RATE, speech_probabilities

FRAMES_PER_SECOND = RATE / FRAME
_BLOCK = 2048 * FRAME  # samples whose levels are taken at a time; bounds memory
SPEECH = 0.35  # probability from which a frame counts as speech; Silero's own threshold for its end
LONG_SILENCE_S = 5.0  # skipped between sounds
EDGE_SILENCE_S = 1.0  # skipped at the beginning and the end
PAD_S = 0.3  # of a skipped silence that stays beside the sound
OVERLAP_S = 2.0  # in both clips where no pause is in reach; longer than a word
_SHORTEST_S = 1.0  # of a part of what is cut
# This far below the speech (its 95th percentile), a steady sound is background; a tone only from farther below. The
# floor of the human recordings in tests/ lies 28 to 44 dB below their speech.
_BELOW_DB, _FAR_BELOW_DB = 27.0, 40.0
_TONE_DB = 8.5  # over the spectrum beside it; brown noise reaches 7.2
_TONE_S = 0.5  # shorter ones are events
_SURROUNDINGS_S = 3.0  # with which an event is compared
_GROUP = 4  # frames that are judged together
_FLOOR_DB = -90.0  # levels below it count as equal: the last bit of 16
_SPEECH_DBFS = -12.0  # the loudest frame of ordinary speech
_PAUSE_S = 0.1  # shorter ones lie inside words
_GOOD_PAUSE_S = 0.5  # longer ones are no better
_QUIETEST_DB = 8.0  # within a pause, over its quietest frame; a word may end too faintly to count as speech
# Costs of a cut, in clips: in the middle of a good pause it is free; nearer than 0.1 s to its edge one more clip is
# better, and four more are better than a cut in speech.
_NEAR_SPEECH, _LOUD, _NO_PAUSE = 1.6, 0.3, 4.0

Levels = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Span:
    """A part of a recording, in samples."""

    start: int
    end: int


@dataclass(frozen=True)
class Cut:
    """``spans``: one per clip, in order. ``skipped``: the silences in none of them.

    ``forced``: samples at which it was cut for want of a pause.
    """

    spans: tuple[Span, ...]
    skipped: tuple[Span, ...] = ()
    forced: tuple[int, ...] = ()


@dataclass(frozen=True)
class Activity:
    """Per frame: ``level`` in dBFS, ``bright``: the level without low frequencies, ``speech``: voice activity."""

    level: Levels
    bright: Levels
    speech: Flags

    @property
    def loud(self) -> float:
        """The reference level, dBFS: of the speech (95th percentile), else of the loudest frame."""
        return float(np.percentile(self.level[self.speech], 95) if self.has_speech else self.level.max(initial=-200.0))

    @property
    def has_speech(self) -> bool:
        return int(self.speech.sum()) >= 0.25 * FRAMES_PER_SECOND

    @property
    def silent(self) -> bool:
        """True if there is no speech, and no frame louder than silence."""
        return not self.has_speech and bool((self.level < SILENT_DBFS).all())


def cut(samples: Samples, window: int, *, transcript: bool = False) -> Cut:
    """Spans of at most ``window`` samples of a recording [n] at 16 kHz that hold all sound in it.

    A recording that fits is one span. Cuts lie in pauses; without a pause in reach, at the quietest place. A silent
    recording gives its first window. With ``transcript``, for spans that are transcribed one by one, the span after a
    cut outside a pause begins 2 s earlier, and a silent recording has no span. Blocking.
    """
    if len(samples) <= window:
        return Cut((Span(0, len(samples)),))
    activity = detect_activity(samples)
    if activity.silent:
        kept = 0 if transcript else window
        return Cut((Span(0, kept),) if kept else (), (Span(kept, len(samples)),))
    return _around_silences(samples, activity, window, min(int(OVERLAP_S * RATE), window // 4) if transcript else 0)


def warm_up() -> None:
    """Load everything that a cut needs, for a process that can open no file later."""
    samples = np.sin(np.arange(20 * RATE, dtype=np.float32))
    samples[8 * RATE :] *= np.float32(0.03)
    found = detect_activity(samples)
    speech = np.arange(len(found.level)) < 8 * FRAMES_PER_SECOND
    _around_silences(samples, Activity(found.level, found.bright, speech), 4 * RATE, RATE)


def _around_silences(samples: Samples, activity: Activity, window: int, overlap: int) -> Cut:
    """Spans between silences; a span after a cut in speech begins ``overlap`` samples before the cut."""
    skipped, costs = _silences(samples, activity), _costs(activity)
    edges = [0, *(edge for silence in skipped for edge in (silence.start, silence.end)), len(samples)]
    spans: list[Span] = []
    forced: list[int] = []
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        begin = start
        for frame in _places(activity, costs, Span(start, end), window, overlap):
            place = frame * FRAME + FRAME // 2
            spans.append(Span(begin, place))
            begin = place - overlap * bool(activity.speech[frame])
            forced += [place] * bool(activity.speech[frame])
        if start < end:
            spans.append(Span(begin, end))
    return Cut(tuple(spans), tuple(skipped), tuple(forced))


def is_silent(samples: Samples) -> bool:
    """True if samples [n] at 16 kHz hold no speech and nothing louder than silence. Blocking."""
    return detect_activity(samples).silent


def detect_activity(samples: Samples) -> Activity:
    """Levels and voice activity of samples [n] at 16 kHz, whose gain does not matter: quiet ones are raised first."""
    level = _levels(samples)
    gain = 10 ** (min(max(0.0, _SPEECH_DBFS - float(level.max(initial=_FLOOR_DB))), 60.0) / 20)
    speech = speech_probabilities(samples, gain) >= SPEECH
    for start, end in _runs(~speech):
        if start > 0 and end < len(speech) and (end - start) < _PAUSE_S * FRAMES_PER_SECOND:
            speech[start:end] = True
    return Activity(level, _levels(np.diff(samples, prepend=samples[:1])), speech)


def _levels(samples: Samples) -> Levels:
    """Root mean square of each frame around its mean, in dBFS; the last frame may be short."""
    blocks = [samples[first : first + _BLOCK] for first in range(0, len(samples), _BLOCK)]
    return np.concatenate([_levels_of(block) for block in blocks])


def _levels_of(samples: Samples) -> Levels:
    starts = np.arange(0, len(samples), FRAME)
    counts = np.diff(starts, append=len(samples))
    mean = np.add.reduceat(samples, starts, dtype=np.float64) / counts
    square = np.add.reduceat(np.square(samples, dtype=np.float64), starts) / counts
    levels: Levels = 10 * np.log10(np.maximum(square - np.square(mean), 0) + 1e-20)
    return levels


def _silences(samples: Samples, activity: Activity) -> list[Span]:
    """Long stretches without events and far below the reference level, less a pad on either side."""
    below = activity.loud - _BELOW_DB if activity.has_speech else min(activity.loud - _FAR_BELOW_DB, SILENT_DBFS)
    quiet = ~activity.speech & (activity.level <= below)
    quiet &= ~_standing_out(activity.bright, 6.0) & ~_standing_out(activity.level, 12.0)  # rumble sways by itself
    found, pad = [], int(PAD_S * RATE)
    for first, last in (_settled(activity, *run) for run in _runs(quiet)):
        start, end = first * FRAME, min(last * FRAME, len(samples))
        at_edge = start == 0 or end == len(samples)
        if end - start < RATE * (EDGE_SILENCE_S if at_edge else LONG_SILENCE_S):
            continue
        skipped = Span(start + pad * (start > 0), end - pad * (end < len(samples)))
        frames = np.arange(-(-skipped.start // FRAME), skipped.end // FRAME)
        audible = frames[activity.level[frames] > activity.loud - _FAR_BELOW_DB]
        if len(audible) < _TONE_S * FRAMES_PER_SECOND or not _has_tone(samples, audible):
            found.append(skipped)
    return found


def _settled(activity: Activity, first: int, last: int) -> tuple[int, int]:
    """A quiet stretch less the fades at its ends, of half a second at most, which are too faint to count as speech."""
    fading = np.zeros(last - first, bool)
    for level in (activity.level[first:last], activity.bright[first:last]):
        fading |= np.maximum(level, _FLOOR_DB) > max(np.median(level), _FLOOR_DB) + 6.0
    most = int(0.5 * FRAMES_PER_SECOND)
    begins, ends = np.flatnonzero(fading[:most]), np.flatnonzero(fading[::-1][:most])
    return first + int(begins.max(initial=-1)) + 1, last - int(ends.max(initial=-1)) - 1


def _standing_out(level: Levels, by: float) -> Flags:
    """Frames ``by`` dB louder than the median of their surroundings: a knock, a bird, a step."""
    count = -(-len(level) // _GROUP)
    floored = np.maximum(np.pad(level, (0, count * _GROUP - len(level)), mode="edge"), _FLOOR_DB)
    loudest = floored.reshape(count, _GROUP).max(axis=1)
    half = int(_SURROUNDINGS_S * FRAMES_PER_SECOND / _GROUP / 2)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(loudest, half, mode="symmetric"), 2 * half + 1)
    stands_out: Flags = np.repeat(loudest > np.median(around, axis=1) + by, _GROUP)[: len(level)]
    return stands_out


def _has_tone(samples: Samples, frames: npt.NDArray[np.intp]) -> bool:
    """True if the spectrum of these whole frames has a peak: a beep, a note; noise of any colour has none."""
    parts = samples[frames[:, None] * FRAME + np.arange(FRAME)]
    power = (np.abs(np.fft.rfft(parts * np.hanning(FRAME), axis=1)) ** 2).mean(axis=0)
    level = 10 * np.log10(power + 1e-20)[4:]  # from 125 Hz: mains hum is background
    beside = np.lib.stride_tricks.sliding_window_view(np.pad(level, 8, mode="symmetric"), 17)
    return bool((level - np.median(beside, axis=1)).max() > _TONE_DB)


def _costs(activity: Activity) -> Levels:
    """The cost of a cut in each frame, in clips: least in the middle of a pause, most in speech."""
    level = 10 * np.log10(np.convolve(10 ** (activity.level / 10), np.ones(5) / 5, mode="same") + 1e-20)
    costs = _LOUD * np.clip((level - activity.loud) / _FAR_BELOW_DB + 1, 0, 1)
    costs += np.where(activity.speech, _NO_PAUSE, _NEAR_SPEECH)
    quiet = np.zeros(len(level), bool)
    for start, end in _runs(~activity.speech):
        quiet[start:end] = level[start:end] <= level[start:end].min() + _QUIETEST_DB
    for start, end in _runs(quiet):
        frames = np.arange(start, end)
        distance = (np.minimum(frames - start, end - 1 - frames) + 0.5) / FRAMES_PER_SECOND
        costs[start:end] -= _NEAR_SPEECH * np.clip(2 * distance / _GOOD_PAUSE_S, 0, 1)
    return costs


def _places(activity: Activity, costs: Levels, whole: Span, window: int, overlap: int) -> list[int]:
    """The frames in whose middle ``whole`` is cut into parts that fit, at the least sum of clips and costs.

    A part after a cut in speech begins ``overlap`` samples before the cut. Shortest paths, one frame after the other.
    """
    if whole.end - whole.start <= window:
        return []
    shortest = min(int(_SHORTEST_S * RATE), window // 4)
    first, last = -(-whole.start // FRAME), whole.end // FRAME
    at = np.concatenate([[whole.start], np.arange(first, last) * FRAME + FRAME // 2, [whole.end]])
    begins = at - overlap * np.concatenate([[False], activity.speech[first:last], [False]])
    cost = 1 + np.concatenate([[0.0], costs[first:last], [0.0]])
    lows, highs = np.searchsorted(at, at - window), np.searchsorted(at, at - shortest, side="right")
    best, before = np.full(len(at), np.inf), np.zeros(len(at), np.intp)
    best[0] = 0
    for here in range(1, len(at)):
        low, high = lows[here], highs[here]
        if low < high:
            reached = np.where(at[here] - begins[low:high] <= window, best[low:high], np.inf)
            before[here] = low + reached.argmin()
            best[here] = reached.min() + cost[here]
    chosen, place = [], int(before[-1])
    while place:
        chosen.append(first + place - 1)
        place = int(before[place])
    return chosen[::-1]


def _runs(flags: Flags) -> Iterator[tuple[int, int]]:
    """[start, end) of each stretch of true values."""
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
