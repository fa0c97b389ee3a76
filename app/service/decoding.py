"""Recordings to clips: the decoding processes, and the audio file of a command."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.audio.cut_receipt import CutReceipt
from app.audio.decode import Limits
from app.audio.pool import Decoder, DecodingPool
from app.errors import BadRequest
from app.models.features import Clip, ClipReader, FeatureExtractor, PackedClip
from app.models.loading import LoadedModel
from app.settings import Settings

MOST_PROCESSES = 8


class ClipReaders:
    """Two pools of decoding processes: for clips, and for samples that are not served. The first starts at once."""

    def __init__(self, settings: Settings, loaded: LoadedModel) -> None:
        self.features = FeatureExtractor(loaded.processor, settings.long_audio)
        limits = Limits(settings.max_audio_seconds, settings.max_upload_mb << 20, settings.max_decode_seconds)
        cpu_seconds = 3 * settings.max_decode_seconds  # beside decoding: voice activity and features
        self.clips = DecodingPool(ClipReader(self.features, limits), decoding_processes(settings), cpu_seconds)
        self.samples = DecodingPool(Decoder(self.features.sample_rate, limits), 1, cpu_seconds)
        self._started = self.clips.start()

    def wait(self) -> None:
        """Block until a decoding process answers. Raises NoDecoder when none can be started."""
        self._started.result()

    def read(
        self, data: bytes, filename: str | None, *, transcript: bool, key_prefix: str
    ) -> tuple[CutReceipt, list[Clip]]:
        """Decode a recording and cut it into clips; see `FeatureExtractor.cut` for ``transcript``.

        ``key_prefix`` begins the clips' keys in the encoder's cache. Raises AudioError, TooLarge or BadRequest.
        """
        result: Any = self.clips.run(data, filename, transcript=transcript)
        receipt: CutReceipt = result[0]
        packed: list[PackedClip] = result[1]
        clips = [clip.unpack(self.features) for clip in packed]
        return receipt, [replace(clip, key=f"{key_prefix}{clip.key}") for clip in clips]

    def declared_seconds(self, data: bytes, filename: str | None) -> float:
        """The length by the recording's own header in seconds; 0 where it states none. Raises TooLarge."""
        seconds: Any = self.clips.run(data, filename, declared=True)
        return float(seconds)

    def close(self) -> None:
        """End the processes, the first one not before it has started: its start would print a traceback."""
        self._started.exception()
        self.clips.close()
        self.samples.close()


def decoding_processes(settings: Settings) -> int:
    """Number of decoding processes: one per core, at most `MOST_PROCESSES`."""
    return settings.cpu_threads or min(MOST_PROCESSES, os.cpu_count() or 1)


def read_audio(path: Path) -> bytes:
    """The bytes of a file. Raises BadRequest when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}.") from None
