"""Level, clipping and phase of each channel, and the mono mix that loses none of them.

A recording is mixed as the mean of its channels. Where that would cancel what they hold (a miswired cable, a balanced
signal recorded as stereo), it is mixed anew from channels that do not cancel each other.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.audio.files import FULL_SCALE, Samples

Weights = npt.NDArray[np.float32]  # [channels]

WINDOW_SECONDS = 0.1
SILENT_DBFS = -60.0  # a channel whose loudest window lies below it counts as silent
QUIET_DBFS = -45.0  # a recording whose loudest window lies below it is called very quiet
CLIPPED_SHARE = 0.001
CANCELLED = 0.25  # a window counts as cancelled where the mix has less of the power that unrelated channels would leave
DEEP = 0.01  # less than this is beyond any ordinary stereo
CANCELLED_SHARE, DEEP_SECONDS = 0.1, 0.3  # of the audible windows
AUDIBLE = 1e-4  # windows 40 dB below the loudest do not decide
OPPOSED = -0.5  # correlation of two channels of which one is left out
COMPARED_CHANNELS = 32  # pairs are compared up to so many; of more channels the loudest is used alone
OFFSET = 0.02  # a larger mean is removed
INTEGER_SCALES = (2.0**15, 2.0**23, 2.0**31)  # of samples that were written as float without being scaled
LARGEST_FLOAT = 4.0  # 12 dB above full scale: still a float recording at a high level
UNSCALED = 256.0  # float samples beyond it are integers that were never scaled


@dataclass(frozen=True)
class Verdict:
    """Levels of a whole recording, relative to full scale.

    ``divisor``: of the samples, to bring them to full scale 1. ``scale``: of the mix, also for empty channels;
    ``offset``: its mean after that, where it is removed; ``power``: mean square of what remains.
    ``loudest``: RMS of the loudest window of any channel. ``again``: weights for another mix, where this one cancels.
    """

    divisor: float
    scale: float
    offset: float
    power: float
    peak: float
    clipped: float
    loudest_dbfs: float
    silent_channels: tuple[int, ...]
    again: Weights | None

    @property
    def silent(self) -> bool:
        return self.loudest_dbfs < SILENT_DBFS


class Levels:
    """Sums over the blocks of one segment in which rate and number of channels stay the same.

    ``weights``: of the channels in the mix; the mean without any. ``floating``: samples are floats as they lie in the
    file, which some programs write in the scale of integers.
    """

    def __init__(
        self,
        rate: int,
        channels: int,
        *,
        full_scale: float = FULL_SCALE,
        floating: bool = False,
        weights: Weights | None = None,
    ) -> None:
        self.frames = 0
        self.channels = channels
        self.peak = 0.0
        self.weights = weights
        self._rate = rate
        self._floating, self._integral = floating, True
        self._limits = [full_scale, *(FULL_SCALE * scale for scale in INTEGER_SCALES if floating)]
        self._clipped = np.zeros((len(self._limits), channels), np.int64)
        self._loudest = np.zeros(channels)  # power of each channel's loudest window
        self._power = np.zeros(channels)
        self._sum = self._squares = 0.0  # of the mix
        self._opposed = np.zeros((channels, channels)) if 1 < channels <= COMPARED_CHANNELS else None
        self._windows: list[npt.NDArray[np.float64]] = []  # [windows, 3]: power of mix, unrelated channels, loudest

    def add(self, block: Samples, peak: float) -> Samples:
        """The mono mix [n] of a block [n, channels] whose largest magnitude is ``peak``."""
        self.frames += len(block)
        self.peak = max(self.peak, peak)
        if self._floating and self._integral and peak > 1:
            self._integral = bool((block == np.rint(block)).all())
        for row, limit in enumerate(self._limits):
            if peak >= limit:
                self._clipped[row] += ((block >= limit) | (block <= -limit)).sum(axis=0)
        planes = np.ascontiguousarray(block.T)  # sums over two or three neighbours are slow, sums of rows are not
        mono: Samples
        if self.channels == 1:
            mono = planes[0]
        elif self.weights is None:
            mono = planes.sum(axis=0) / np.float32(self.channels)
        else:
            mono = self.weights @ planes
        self._sum += float(mono.sum(dtype=np.float64))
        self._squares += float(np.vdot(mono, mono))
        size = max(1, round(self._rate * WINDOW_SECONDS))
        whole = len(block) // size * size
        for part in (slice(0, whole), slice(whole, len(block))):
            if part.stop > part.start:
                length = min(size, part.stop - part.start)
                self._measure(planes[:, part].reshape(self.channels, -1, length), mono[part].reshape(1, -1, length))
        return mono

    def _measure(self, planes: Samples, mono: Samples) -> None:
        """Sums over windows [channels, windows, samples] and their mix [1, windows, samples]."""
        power = _power(planes)
        self._loudest = np.maximum(self._loudest, power.max(axis=1))
        self._power += power.sum(axis=1)
        if self.channels == 1:
            return
        mix = _power(mono)[0]
        fractions = np.full(self.channels, 1 / self.channels) if self.weights is None else self.weights
        unrelated = np.square(fractions, dtype=np.float64) @ power
        self._windows.append(np.column_stack([mix, unrelated, power.max(axis=0)]))
        cancelled = np.flatnonzero(mix < CANCELLED * unrelated)
        if self._opposed is not None and len(cancelled):
            found = planes[:, cancelled].reshape(self.channels, -1)
            self._opposed += found @ found.T

    def verdict(self) -> Verdict:
        """Needs at least one block."""
        divisor = self._divisor()
        row = 0 if divisor not in INTEGER_SCALES else 1 + INTEGER_SCALES.index(divisor)
        clipped = self._clipped[row].max() / self.frames if divisor == 1 or row else 0.0
        loudest = 10 * np.log10(np.maximum(self._loudest / divisor**2, 1e-20))
        used = np.ones(self.channels, bool) if self.weights is None else self.weights != 0
        dead = (loudest < SILENT_DBFS) & used
        alive = int((used & ~dead).sum())
        scale = (float(used.sum()) / alive if alive else 1.0) / divisor
        offset = self._sum * scale / self.frames
        offset = offset if abs(offset) > OFFSET else 0.0
        return Verdict(
            divisor=divisor,
            scale=scale,
            offset=offset,
            power=max(0.0, self._squares * scale**2 / self.frames - offset**2),
            peak=self.peak / divisor,
            clipped=float(clipped),
            loudest_dbfs=float(loudest.max()),
            silent_channels=tuple(int(one) + 1 for one in np.flatnonzero(dead)) if alive else (),
            again=self._better(dead),
        )

    def _divisor(self) -> float:
        """1 for samples in the scale of floats, else what brings them there."""
        if not self._floating or self.peak <= 1:
            return 1.0
        if not self._integral:
            if self.peak <= LARGEST_FLOAT:
                return 1.0
            if self.peak <= UNSCALED:
                return self.peak
        scale = next((scale for scale in INTEGER_SCALES if self.peak <= LARGEST_FLOAT * scale), INTEGER_SCALES[-1])
        return max(scale, self.peak)

    def _better(self, dead: npt.NDArray[np.bool_]) -> Weights | None:
        """Weights of a mix that does not cancel; None where this one does not, or where nothing is left to try."""
        if self.channels == 1 or (self.weights is not None and (self.weights != 0).sum() == 1):
            return None
        mix, unrelated, best = np.concatenate(self._windows).T
        audible = best > AUDIBLE * max(float(best.max()), 1e-20)
        cancelled = audible & (mix < CANCELLED * unrelated)
        deep = audible & (mix < DEEP * unrelated)
        if cancelled.sum() < max(1.0, CANCELLED_SHARE * audible.sum()) and deep.sum() * WINDOW_SECONDS < DEEP_SECONDS:
            return None
        by_power = [int(one) for one in np.argsort(-self._power, kind="stable")]
        kept = by_power[:1]
        if self._opposed is not None and self.weights is None:
            norms = np.sqrt(np.maximum(np.diag(self._opposed), 1e-30))
            correlation = self._opposed / np.outer(norms, norms)
            for one in by_power[1:]:
                if not dead[one] and all(correlation[one, other] > OPPOSED for other in kept):
                    kept.append(one)
        weights = np.zeros(self.channels, np.float32)
        weights[kept] = 1 / len(kept)
        return weights


def _power(planes: Samples) -> npt.NDArray[np.float64]:
    """Power of windows [channels, windows, samples] around their means: [channels, windows]."""
    squares = np.einsum("cwn,cwn->cw", planes, planes).astype(np.float64) / planes.shape[2]
    means = planes.mean(axis=2, dtype=np.float32).astype(np.float64)
    power: npt.NDArray[np.float64] = np.maximum(squares - means**2, 0.0)
    return power


def dbfs(power: float) -> float:
    return 10 * math.log10(max(power, 1e-20))
