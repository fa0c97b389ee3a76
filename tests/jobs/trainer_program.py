"""A stand-in for `python -m training train`: obeys its command line, events and exit codes, and trains nothing.

The first row of its data says what it does:
  {"do": "publish", "adapter": FOLDER}    publish FOLDER as it is
  {"do": "crash" | "refuse" | "fail" | "vanish" | "stubborn" | "silent"}
``steps`` steps come first; with ``until`` it waits, after the first of them, for that file to appear.
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["train"])
    parser.add_argument("data", type=Path)
    for name in ("--name", "--registry", "--model", "--work", "--events"):
        parser.add_argument(name, required=True)
    parser.add_argument("--method", choices=["lora", "projector", "head"])
    parser.add_argument("--preset")
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--audio-root", action="append")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--allow")
    parser.add_argument("--dry-run", action="store_true")
    return parser.parse_args()


class Trainer:
    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.plan = json.loads(asked.data.read_text().splitlines()[0])
        self.checkpoint = Path(asked.work) / "checkpoint"

    def tell(self, event: str, **fields: object) -> None:
        with open(self.asked.events, "a") as stream:
            stream.write(json.dumps({"event": event, **fields}) + "\n")

    def stop(self, number: int, _: object) -> None:
        if self.plan["do"] != "stubborn":
            sys.exit(128 + number)

    def run(self) -> int:
        do = self.plan["do"]
        signal.signal(signal.SIGTERM, self.stop)
        sys.stdout.write(f"training with {sys.argv[2:]}, niceness {os.nice(0)}\n")
        sys.stdout.flush()
        findings = [{"code": "silent", "recordings": self.plan["silent"]}] if "silent" in self.plan else []
        self.tell("gate", ok=do != "refuse", report={"rows": 1} | ({"findings": findings} if findings else {}))
        if do == "refuse":
            self.tell("error", message="The data was refused.", problems=["2 rows have no audio"])
            return 2
        if self.asked.dry_run:
            self.tell("checked", estimate={"steps": 3})
            return 0
        self.steps(self.plan.get("steps", 2))
        if do == "crash":
            raise RuntimeError("CUDA out of memory, so to speak")
        if do == "fail":
            self.tell("error", message="The loss is not finite.", problems=[])
            return 1
        if do == "vanish":
            os.kill(os.getpid(), signal.SIGKILL)
        if do == "publish":
            self.publish()
        return 0

    def steps(self, steps: int) -> None:
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        begun = int(self.checkpoint.read_text()) if self.checkpoint.exists() else 0
        self.tell("start", steps=steps, rows={"train": 1}, resumed_from=begun)
        for step in range(begun + 1, steps + 1):
            self.tell("step", step=step, loss=float("nan"), lr=1e-4, tokens_per_second=10, eta_seconds=steps - step)
            self.checkpoint.write_text(str(step))
            while "until" in self.plan and not Path(self.plan["until"]).exists():
                time.sleep(0.02)
        self.tell("eval", step=steps, loss=0.5, metrics={"wer": 0.1})

    def publish(self) -> None:
        sys.path.insert(0, os.getcwd())  # as `python -m` does
        from app.models.loading import spec_of
        from app.registry.local import LocalRegistry

        registry = LocalRegistry(Path(self.asked.registry), spec_of(self.asked.model), max_rank=256, keep_versions=5)
        registry.refresh()  # so that it knows the versions that are there
        owner = dict(one.split("=", 1) for one in self.asked.set).get("owner")
        made = registry.publish(Path(self.plan["adapter"]), self.asked.name, replace=True, owner=owner)
        metrics = {"before": {"wer": 0.5}, "after": {"wer": 0.1}}
        self.tell("done", adapter={"name": made.name, "version": made.version}, metrics=metrics)


if __name__ == "__main__":
    sys.exit(Trainer(options()).run())
