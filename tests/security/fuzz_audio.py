"""Mutation fuzzing of the decoders, in the process that the service decodes in.

`python -m tests.security.fuzz_audio --seconds 3600`. The number of a case and the seed give the same file again:
`--seed S --only NUMBER`. Exits with 1 where something was found.
"""

import argparse
import base64
import logging
import math
import os
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from app.audio.decode import Limits, Recording, decode
from app.audio.pool import DecodingPool
from app.errors import AudioError, OvertoneError, TooLarge
from tests.audio.mutations import damaged
from tests.audio.seeds import Seed, all_seeds, made

RATE = 16_000
LIMITS = Limits(max_seconds=60, max_bytes=8 << 20, max_cpu_seconds=3.0)
OVER_S = 2.0  # CPU time that one call may take beyond its limit: the clock is read between blocks
MEMORY_MB = 200  # resident memory that one file of at most 256 KB may take
LEAK_MB = 400  # resident memory that may stay after any number of files
PRINTED_BYTES = 2_048  # of a file that is printed whole


@dataclass(frozen=True)
class Outcome:
    """What became of one file in the worker: the name of the error, or what is wrong with the result."""

    pid: int
    cpu_seconds: float
    refused: str = ""
    wrong: str = ""


@dataclass(frozen=True)
class Finding:
    """``kind``: crash, time, memory, error or result."""

    number: int
    seed: str
    kind: str
    words: str
    data: bytes


@dataclass(frozen=True)
class Examined:
    """The work of the pool: ``call`` on a recording, and a look at what it returns."""

    call: Callable[[bytes], Recording]

    def __call__(self, data: bytes, filename: str | None) -> Outcome:
        begun = time.process_time()
        refused = wrong = ""
        try:
            wrong = _faults(self.call(data))
        except (AudioError, TooLarge) as error:
            refused = type(error).__name__
        except MemoryError:
            raise
        except BaseException:
            wrong = traceback.format_exc()
        return Outcome(os.getpid(), time.process_time() - begun, refused, wrong)


def decoded(data: bytes) -> Recording:
    return decode(data, rate=RATE, limits=LIMITS)


def _faults(recording: Recording) -> str:
    """What no answer may hold; empty where all is well."""
    samples, receipt = recording.samples, recording.receipt
    if samples.dtype != np.float32 or samples.ndim != 1 or not np.isfinite(samples).all():
        return "samples are not finite float32 [n]"
    if not all(math.isfinite(value) for value in astuple(receipt) if isinstance(value, float)):
        return f"the receipt holds numbers that are not finite: {receipt}"
    if len(samples) > (LIMITS.max_seconds + 1) * RATE or abs(len(samples) / RATE - receipt.seconds) > 0.5:
        return f"{len(samples)} samples for {receipt.seconds} s"
    return ""


