"""Cells of tables that hold a recording: bytes, a path, or samples, as Hugging Face's `Audio` writes them."""

import io
from collections.abc import Mapping

import numpy as np

from training.data.records import BadRow, shown
from training.data.rows import Sound


def sound_of_cell(cell: Mapping[str, object]) -> Sound | str:
    """The recording in `{bytes, path}` or `{array, sampling_rate}`; the path where the cell has no more.

    Raises BadRow for a cell of another form.
    """
    path = cell.get("path")
    name = path if isinstance(path, str) and path else "audio"
    if isinstance(data := cell.get("bytes"), bytes | bytearray | memoryview):
        return Sound(name, data=bytes(data))
    if cell.get("array") is not None:
        return Sound(name, data=_wav(cell["array"], cell.get("sampling_rate")))
    if isinstance(path, str) and path:
        return path
    raise BadRow(f"audio must be a path, or an object with path, bytes or array, not {shown(dict(cell))}")


def _wav(array: object, rate: object) -> bytes:
    """Samples [n] or [channels, n] as a file of 32-bit floats."""
    import soundfile

    try:
        samples = np.asarray(array, np.float32)
        if samples.ndim not in (1, 2) or not samples.size or not isinstance(rate, int):
            raise ValueError
        memory = io.BytesIO()
        soundfile.write(memory, samples.T if samples.ndim == 2 else samples, rate, format="WAV", subtype="FLOAT")
    except (ValueError, TypeError, RuntimeError):
        raise BadRow("the audio's array and sampling_rate are no samples") from None
    return memory.getvalue()
