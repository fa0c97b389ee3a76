"""A process that publishes one version after another until it is killed; imports once, then forks for each life.

`publisher.py MODEL REGISTRY ODD EVEN`: version n comes from ODD or EVEN. Each line on stdin starts a life: empty, or
the name of a step at whose first call the life kills itself. A life prints its number; `.` follows when it is over.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from app.models.loading import spec_of
from app.registry.disk import Store
from app.registry.local import LocalRegistry

NAME = "a"
STEPS: dict[str, tuple[Any, str]] = {
    "copy": (shutil, "copyfile"),
    "seal": (Store, "seal"),
    "switch": (Store, "switch"),
    "aside": (Store, "_move_aside"),
    "rename": (Path, "rename"),
    "marker": (Path, "unlink"),
    "prune": (Store, "_prune"),
}


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after(original: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> None:
        original(*arguments, **named)
        die()

    return call


def tell(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def live(registry: LocalRegistry, folders: list[Path], step: str) -> None:
    name, _, when = step.partition(":")
    if name:
        holder, attribute = STEPS[name]
        setattr(holder, attribute, after(getattr(holder, attribute)) if when == "after" else die)
    while True:
        registry.refresh()
        current = registry.get(NAME).version
        registry.publish(folders[current % 2], NAME, replace=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    model, root, *folders = sys.argv[1:]
    registry = LocalRegistry(Path(root), spec_of(model), max_rank=64, keep_versions=3)
    registry.refresh()
    for line in sys.stdin:
        life = os.fork()
        if not life:
            live(registry, [Path(one) for one in folders], line.strip())
        tell(life)
        os.waitpid(life, 0)
        tell(".")
