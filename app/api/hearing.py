"""Uploaded recordings to clips, on worker threads, a bounded number at a time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from anyio import to_thread
from fastapi import UploadFile

from app.api.state import AppState
from app.audio.decode import Receipt
from app.model.features import Clip
from app.service import Service


@dataclass(frozen=True)
class Heard:
    """The recordings of one request: clips and receipt of each, and the seconds that it took."""

    clips: list[list[Clip]]
    receipts: list[Receipt]
    took_s: float

    @property
    def seconds(self) -> float:
        """Audio that the model gets to hear."""
        return sum(receipt.seconds_used for receipt in self.receipts)


async def hear(state: AppState, service: Service, uploads: Sequence[UploadFile]) -> Heard:
    """Decode recordings and extract their features. Raises AudioError, TooLarge, BadRequest or QueueFull."""
    service.engine.refuse_if_full(state.preparing)  # before the work, and after the body that took its time
    begun = time.monotonic()
    state.preparing += 1
    try:
        heard = [await to_thread.run_sync(_hear_one, service, upload, limiter=state.ears) for upload in uploads]
    finally:
        state.preparing -= 1
    return Heard([clips for _, clips in heard], [receipt for receipt, _ in heard], time.monotonic() - begun)


def _hear_one(service: Service, upload: UploadFile) -> tuple[Receipt, list[Clip]]:
    """Reads from the spooled file here, so that bytes wait on disk, not in memory, for their turn."""
    return service.hear(upload.file.read(), upload.filename)