class Fuzzer:
    """Cases of one ``seed``, counted from 0; each gives the same file wherever it runs."""

    def __init__(self, seed: int, call: Callable[[bytes], Recording] = decoded) -> None:
        self.outcomes: Counter[str] = Counter()
        self.findings: list[Finding] = []
        self.slowest = (0.0, "")
        self.most_mb = (0.0, "")
        self._seed = seed
        self._seeds = all_seeds()
        self._cpu_seconds = LIMITS.max_cpu_seconds + OVER_S
        self._pool = DecodingPool(Examined(call), 1, self._cpu_seconds)
        self._start_mb: dict[int, float] = {}
        self._last_pid = 0

    def case(self, number: int) -> tuple[str, bytes]:
        """Name and bytes of a case."""
        draw = random.Random(f"{self._seed}:{number}")
        (seed, data), (_, other) = self._drawn(draw), self._drawn(draw)
        return str(seed), damaged(draw, data, other)

    def run(self, number: int) -> Finding | None:
        """Decode one case; what is wrong with it, if anything."""
        name, data = self.case(number)
        found = self.examine(data, name)
        if found is None:
            return None
        finding = Finding(number, name, *found, data)
        self.findings.append(finding)
        return finding

    def examine(self, data: bytes, name: str = "") -> tuple[str, str] | None:
        """Kind and words of what is wrong with this file in the decoders."""
        crashes, before = self._pool.crashes, _memory_mb(self._last_pid, "VmRSS")
        try:
            outcome = self._pool.run(data)
        except OvertoneError as error:
            self.outcomes["worker lost" if self._pool.crashes > crashes else type(error).__name__] += 1
            if "memory" in str(error):
                return "memory", str(error)
            return ("time" if isinstance(error, TooLarge) else "crash"), str(error)
        self.outcomes[outcome.refused or "decoded"] += 1
        return self._judged(outcome, before, name)

    def close(self) -> None:
        self._pool.close()

    def _judged(self, outcome: Outcome, before: float | None, name: str) -> tuple[str, str] | None:
        self.slowest = max(self.slowest, (outcome.cpu_seconds, name))
        if outcome.wrong:
            return ("error" if "Traceback" in outcome.wrong else "result"), outcome.wrong
        if outcome.cpu_seconds > self._cpu_seconds:
            return "time", f"{outcome.cpu_seconds:.1f} s of CPU time"
        peak, now = _memory_mb(outcome.pid, "VmHWM"), _memory_mb(outcome.pid, "VmRSS")
        known, self._last_pid = outcome.pid == self._last_pid, outcome.pid
        _forget_peak(outcome.pid)
        if peak is None or now is None:
            return None  # no /proc
        start = self._start_mb.setdefault(outcome.pid, now)
        if known and before is not None:
            self.most_mb = max(self.most_mb, (peak - before, name))
            if peak - before > MEMORY_MB:
                return "memory", f"{peak - before:.0f} MB for one file"
        if now - start > LEAK_MB:
            self._start_mb[outcome.pid] = now
            return "memory", f"{now - start:.0f} MB stay after the last files"
        return None

    def _drawn(self, draw: random.Random) -> tuple[Seed, bytes]:
        while True:
            seed = draw.choice(self._seeds)
            if data := made(seed):
                return seed, data


def _memory_mb(pid: int, key: str) -> float | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(key)), None)


def _forget_peak(pid: int) -> None:
    """VmHWM counts anew from here on."""
    with suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def _numbers(seconds: float, only: int | None) -> Iterator[int]:
    if only is not None:
        yield only
        return
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        yield number
        number += 1


def _tell(finding: Finding, seed: int, keep: Path | None) -> None:
    print(f"\n{finding.kind}: case {finding.number} of seed {seed}, from {finding.seed}, {len(finding.data)} bytes")
    print(f"  {finding.words.strip()}")
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f"{finding.kind}-{seed}-{finding.number}.bin").write_bytes(finding.data)
    if len(finding.data) <= PRINTED_BYTES:
        print(f"  base64: {base64.b64encode(finding.data).decode()}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="by default another one each time")
    parser.add_argument("--only", type=int, help="the number of the one case to run")
    parser.add_argument("--keep", type=Path, help="a folder for files that showed something")
    told = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    print(f"seed {told.seed}", flush=True)
    fuzzer, begun, ran = Fuzzer(told.seed), time.monotonic(), 0
    for number in _numbers(told.seconds, told.only):
        ran += 1
        if finding := fuzzer.run(number):
            _tell(finding, told.seed, told.keep)
    took = time.monotonic() - begun
    fuzzer.close()
    print(f"{ran} files in {took:.0f} s ({ran / took:.0f} per second): {dict(fuzzer.outcomes)}")
    print(f"most CPU time {fuzzer.slowest[0]:.2f} s ({fuzzer.slowest[1]}), memory {fuzzer.most_mb[0]:.0f} MB", end="")
    print(f" ({fuzzer.most_mb[1]}); {len(fuzzer.findings)} findings")
    return 1 if fuzzer.findings else 0


if __name__ == "__main__":
    sys.exit(main())
