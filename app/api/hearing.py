"""Uploaded recordings to clips, on worker threads, a bounded number at a time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from anyio import to_thread
from fastapi import UploadFile

from app.api.state import AppState
from app.audio.cut_receipt import CutReceipt
from app.errors import TooLarge
from app.model.features import Clip
from app.model.prompt import too_long
from app.service import Service


@dataclass(frozen=True)
class Heard:
    """The recordings of one request: clips and receipt of each, and the seconds that it took."""

    clips: list[list[Clip]]
    receipts: list[CutReceipt]
    took_s: float

    @property
    def seconds(self) -> float:
        """Audio that the model gets to hear."""
        return sum(receipt.seconds_used for receipt in self.receipts)


async def hear(
    state: AppState,
    service: Service,
    uploads: Sequence[UploadFile],
    *,
    room: int | None = None,
    seconds: float | None = None,
    transcript: bool = False,
) -> Heard:
    """Decode recordings, cut them and extract their features, one after the other.

    ``room``: tokens of the one prompt that is to hold them all; ``seconds``: that they may last together. Beyond
    either, no further recording is decoded. ``transcript``: as `FeatureExtractor.cut` has it.
    Raises AudioError, TooLarge, BadRequest, PromptTooLong or QueueFull.
    """
    service.engine.refuse_if_full(state.preparing)  # before the work, and after the body that took its time
    begun = time.monotonic()
    state.preparing += 1
    heard: list[tuple[CutReceipt, list[Clip]]] = []
    tokens, lasted = 0, 0.0
    try:
        for upload in uploads:
            heard.append(await to_thread.run_sync(_hear_one, service, upload, transcript, limiter=state.ears))
            lasted += heard[-1][0].seconds_used + heard[-1][0].skipped_seconds
            if seconds is not None and lasted > seconds:
                raise TooLarge(
                    f"The first {len(heard)} of {len(uploads)} recordings last {lasted:.0f} s, and one request may "
                    f"bring {seconds:.0f} s; send fewer in each request."
                )
            tokens += sum(clip.tokens for clip in heard[-1][1])
            if room is not None and tokens >= room:
                of = f" (the first {len(heard)} of {len(uploads)} recordings)" if len(uploads) > 1 else ""
                raise too_long(f"{tokens} tokens of audio{of}", room)
    finally:
        state.preparing -= 1
    return Heard([clips for _, clips in heard], [receipt for receipt, _ in heard], time.monotonic() - begun)


def _hear_one(service: Service, upload: UploadFile, transcript: bool) -> tuple[CutReceipt, list[Clip]]:
    """Reads from the spooled file here, so that bytes wait on disk, not in memory, for their turn."""
    return service.hear(upload.file.read(), upload.filename, transcript=transcript)
