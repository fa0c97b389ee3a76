"""Uploaded recordings to clips, on worker threads, a bounded number at a time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from anyio import to_thread
from fastapi import UploadFile

from app.api.dependencies import AppState
from app.audio.cut_receipt import CutReceipt
from app.errors import TooLarge
from app.models.features import Clip
from app.models.prompt import too_long
from app.service import Service

MOST_LONG = 8  # of the longest recordings together in one request: their features take 1.5 MB for 30 s


@dataclass(frozen=True)
class DecodedAudio:
    """The recordings of one request: the clips and the receipt of each, and the seconds that decoding took.

    ``uploads``: the files as they were sent.
    """

    clips: list[list[Clip]]
    receipts: list[CutReceipt]
    decoding_seconds: float
    uploads: Sequence[UploadFile] = ()

    @property
    def seconds(self) -> float:
        """Length of the audio that the model receives."""
        return sum(receipt.seconds_used for receipt in self.receipts)


async def decode_uploads(
    state: AppState,
    service: Service,
    uploads: Sequence[UploadFile],
    *,
    max_tokens: int | None = None,
    transcript: bool = False,
) -> DecodedAudio:
    """Decode recordings, cut them and extract their features, one after the other.

    ``max_tokens``: of the one prompt that is to hold all recordings. Decoding stops as soon as they exceed it, or last
    longer together than `MOST_LONG` recordings may; it does not begin where their headers state as much.
    ``transcript``: see `FeatureExtractor.cut`.
    Raises AudioError, TooLarge, BadRequest, PromptTooLong or QueueFull.
    """
    service.engine.refuse_if_full(state.preparing)  # before the work, and after the body, whose upload took time
    begun = time.monotonic()
    state.preparing += 1
    decoded: list[tuple[CutReceipt, list[Clip]]] = []
    tokens, lasted, longest = 0, 0.0, service.settings.max_audio_seconds
    try:
        if len(uploads) > MOST_LONG:
            await _refuse_long_headers(state, service, uploads, longest)
        for upload in uploads:
            async with state.decoding_turns.acquire(service.registry.caller.tenant):
                receipt, clips = await to_thread.run_sync(
                    _decode, service, upload, transcript, limiter=state.decoding_limiter
                )
            decoded.append((receipt, clips))
            lasted += receipt.seconds_used + receipt.skipped_seconds
            if lasted > MOST_LONG * longest:
                raise _too_long_together(f"The first {len(decoded)} of {len(uploads)}", lasted, longest)
            tokens += sum(clip.tokens for clip in clips)
            if max_tokens is not None and tokens >= max_tokens:
                of = f" (the first {len(decoded)} of {len(uploads)} recordings)" if len(uploads) > 1 else ""
                raise too_long(f"{tokens} tokens of audio{of}", max_tokens)
    finally:
        state.preparing -= 1
    seconds = time.monotonic() - begun
    return DecodedAudio([clips for _, clips in decoded], [receipt for receipt, _ in decoded], seconds, uploads)


async def _refuse_long_headers(
    state: AppState, service: Service, uploads: Sequence[UploadFile], longest: float
) -> None:
    """Raises TooLarge for recordings whose headers add up to more than a request may bring."""
    declared = 0.0
    for number, upload in enumerate(uploads, 1):
        async with state.decoding_turns.acquire(service.registry.caller.tenant):
            seconds = await to_thread.run_sync(_declared_seconds, service, upload, limiter=state.decoding_limiter)
        declared += min(seconds, longest)
        if declared > MOST_LONG * longest:
            raise _too_long_together(f"The first {number} of {len(uploads)}", declared, longest)


def _too_long_together(which: str, seconds: float, longest: float) -> TooLarge:
    return TooLarge(
        f"{which} recordings last {seconds:.0f} s, and one request may bring {MOST_LONG * longest:.0f} s; send fewer "
        "in each request."
    )


def _declared_seconds(service: Service, upload: UploadFile) -> float:
    data = upload.file.read()
    upload.file.seek(0)
    return service.declared_seconds(data, upload.filename)


def _decode(service: Service, upload: UploadFile, transcript: bool) -> tuple[CutReceipt, list[Clip]]:
    """Reads the spooled file here, so that recordings wait for their turn on disk instead of in memory."""
    return service.read_clips(upload.file.read(), upload.filename, transcript=transcript)
