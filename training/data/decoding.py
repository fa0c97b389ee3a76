"""A row's recording as samples: the whole file, or the part that the row means."""

import io
from functools import lru_cache
from pathlib import Path

from app.audio.decode import Limits, Recording, decode
from app.errors import AudioError
from training.data.rows import Sound

SLACK_SECONDS = 0.1  # by which a part may end after its recording: times are rounded


def decode_sound(sound: Sound, *, rate: int, limits: Limits) -> Recording:
    """Mono samples at ``rate`` Hz. Raises OSError, and AudioError or TooLarge as `decode` does.

    A part that lies beyond the recording's end is an AudioError: its times may be in another unit than seconds.
    """
    if sound.start is None and sound.end is None:
        return decode(sound.read(), rate=rate, limits=limits, filename=sound.name)
    if sound.path is not None and sound.data is None:
        whole = _whole(sound.path, sound.path.stat().st_mtime_ns, rate, limits)
    else:
        whole = decode(sound.read(), rate=rate, limits=limits, filename=sound.name)
    seconds = len(whole.samples) / rate
    start, end = sound.start or 0.0, seconds if sound.end is None else sound.end
    if start >= seconds or end > seconds + SLACK_SECONDS:
        raise AudioError(
            f"The part from {start:g} s to {end:g} s lies beyond the end of {sound.name[:80]!r} ({seconds:.2f} s); "
            "start and end are seconds (start_ms and end_ms: milliseconds). Remove them where the file is the part "
            "already."
        )
    part = whole.samples[round(start * rate) : round(end * rate)]
    memory = io.BytesIO()
    import soundfile

    soundfile.write(memory, part, rate, format="WAV", subtype="FLOAT")
    return decode(memory.getvalue(), rate=rate, limits=limits, filename=sound.name)


@lru_cache(maxsize=4)
def _whole(path: Path, _modified: int, rate: int, limits: Limits) -> Recording:
    """The parts of one recording follow each other: it is decoded once for many of them."""
    return decode(path.read_bytes(), rate=rate, limits=limits, filename=path.name)
