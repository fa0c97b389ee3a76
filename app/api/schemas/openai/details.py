"""Additions to OpenAI's answers: receipts of the recordings, and warnings."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer

from app.api.audio_input import DecodedAudio
from app.api.schemas.responses import AudioReceipt

HEADER = "X-Overtone-Warnings"
MOST_CHARACTERS = 2000  # of the header: proxies bound all headers together, often by 8 KiB


class OvertoneDetails(BaseModel):
    """Overtone's own, which OpenAI's clients pass on: `answer.overtone`."""

    audio: list[AudioReceipt] = Field(description="a receipt of each recording, in order")
    warnings: list[str] = Field(description="of the recordings, and of parameters that were not used")


class WithDetails(BaseModel):
    """An answer that may have the field `overtone`."""

    overtone: OvertoneDetails | None = Field(None, description="receipts of the recordings, and warnings")

    @model_serializer(mode="wrap")
    def _without_nothing(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """OpenAI's fields first."""
        fields: dict[str, Any] = serialize(self)
        details = fields.pop("overtone", None)
        return fields | ({"overtone": details} if details is not None else {})


def details_of(audio: DecodedAudio, notices: Sequence[str] = ()) -> OvertoneDetails | None:
    """Receipts and warnings of an answer; None without recordings and without notices."""
    receipts = [AudioReceipt(**asdict(receipt)) for receipt in audio.receipts]
    warnings = list(notices)
    for number, receipt in enumerate(receipts, 1):
        place = f"recording {number}: " if len(receipts) > 1 else ""
        warnings += [f"{place}{warning}" for warning in receipt.warnings]
    return OvertoneDetails(audio=receipts, warnings=warnings) if receipts or warnings else None


def headers(details: OvertoneDetails | None) -> dict[str, str]:
    """The warnings as a header: a JSON list in ASCII, cut at `MOST_CHARACTERS`."""
    if details is None or not details.warnings:
        return {}
    kept, left = list(details.warnings), 0
    while len(text := json.dumps(kept + ([f"and {left} more"] if left else []))) > MOST_CHARACTERS and kept:
        kept.pop()
        left += 1
    return {HEADER: text}
