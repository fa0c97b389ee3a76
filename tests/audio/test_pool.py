"""Decoding in processes: the same recordings, and a crash costs one of them."""

import fcntl
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from app.api.metrics import Metrics
from app.audio.decode import Limits, decode
from app.audio.pool import Decoder, DecodingPool, NoDecoder
from app.errors import AudioError, EngineFault, TooLarge
from app.models.features import ClipReader, FeatureExtractor
from tests.audio.misbehaving import NoWork, misbehave
from tests.sounds import wav
from tests.support import random_processor

pytestmark = pytest.mark.slow

LIMITS = Limits(60, 1 << 24)
ROOT = Path(__file__).parents[2]
HUMAN = sorted((Path(__file__).parents[1] / "data" / "human").glob("*.flac"))[:4]


@pytest.fixture
def pool() -> Iterator[DecodingPool[str]]:
    pool = DecodingPool(misbehave, 1, cpu_seconds=1.0)
    yield pool
    pool.close()


def test_a_worker_lives_on_after_a_refusal_and_after_an_error_of_its_own(pool):
    first = pool.run(b"fine")
    with pytest.raises(AudioError, match="is refused"):
        pool.run(b"refuse", "a.wav")
    with pytest.raises(EngineFault, match="log"):
        pool.run(b"bug", "a.wav")
    assert pool.run(b"fine") == first != str(os.getpid())


@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        ("crash", AudioError, r"\('x.mov'\) made its decoder crash"),
        ("killed", TooLarge, "memory"),
        ("loop", TooLarge, "too long"),
        ("hoard", TooLarge, "memory"),
    ],
)
def test_what_a_recording_does_to_its_worker_costs_that_recording_alone(pool, what, error, words):
    pool.run(b"fine")
    with pytest.raises(error, match=words):
        pool.run(what.encode(), "x.mov")
    assert pool.run(b"fine")
    metrics = Metrics()
    metrics.watch_decoders([pool, pool])
    died = 0 if what == "hoard" else 1  # that one is refused by the allocator and lives on
    assert pool.crashes == died
    assert f"overtone_decoder_crashes_total {2.0 * died}".encode() in metrics.text()


@pytest.mark.parametrize("what", ["open", "connect"])
def test_a_worker_opens_no_file_and_no_socket(pool, what, caplog):
    with pytest.raises(EngineFault):
        pool.run(what.encode())
    assert "Too many open files" in caplog.text


def test_callers_wait_for_a_free_worker_and_a_crash_beside_them_is_not_theirs():
    pool = DecodingPool(misbehave, 2, cpu_seconds=5.0)
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(pool.run, b"crash" if index % 5 == 2 else b"fine") for index in range(30)]
    failed = [index for index, one in enumerate(asked) if one.exception()]
    assert failed == [index for index in range(30) if index % 5 == 2]
    pool.close()


def test_a_pool_that_is_closed_leaves_no_process():
    pool = DecodingPool(misbehave, 2, cpu_seconds=5.0)
    pids = {int(pool.run(b"fine"))}
    pool.start().result(60)
    pool.close()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not [thread for thread in threading.enumerate() if thread.name == "decoding-start"]


def test_a_pool_that_has_started_has_an_answering_worker(pool):
    pool.start().result(60)
    (worker,) = pool._workers
    assert pool.run(b"fine") == str(worker.process.pid)


def test_workers_that_cannot_start_are_told_of_and_are_no_recordings_fault():
    pool = DecodingPool(NoWork(), 1, cpu_seconds=5.0)
    with pytest.raises(NoDecoder, match="could be started"):
        pool.start().result(60)
    with pytest.raises(NoDecoder, match="could be started"):
        pool.run(b"fine", "a.wav")
    assert (pool.crashes, pool._workers) == (0, set())


def test_signals_meant_for_the_owner_do_not_end_its_workers(pool):
    """Service managers and shells send them to all processes of a group; requests end first."""
    pid = int(pool.run(b"fine"))
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(pid, number)
    time.sleep(0.2)
    assert pool.run(b"fine") == str(pid)


def test_a_worker_that_ended_while_idle_is_replaced_in_silence(pool):
    pid = int(pool.run(b"fine"))
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    assert int(pool.run(b"fine")) != pid
    assert pool.crashes == 0


