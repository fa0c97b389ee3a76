"""A live server under everything at once, and under ten times what it can take."""

import json
import subprocess
import sys

import pytest

from tests.commands import ROOT

pytestmark = pytest.mark.soak


def bench(*options: str) -> tuple[int, dict]:
    command = [sys.executable, "-W", "ignore", "-m", "app.cli.main", "bench", *options, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def failures(code: int, told: dict) -> list[str]:
    """What went wrong, but for how soon `/health` answers: that is for a machine with nothing else to do."""
    late = [one for one in told["failures"] if one.startswith("/health answered after")]
    assert told["health_worst"] <= 10
    assert code == bool(told["failures"])
    return [one for one in told["failures"] if one not in late]


def test_soak():
    code, told = bench("--soak", "0.5")
    assert failures(code, told) == []
    assert told["verdict"]["finished"] > 16
    assert 0 < told["left"] < told["requests"] / 2
    assert {"upload", "select", "unload"} <= told["operations"].keys()
    assert told["counters"]["adapter_evictions"]


def test_a_hostile_tenant_beside_honest_ones():
    """Some seconds of it; `make soak` runs five minutes."""
    code, told = bench("--soak", "0.3", "--hostile", "--clients", "8")
    assert failures(code, told) == []
    assert told["verdict"]["finished"] > 8
    assert len(told["attacks"]) == 13, "every kind of attack was begun"
    assert {"404", "413", "415", "422"} <= told["attacks_answered"].keys()
    assert told["peak_memory"] < told["fresh_memory"] + (1 << 30)


def test_overload():
    """How much is still served is for a machine with nothing else to do; the rest holds on any."""
    _, told = bench("--overload", "6")
    assert [one for one in told["failures"] if "promised" not in one and "proves nothing" not in one] == []
    assert told["refused"] > told["served"] > 0
    assert told["refused_p99"] < told["served_p50"]
