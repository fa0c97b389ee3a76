"""Which build of torch suits this machine's NVIDIA driver. Standard library alone: it also runs before torch is there.

`python -m app.models.driver INDEX` prints what to know before torch is installed, for the Makefile.
"""

import re
import sys
from pathlib import Path

# written by the kernel module, visible in containers as well
DRIVER_FILE = Path("/proc/driver/nvidia/version")
# CUDA's major version, newest first -> the oldest driver for it (NVIDIA, "CUDA Compatibility", minor versions)
OLDEST_DRIVER = {13: 580, 12: 525}
INDEXES = {13: "cu130", 12: "cu126"}  # of torch's builds
USUAL_CUDA = 13  # of the wheels that PyPI has
INDEX = "https://download.pytorch.org/whl"
CHOOSE = f"PIP_EXTRA_INDEX_URL={INDEX}"
TORCH = "torch>=2.11,<2.15"  # as pyproject.toml has it
REINSTALL = f"python -m pip install --force-reinstall '{TORCH}' --extra-index-url {INDEX}"


def driver_version(file: Path = DRIVER_FILE) -> str | None:
    """`570.86.15`; None without an NVIDIA driver."""
    try:
        found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)", file.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return found[1] if found else None


def before_install(driver: str | None, index: str | None) -> str | None:
    """Advice before torch is installed from pip's usual index; None where that one suits.

    ``index``: one that the user has named already.
    """
    if index or sys.platform != "linux":
        return None
    if driver is None:
        return (
            "There is no NVIDIA driver here. torch's usual build brings gigabytes for CUDA; the one for CPUs is much "
            f"smaller: make {CHOOSE}/cpu"
        )
    if _major(driver) >= OLDEST_DRIVER[USUAL_CUDA]:
        return None
    return f"torch's usual build cannot use this GPU. {_too_old(driver, USUAL_CUDA, f'make {CHOOSE}')}"


def at_start(driver: str | None, cuda: str | None, available: bool) -> str | None:
    """Why a machine with an NVIDIA driver computes on its CPU, and what to do; None where all is well.

    ``cuda``: the CUDA that torch was built for, None for a CPU build; ``available``: torch can use the GPU.
    """
    if available or driver is None:
        return None
    if cuda is None and _index(driver):
        return (
            f"There is an NVIDIA driver ({driver}), and the torch that is installed computes on CPUs alone. For the "
            f"GPU: {REINSTALL}/{_index(driver)}"
        )
    built_for = int(cuda.partition(".")[0]) if cuda else USUAL_CUDA
    if _major(driver) < OLDEST_DRIVER.get(built_for, 0):
        return f"torch cannot use the GPU; the CPU computes. {_too_old(driver, built_for, REINSTALL)}"
    return (
        f"There is an NVIDIA driver ({driver}), and torch sees no GPU; the CPU computes. Look at nvidia-smi and at "
        "CUDA_VISIBLE_DEVICES; a container needs --gpus all."
    )


def advice() -> str | None:
    """`at_start` for this process."""
    import torch

    return at_start(driver_version(), torch.version.cuda, torch.cuda.is_available())


def _major(driver: str) -> int:
    return int(driver.partition(".")[0])


def _index(driver: str) -> str:
    """The index whose builds this driver can run; empty where there is none."""
    return next((INDEXES[cuda] for cuda, oldest in OLDEST_DRIVER.items() if _major(driver) >= oldest), "")


def _too_old(driver: str, cuda: int, command: str) -> str:
    words = f"The NVIDIA driver {driver} is too old for CUDA {cuda}: renew it ({OLDEST_DRIVER[cuda]} or newer)"
    if not _index(driver):
        return f"{words}; no build of torch that Overtone can use runs on it."
    return f"{words}, or take torch for an older CUDA: {command}/{_index(driver)}"


if __name__ == "__main__":
    if told := before_install(driver_version(), "".join(sys.argv[1:])):
        print(told)  # noqa: T201, for the Makefile
