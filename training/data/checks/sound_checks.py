"""Is a recording fit to learn from? Measures of the signal alone; nothing here knows a model."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from app.audio.decode import Limits
from app.audio.files import Samples
from app.audio.pool import NoDecoder
from app.errors import OvertoneError
from training.data.decoding import decode_sound, decoders
from training.data.rows import Row, Sound

SHORT_SECONDS = 0.2
CLIPPED_SHARE = 0.01

# Steady noise. Levels are taken in blocks of 64 ms in seven bands, as the standard deviation over time in dB of the
# band that varies most. White, pink and brown noise of 0.5 s and more, 300 draws each: 99 % below 2.0. The human clips:
# 13.4 and more; synthetic sentences 9.4 and more, whispered ones the least; the human clips mixed with as much white
# or pink noise 3.7 and more. Recorded hiss of a record player 2.8, a 3D printer 3.9.
STEADY_DB = 2.2
# A tone is steady as well, but stands out of the spectrum beside it: brown noise by 7.2 dB (99 % of 3 s), a sine in
# as much noise by 22; and chords and hums leave most of 100-3800 Hz empty: flatness 0.00, brown noise 0.12 and more.
TONE_DB = 8.5
FLATNESS = 0.05
_NOISE_SECONDS = 30.0  # judged by its beginning
_BANDS = (100, 300, 600, 1000, 1600, 2500, 4000, 7600)  # Hz
_TELEPHONE = (100, 3800)  # Hz; what every recording can hold
_FRAME_S, _BLOCK_FRAMES = 0.032, 4  # half overlapping
_FEWEST_BLOCKS = 7  # 0.5 s; a whispered vowel alone is steady for 0.4 s
_ACTIVE = 1e-4  # blocks 40 dB below the loudest are pauses
_OCCUPIED = 1e-5  # bands 50 dB below the strongest are empty, as above 4 kHz in telephone speech
_NEIGHBOURS = 8  # bins on either side, 250 Hz


@dataclass(frozen=True)
class Measures:
    """Measures of one recording. ``sha256``: of its samples. ``clipped``: share of samples."""

    sha256: str
    seconds: float
    silent: bool
    clipped: float
    noise: bool


Measured = Mapping[Sound, Measures | str]  # or the reason why it cannot be read
Progress = Callable[[int, int], None]  # recordings done, of how many


def measure_all(rows: Sequence[Row], *, rate: int, limits: Limits, progress: Progress | None = None) -> Measured:
    """Decode every distinct recording of the rows once, several at a time, and measure it."""
    sounds = list(dict.fromkeys(sound for row in rows for sound in row.sounds))
    measure_one = partial(measure, rate=rate, limits=limits)
    measured: dict[Sound, Measures | str] = {}
    workers = decoders()
    with ThreadPoolExecutor(workers) as pool:
        for first in range(0, len(sounds), 8 * workers):  # few at once, so that an interrupt need not wait for all
            some = sounds[first : first + 8 * workers]
            for sound, result in zip(some, pool.map(measure_one, some), strict=True):
                measured[sound] = result
                if progress:
                    progress(len(measured), len(sounds))
    return measured


def audio_key(row: Row, measured: Measured) -> tuple[str, ...]:
    """Hashes of a row's recordings; a recording that cannot be read counts by its name."""
    found = [(sound, measured[sound]) for sound in row.sounds]
    return tuple(sound.name if isinstance(one, str) else one.sha256 for sound, one in found)


def measure(sound: Sound, *, rate: int, limits: Limits) -> Measures | str:
    """Measure one recording; the reason where it cannot be read. Raises NoDecoder."""
    try:
        recording = decode_sound(sound, rate=rate, limits=limits)
    except NoDecoder:
        raise
    except OvertoneError as error:
        return str(error)
    except OSError as error:
        return f"The file cannot be read ({error.strerror or error})."
    receipt = recording.receipt
    noise = not receipt.silent and is_noise(recording.samples, rate)
    return Measures(recording.sha256, receipt.seconds, receipt.silent, receipt.clipped, noise)


def is_noise(samples: Samples, rate: int) -> bool:
    """True if samples [n] are steady noise of any colour: no event in time, no tone in the spectrum.

    Speech in noise, whispering, music and single sounds are none; steady rain and a fan are.
    Sounds of less than 0.5 s between pauses are not judged. At least 32 ms are wanted.
    """
    power, frequency = _spectrogram(samples[: int(_NOISE_SECONDS * rate)], rate)
    total = power.sum(axis=1)
    if not total.any():
        return False
    active = np.pad(total > total.max() * _ACTIVE, 1, constant_values=True)
    power = power[active[:-2] & active[1:-1] & active[2:]]  # a block beside a pause may hold a part of it
    if len(power) < _FEWEST_BLOCKS or _modulation(power, frequency) > STEADY_DB:
        return False
    spectrum = power.mean(axis=0)[_within(frequency, *_TELEPHONE)]
    return _flatness(spectrum) > FLATNESS and _prominence(spectrum) < TONE_DB


def _spectrogram(samples: Samples, rate: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Power [blocks, bins] and each bin's frequency in Hz."""
    size = int(_FRAME_S * rate)
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[:: size // 2]
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2
    whole = len(power) // _BLOCK_FRAMES * _BLOCK_FRAMES
    blocks = power[:whole].reshape(-1, _BLOCK_FRAMES, power.shape[1]).mean(axis=1)
    return blocks, np.fft.rfftfreq(size, 1 / rate)


def _modulation(power: npt.NDArray[Any], frequency: npt.NDArray[Any]) -> float:
    """Standard deviation over time of the band that varies most, dB."""
    bands = np.stack([power[:, _within(frequency, low, high)].sum(axis=1) for low, high in pairwise(_BANDS)], axis=1)
    level = bands.mean(axis=0)
    occupied = bands[:, level > level.max() * _OCCUPIED]
    return float(_db(occupied).std(axis=0).max(initial=0))


def _flatness(spectrum: npt.NDArray[Any]) -> float:
    """Geometric over arithmetic mean: 1 for white noise, 0 for a tone."""
    return float(np.exp(np.log(spectrum + 1e-20).mean()) / (spectrum.mean() + 1e-20))


def _prominence(spectrum: npt.NDArray[Any]) -> float:
    """Height of the highest peak over the median of its neighbours, dB."""
    padded = np.pad(spectrum, _NEIGHBOURS, mode="constant", constant_values=np.nan)
    beside = np.nanmedian(np.lib.stride_tricks.sliding_window_view(padded, 2 * _NEIGHBOURS + 1), axis=1)
    return float((_db(spectrum) - _db(beside)).max())


def _within(frequency: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[Any]:
    return (frequency >= low) & (frequency < high)


def _db(power: npt.NDArray[Any]) -> npt.NDArray[Any]:
    levels: npt.NDArray[Any] = 10 * np.log10(power + 1e-20)
    return levels
