"""Decoding in processes: the same recordings, and a crash costs one of them."""

import io
import os
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
from app.audio.pool import Decoder, DecodingPool
from app.errors import AudioError, EngineFault, TooLarge
from app.model.features import ClipReader, FeatureExtractor
from tests.audio.misbehaving import misbehave
from tests.support import random_processor

LIMITS = Limits(60, 1 << 24)
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
    pool.start().join()
    pool.close()
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not [thread for thread in threading.enumerate() if thread.name == "decoding-start"]


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
