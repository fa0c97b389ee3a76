"""When passes are captured. A graph itself needs CUDA (tests/gpu); here one runs its pass again."""

import gc

import pytest
import torch

from app.engine.cuda import graph_runner
from app.engine.cuda.graph_runner import FLOOR, GraphRunner


class Recorded:
    """Stands for a graph on a device that is not here: a replay is written down."""

    def __init__(self, done, key):
        self._done, self._key = done, key

    def replay(self):
        self._done.append(f"replay {self._key}")


@pytest.fixture
def free(monkeypatch):
    """Bytes that the device has left, to be changed."""
    bytes_left = [2 * FLOOR]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (bytes_left[0], 1 << 40))
    return bytes_left


@pytest.fixture
def clock(monkeypatch):
    seconds = [100.0]
    monkeypatch.setattr(graph_runner.time, "monotonic", lambda: seconds[0])
    return seconds


@pytest.fixture
def passes(monkeypatch, free, clock):
    """``run(key)`` of a runner whose captures take 0.05 s, and what has happened."""
    runner, done = GraphRunner(False), []
    runner._enabled = True

    def captured(run):
        clock[0] += 0.05
        done.append(f"capture {run.key}")
        return Recorded(done, run.key)

    monkeypatch.setattr(runner, "_captured", captured)

    def run(key):
        def compute():
            done.append(f"run {key}")

        compute.key = key
        runner.run(key, compute)

    return runner, run, done


def test_a_pass_is_captured_when_it_comes_again_and_then_replayed(passes):
    _, run, done = passes
    for _ in range(3):
        run("a")
    assert done == ["run a", "capture a", "replay a", "replay a"]


def test_captures_take_a_tenth_of_the_time(passes, clock):
    _, run, done = passes
    for key in "abab":
        run(key)
    assert done == ["run a", "run b", "capture a", "replay a", "run b"], "b is not due yet"
    clock[0] += 0.46
    run("b")
    assert done[-2:] == ["capture b", "replay b"]


def test_what_was_left_is_captured_while_idle_the_latest_first(passes):
    runner, run, done = passes
    run("a")
    run("b")
    assert runner.capture_pending()
    assert runner.capture_pending()
    assert not runner.capture_pending()
    assert done[2:] == ["capture b", "capture a"]


def test_the_warm_up_captures_at_once_or_not_at_all(passes):
    runner, run, done = passes
    with runner.at_once(capture=True):
        run("a")
    with runner.at_once(capture=False):
        run("b")
        run("b")
    run("a")
    run("b")
    assert done == ["run a", "capture a", "run b", "run b", "replay a", "capture b", "replay b"]


def test_with_little_memory_left_nothing_is_captured(passes, free):
    _, run, done = passes
    free[0] = FLOOR - 1
    for _ in range(3):
        run("a")
    assert done == ["run a"] * 3


@pytest.fixture
def budgeted(passes, free, monkeypatch):
    """The same runner with a budget for three graphs of 10 MB each."""
    runner, run, done = passes
    runner._budget, captured = 30 << 20, runner._captured

    def takes(pass_):
        free[0] -= 10 << 20
        return captured(pass_)

    monkeypatch.setattr(runner, "_captured", takes)
    free[0] = 100 * FLOOR
    return runner, run, done


def test_the_warm_up_stops_capturing_at_the_budget(budgeted):
    runner, run, done = budgeted
    with runner.at_once(capture=True):
        for key in "abcde":
            run(key)
    assert [one for one in done if one.startswith("capture")] == ["capture a", "capture b", "capture c"]
    assert runner.bytes == 30 << 20


def test_later_captures_take_the_place_of_graphs_that_ran_longest_ago(budgeted, clock):
    runner, run, done = budgeted
    with runner.at_once(capture=True):
        for key in "abc":
            run(key)
    run("a")
    for _ in range(2):
        run("d")
    assert done[-2:] == ["capture d", "replay d"]
    assert runner.bytes == 30 << 20
    run("a")
    assert done[-1] == "replay a"
    run("b")
    assert done[-1] == "run b", "it had not run for the longest time"
    runner.discard(lambda key: True)
    assert runner.bytes == 0


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_pauses_and_is_then_as_it_was(enabled):
    """A collection within a capture may destroy an older graph, which CUDA refuses; also where the pass fails."""
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        inside = graph_runner._no_collection()
        inside.__enter__()
        assert not gc.isenabled()
        assert inside.__exit__(ZeroDivisionError, ZeroDivisionError(), None) is False
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
