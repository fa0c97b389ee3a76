"""The trainer's command line."""

import sys
from collections.abc import Sequence
from pathlib import Path

from app.jobs.job import Job
from app.jobs.store import JobStore

TRAINER = (sys.executable, "-m", "training", "train")
# Options that go as --set key=value
SET = (
    "learning_rate", "rank", "alpha", "lora_plus", "dora", "eva", "include_audio_tower", "hidden", "batch_size",
    "max_steps", "patience", "validation_share", "prompt", "task", "seed", "weights", "promote", "start",
)  # fmt: skip


def training_command(job: Job, store: JobStore, registry: Path, model: str, roots: Sequence[Path] = ()) -> list[str]:
    """The command line that runs ``job``; run again, it resumes the job from its work folder.

    Rows may name recordings of their own data set; those of the operator's jobs, which no tenant owns, under the
    ``roots`` as well. No other file of this machine.
    """
    options = job.options
    words = [*TRAINER, job.dataset, "--name", options.name, "--registry", str(registry), "--model", model]
    words += ["--work", str(store.work(job.id)), "--events", str(store.events(job.id)), "--method", options.method]
    if options.check:
        words.append("--dry-run")
    if job.also is not None:
        words += ["--also", job.also]
    for root in (
        store.data(job.id),
        *([store.feedback(job.id)] if job.also else []),
        *(roots if job.owner is None else ()),
    ):
        words += ["--audio-root", str(root.absolute())]
    if options.preset is not None:
        words += ["--preset", options.preset]
    if options.epochs is not None:
        words += ["--epochs", f"{options.epochs:g}"]
    if options.allow:
        words += ["--allow", ",".join(options.allow)]
    for key in SET:
        value = getattr(options, key)
        if value is not None:
            words += ["--set", f"{key}={value}"]
    if job.owner is not None:
        words += ["--set", f"owner={job.owner}"]
    return words
