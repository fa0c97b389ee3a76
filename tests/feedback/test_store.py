"""Rows on disk and requests in memory: what a crash leaves, what grows, what is over."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.errors import Conflict, NotFound
from app.feedback.recent import AnsweredRequest, RecentRequests, Upload
from app.feedback.row import AskedTurn, FeedbackRow
from app.feedback.store import FeedbackStore, new_id

ADD = """
import sys, itertools
from pathlib import Path
from tests.feedback.test_store import row, store
kept = store(Path(sys.argv[1]))
for number in itertools.count():
    from app.feedback.recent import Upload
    upload = Upload(bytes([number % 256]) * 5000, "wav")
    made = kept.put("acme", row(f"req-{number}", upload), [upload])
    print(made.id, flush=True)
    if number % 3 == 2:
        kept.put("acme", made.model_copy(update={"verdict": "wrong", "corrected": "x" * number}), [upload])
    if number % 5 == 4:
        kept.delete("acme", made.id)
        print("-" + made.id, flush=True)
"""


def store(root: Path, most_bytes: int = 1 << 30, days: float = 90) -> FeedbackStore:
    found = FeedbackStore(root, most_bytes, days)
    found.open()
    return found


def row(request_id: str, *uploads: Upload) -> FeedbackRow:
    return FeedbackRow(
        id=new_id(request_id, "said"),
        request_id=request_id,
        time=datetime.now(UTC),
        model="tiny",
        adapter="base",
        adapters=[],
        messages=[AskedTurn(role="user", content="<audio>" * len(uploads) + "what?")],
        options={},
        answer="said",
        verdict="right",
        consent=bool(uploads),
        remembered=True,
        recordings=[upload.ref(kept=True) for upload in uploads],
    )


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ADD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        lines = [process.stdout.readline().strip() for _ in range(40)]
        process.send_signal(signal.SIGKILL)
        lines += [line.strip() for line in process.stdout.read().splitlines()]
    gone = {line[1:] for line in lines if line.startswith("-")}
    wanted = {line for line in lines if not line.startswith("-")} - gone
    kept = store(tmp_path)
    found = {one.id: one for one in kept.all("acme")}
    assert gone.isdisjoint(found)
    # the row that was being deleted when the process died may be there or not
    assert wanted - set(found) <= {lines[-1]}
    for one in found.values():
        assert len(kept.recording("acme", one, 0).read_bytes()) == 5000
    for entry in (tmp_path / "acme").glob(".*"):
        os.utime(entry, (0, 0))
    kept.expire()
    assert not list((tmp_path / "acme").glob(".*"))


def test_rows_that_are_over_are_not_shown_and_then_deleted(tmp_path: Path) -> None:
    kept = store(tmp_path, days=2)
    young, old = row("req-1"), row("req-2")
    past = f"{datetime.now(UTC) - timedelta(days=3):%Y%m%d-%H%M%S}"
    old = old.model_copy(update={"id": past + old.id[15:]})
    for one in (young, old):
        kept.put(None, one, [])
    assert [one.id for one in kept.all(None)] == [young.id]
    with pytest.raises(NotFound):
        kept.get(None, old.id)
    assert len(list(tmp_path.rglob("row.json"))) == 2
    kept.expire()
    assert len(list(tmp_path.rglob("row.json"))) == 1


def put_many(kept: FeedbackStore) -> None:
    for number in range(8, 100):
        kept.put("acme", row(f"req-{number}"), [])


def test_disk_is_bounded_by_the_tenant(tmp_path: Path) -> None:
    kept = store(tmp_path, most_bytes=100_000)
    for number in range(8):
        kept.put("acme", row(f"req-{number}"), [])
    with pytest.raises(Conflict, match="OVERTONE_FEEDBACK_MB"):
        put_many(kept)
    assert kept.use("acme") <= 100_000
    kept.put("rival", row("req-0"), [])


def asked(identity: str, size: int = 0) -> AnsweredRequest:
    uploads = (Upload(b"x" * size, "wav"),)
    return AnsweredRequest(identity, "tiny", "base", (), (AskedTurn(role="user", content="?"),), {}, "said", uploads)


def test_memory_is_bounded_and_the_fullest_tenant_loses_its_oldest() -> None:
    recent = RecentRequests(100_000)
    recent.put("small", asked("s", 1000))
    for number in range(20):
        recent.put("big", asked(f"b{number}", 20_000), [f"http-{number}"])
    assert recent.get("small", "s")
    assert recent.get("big", "b19") is recent.get("big", "http-19") is not None
    assert recent.get("big", "b0") is None
    assert recent.get("big", "http-0") is None
    assert recent.get("small", "b19") is None
    recent.put("small", asked("whole", 200_000))
    assert recent.get("small", "whole") is None


def test_memory_forgets_after_an_hour() -> None:
    now = [time.monotonic()]
    recent = RecentRequests(100_000, clock=lambda: now[0])
    recent.put(None, asked("a"))
    now[0] += 3599
    assert recent.get(None, "a")
    now[0] += 2
    assert recent.get(None, "a") is None