OWNER = """
import os, signal, sys, threading, time
from app.audio.forkserver import DECODING
from app.audio.pool import DecodingPool
from tests.audio.misbehaving import misbehave
if __name__ == "__main__":
    pool = DecodingPool(misbehave, 2, 60.0, DECODING)
    print(pool.run(b"fine"), flush=True)
    if sys.argv[1] == "busy":
        threading.Thread(target=lambda: pool.run(b"loop"), daemon=True).start()
        time.sleep(0.5)
    if sys.argv[1] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def owner(tmp_path: Path, how: str) -> subprocess.CompletedProcess[str]:
    """A process of its own that has a pool, in a folder with another `app`; it ends within its time."""
    (tmp_path / "here" / "app").mkdir(parents=True, exist_ok=True)
    (tmp_path / "here" / "app" / "__init__.py").write_text("raise SystemExit('the app of the working folder')")
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    (tmp_path / "tmp").mkdir(exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp")}
    return subprocess.run(
        [sys.executable, script, how],
        cwd=tmp_path / "here", env=environment, capture_output=True, text=True, timeout=180,
    )  # fmt: skip


@pytest.mark.parametrize("how", ["idle", "busy"])
def test_a_process_with_a_pool_ends_at_once_and_leaves_nothing(tmp_path, how):
    done = owner(tmp_path, how)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" or how == "busy"  # whose thread is told that its worker went
    assert gone(int(done.stdout))
    assert list((tmp_path / "tmp").iterdir()) == []


def test_what_a_killed_process_leaves_is_removed_by_the_next(tmp_path):
    """And nothing that belongs to a living one, or to another program."""
    others = tmp_path / "tmp" / "pymp-other"
    others.mkdir(parents=True)
    killed = owner(tmp_path, "killed")
    assert killed.returncode == -signal.SIGKILL
    assert gone(int(killed.stdout))
    (left,) = (tmp_path / "tmp").glob("pymp-*/overtone-decoders")
    with left.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as if it lived
        owner(tmp_path, "idle")
        assert left.is_file()
    owner(tmp_path, "idle")
    assert list((tmp_path / "tmp").iterdir()) == [others]


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not Path(f"/proc/{pid}").exists()


def test_a_recording_is_the_same_as_decoded_in_this_process():
    pool = DecodingPool(Decoder(16000, LIMITS), 1, cpu_seconds=10.0)
    for file in HUMAN:
        here = decode(file.read_bytes(), rate=16000, limits=LIMITS, filename=file.name)
        there = pool.run(file.read_bytes(), file.name)
        assert there.receipt == here.receipt
        assert there.sha256 == here.sha256
        np.testing.assert_array_equal(there.samples, here.samples)
    pool.close()


def test_clips_are_the_features_of_the_extractor_over_the_whole_window():
    processor = random_processor()
    features = FeatureExtractor(processor)
    pool = DecodingPool(ClipReader(features, LIMITS), 1, cpu_seconds=10.0)
    for data in (*(file.read_bytes() for file in HUMAN), _wav(25.0), _wav(0.11)):
        samples = decode(data, rate=16000, limits=LIMITS).samples
        receipt, packed = pool.run(data)
        clips = [clip.unpack(features) for clip in packed]
        windows = [samples[round(16000 * one.start) : round(16000 * one.end)] for one in receipt.segments]
        if receipt.segments[-1].end >= receipt.seconds:  # which is rounded to milliseconds
            windows[-1] = samples[round(16000 * receipt.segments[-1].start) :]
        for clip, window in zip(clips, windows, strict=True):
            wanted = processor.feature_extractor(
                window, sampling_rate=16000, return_attention_mask=True, padding="max_length", return_tensors="pt"
            )
            assert torch.equal(clip.mel, wanted["input_features"][0])
            assert clip.frames == int(wanted["attention_mask"].sum())
    pool.close()


def _wav(seconds: float) -> bytes:
    import soundfile

    file = io.BytesIO()
    noise = np.random.default_rng(1).standard_normal(int(seconds * 16000)) * 0.1
    soundfile.write(file, noise, 16000, format="WAV")
    return file.getvalue()


def test_a_script_without_a_guard_decodes_and_runs_once(tmp_path):
    """Who calls the trainer's functions from a few lines of their own."""
    (tmp_path / "clip.wav").write_bytes(wav(np.zeros(1600, np.float32)))
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from app.audio.decode import Limits\n"
        "from training.data.decoding import decode_sound\n"
        "from training.data.rows import Sound\n"
        "print('begun')\n"
        "sound = Sound('clip.wav', data=Path('clip.wav').read_bytes())\n"
        "print(len(decode_sound(sound, rate=16000, limits=Limits(60, 1 << 24)).samples))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180
    )
    assert (done.stdout, done.returncode) == ("begun\n1600\n", 0), done.stderr
