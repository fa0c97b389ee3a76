"""Advice on the build of torch for a machine whose NVIDIA driver does not suit the installed one."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from app.models.driver import TORCH, at_start, before_install, driver_version

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19\nGCC version: gcc 12.2.0\n",
            "535.129.03",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n", "580.65.06"),
        ("", None),
    ],
)
def test_the_driver_s_version(text, version, tmp_path):
    (tmp_path / "version").write_text(text)
    assert driver_version(tmp_path / "version") == version
    assert driver_version(tmp_path / "none") is None


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one build")
@pytest.mark.parametrize(
    ("driver", "says"),
    [
        (None, "whl/cpu"),
        ("535.129.03", "whl/cu126"),
        ("470.1", "no build of torch"),
        ("580.65.06", None),
        ("610.1", None),
    ],
)
def test_before_torch_is_installed(driver, says):
    told = before_install(driver, None)
    assert told is None if says is None else says in told
    assert before_install(driver, "https://some.index") is None


@pytest.mark.parametrize(
    ("driver", "cuda", "says"),
    [
        (None, "13.0", None),
        (None, None, None),
        ("535.129.03", "13.0", "whl/cu126"),
        ("535.129.03", None, "whl/cu126"),
        ("580.65.06", None, "whl/cu130"),
        ("580.65.06", "13.0", "--gpus all"),
        ("535.129.03", "12.6", "--gpus all"),
        ("470.1", "12.6", "no build of torch"),
        ("470.1", None, "no build of torch"),
    ],
)
def test_at_start(driver, cuda, says):
    told = at_start(driver, cuda, available=False)
    assert told is None if says is None else says in told
    assert at_start(driver, cuda, available=True) is None


def test_it_runs_before_anything_is_installed():
    """-S: without site-packages."""
    done = subprocess.run([sys.executable, "-S", "-m", "app.models.driver"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_bounds_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert TORCH in project["dependencies"]
