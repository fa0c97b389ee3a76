"""The feedback of one caller: its tenant's rows, or of no tenant those about adapters that it sees."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from app.access.caller import Caller
from app.errors import BadRequest, NotFound
from app.feedback.recent import AnsweredRequest, RecentRequests, Upload
from app.feedback.row import FeedbackRow, edited
from app.feedback.store import FeedbackStore

WHY = {
    "excluded": "are excluded",
    "draft": "are drafts that nobody has judged",
    "no_correction": "say that the answer was wrong and not what it should have been",
    "no_recording": "keep no recording (given without consent)",
}

NUMBERS = {1: "one is", 2: "two are"}


class TenantFeedback:
    """Every method that takes an id raises NotFound for a row that the caller does not see; all block."""

    def __init__(self, store: FeedbackStore, recent: RecentRequests, caller: Caller) -> None:
        self.store = store
        self.caller = caller
        self._recent = recent

    def asked(self, request_id: str) -> AnsweredRequest | None:
        """The question and answer of a request that is still in memory."""
        return self._recent.get(self.caller.tenant, request_id)

    def put(self, row: FeedbackRow, uploads: Sequence[Upload]) -> FeedbackRow:
        """See `FeedbackStore.put`."""
        return self.store.put(self.caller.tenant, row, uploads)

    def all(self, fits: Callable[[FeedbackRow], bool] = lambda row: True) -> list[FeedbackRow]:
        """The rows that fit, newest first."""
        return [row for row in self.store.all(self.caller.tenant) if self._sees(row) and fits(row)]

    def get(self, identity: str) -> FeedbackRow:
        """One row."""
        row = self.store.get(self.caller.tenant, identity)
        if not self._sees(row):
            raise NotFound(f"There is no row of feedback {identity[:80]!r}; GET /feedback lists them.")
        return row

    def change(self, identity: str, **fields: Any) -> FeedbackRow:
        """The row with other fields; see `edited`. Raises BadRequest."""
        return self.store.save(self.caller.tenant, edited(self.get(identity), **fields))

    def delete(self, identity: str) -> FeedbackRow:
        """Delete a row with its recordings; the row as it was."""
        row = self.get(identity)
        self.store.delete(self.caller.tenant, identity)
        return row

    def recording(self, identity: str, index: int) -> bytes:
        """The bytes of a recording as it was sent. Raises NotFound for one that was not kept."""
        return self.store.recording(self.caller.tenant, self.get(identity), index).read_bytes()

    def write_zip(self, rows: Sequence[FeedbackRow], target: IO[bytes]) -> None:
        """See `FeedbackStore.write_zip`."""
        self.store.write_zip(self.caller.tenant, rows, target)

    def write_folder(self, rows: Sequence[FeedbackRow], target: Path) -> Path:
        """See `FeedbackStore.write_folder`."""
        return self.store.write_folder(self.caller.tenant, rows, target)

    def usable(self, adapter: str | None = None, least: int = 2) -> list[FeedbackRow]:
        """The rows that can be trained on, of one adapter or of all; alone they are two ``least``: one is held out.

        Raises BadRequest, with the reasons, where there are fewer.
        """
        rows = self.all(lambda row: adapter is None or answered_by(row, adapter))
        usable = [row for row in rows if row.why_unusable is None]
        if len(usable) < least:
            reasons = [row.why_unusable for row in rows if row.why_unusable is not None]
            counted = [f"{reasons.count(why)} {WHY[why]}" for why in sorted(set(reasons))]
            about = f" about {adapter[:80]!r}" if adapter else ""
            raise BadRequest(
                f"{len(usable)} of {len(rows)} rows of feedback{about} can be trained on, and "
                f"{NUMBERS[least]} needed at least"
                f"{': ' + ', '.join(counted) if counted else ''}. Correct more answers, with consent to keep the audio."
            )
        return usable

    def _sees(self, row: FeedbackRow) -> bool:
        return self.caller.tenant is not None or all(self.caller.sees(part.name, None) for part in row.adapters)


def answered_by(row: FeedbackRow, adapter: str) -> bool:
    """True if the adapter answered, alone or in a mix; `base`: the base model alone."""
    return adapter == row.adapter or adapter in [part.name for part in row.adapters]
