"""The command line of a job, before the real trainer."""

import json
import subprocess
from pathlib import Path

from app.jobs.command import training_command
from app.jobs.job import Job, Options, now
from app.jobs.store import JobStore
from app.settings import EMBEDDED_MODEL
from training.sample_data import write


def test_the_trainer_knows_every_option(tmp_path: Path) -> None:
    """The command of a job is one that the real trainer takes, and its data may name no file outside."""
    store = JobStore(tmp_path / "jobs")
    store.open()
    given = Options(
        name="x", preset="strong", epochs=0.5, allow=["few_samples"], learning_rate=1e-4, rank=4, alpha=3.5,
        lora_plus=16, dora=False, eva=True, include_audio_tower=True, batch_size=2, max_steps=7, patience=2,
        validation_share=0.2, prompt="What is it?\nSay.", task="-- a task", seed=5, weights="int4",
        promote="not_worse", start="base",
    )  # fmt: skip
    assert given.model_fields_set == Options.model_fields.keys() - {"method", "hidden", "check"}
    with store.draft() as identity:
        rows = write(store.data(identity), 24)
        (tmp_path / "private.flac").write_bytes((rows.parent / "0000.flac").read_bytes())
        job = Job(id=identity, options=given, dataset=str(rows), created=now(), queued=now())

        def check(*roots: Path) -> "subprocess.CompletedProcess[str]":
            words = training_command(job, store, tmp_path / "registry", str(EMBEDDED_MODEL), roots)
            return subprocess.run([*words, "--check"], capture_output=True, text=True, timeout=120)

        assert check().returncode == 0
        with rows.open("a") as lines:
            lines.write(json.dumps({"audio": str(tmp_path / "private.flac"), "text": "secret"}) + "\n")
        refused = check()
        assert (refused.returncode, "lies outside the data set" in refused.stderr) == (2, True)
        assert check(tmp_path).returncode == 0
        job.owner = "acme"
        refused = check(tmp_path)
        assert (refused.returncode, "lies outside the data set" in refused.stderr) == (2, True), "not a tenant's"
    store.close()
