"""The trainer's command line: the one place that knows it."""

import sys
from pathlib import Path

from app.jobs.job import Job
from app.jobs.store import JobStore

TRAINER = (sys.executable, "-m", "training", "train")
SET = ("learning_rate", "rank", "batch_size", "seed")  # options that go as --set key=value


def training_command(job: Job, store: JobStore, registry: Path, model: str) -> list[str]:
    """What runs ``job``; the same words again resume it from its work folder."""
    options = job.options
    words = [*TRAINER, job.dataset, "--name", options.name, "--registry", str(registry), "--model", model]
    words += ["--work", str(store.work(job.id)), "--events", str(store.events(job.id)), "--method", options.method]
    if options.check:
        words.append("--dry-run")
    if options.preset is not None:
        words += ["--preset", options.preset]
    if options.epochs is not None:
        words += ["--epochs", str(options.epochs)]
    if options.allow:
        words += ["--allow", ",".join(options.allow)]
    for key in SET:
        value = getattr(options, key)
        if value is not None:
            words += ["--set", f"{key}={value}"]
    return words
