"""Numbers, files and archives, without processes."""

import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from app.errors import BadRequest, Forbidden
from app.jobs.command import training_command
from app.jobs.dataset import allowed_dataset, data_in, unpack_dataset
from app.jobs.events import Tail, summary
from app.jobs.job import Job, Options, now
from app.jobs.memory import shortage, shortage_on
from app.jobs.store import JobStore, tail
from app.registry.archive_reader import ArchiveLimits
from app.settings import Settings

LIMITS = ArchiveLimits(1000, 10, "OVERTONE_MAX_DATASET_MB")
NEEDED = 18_700_000_000  # bytes of training with Qwen2-Audio-7B in bfloat16


@pytest.mark.parametrize(("free_gb", "fits"), [(139, True), (30, True), (19, True), (18, False), (0, False)])
def test_room_for_seven_billion(free_gb: float, fits: bool) -> None:
    reason = shortage(int(free_gb * 1e9), NEEDED)
    assert (reason is None) == fits
    if reason:
        assert f"{free_gb:.1f} GB are free" in reason
        assert "about 18.7 GB" in reason
        assert "OVERTONE_GPU_GB" in reason


def test_a_cpu_always_has_room() -> None:
    assert shortage_on(torch.device("cpu"), 10**15) is None


def test_a_gpu_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (18 * 10**9, 80 * 10**9))
    assert "18.0 GB are free" in str(shortage_on(torch.device("cuda"), NEEDED))


def test_events_are_read_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    lines = Tail(file)
    assert lines.read() == []
    file.write_text('{"event": "gate", "ok": true}\nnonsense\n[1]\n{"event": "bad kind\\n"}\n{"event": "st')
    (gate,) = lines.read()
    assert (gate.number, gate.kind, gate.data) == (1, "gate", {"ok": True})
    with file.open("a") as stream:
        stream.write('ep", "loss": NaN, "eta_seconds": Infinity}\n')
    (step,) = lines.read()
    assert (step.number, step.data) == (5, {"loss": None, "eta_seconds": None})


def test_a_summary_takes_nothing_for_granted(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    rows = [
        {"event": "gate", "report": 3},
        {"event": "error", "message": None, "problems": "no list"},
        {"event": "done", "adapter": "name", "metrics": []},
        {"event": "news", "of": "tomorrow"},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = summary(file)
    assert (told.gate, told.adapter, told.metrics, told.problems) == ({"ok": False, "report": {}}, None, None, [])
    assert (told.events, told.last) == (4, "news")
    assert summary(file, file.stat().st_size).events == 0


def test_the_end_of_a_log(tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    assert tail(file, 3) == ""
    file.write_bytes(b"one\ntwo\rthree\n\xff four")
    assert tail(file, 2) == "three\n\ufffd four\n"
    assert tail(file, 9, most=5).startswith("four") or tail(file, 9, most=5) == " four\n"


def test_a_single_file_gets_a_plain_name(tmp_path: Path) -> None:
    found = unpack_dataset(io.BytesIO(b"{}\n"), "../../etc/x.JSONL", tmp_path, LIMITS)
    assert found == tmp_path / "data.jsonl"
    assert found.read_bytes() == b"{}\n"


def test_what_a_folder_may_be(tmp_path: Path) -> None:
    root = tmp_path / "sets"
    (root / "good" / "inner").mkdir(parents=True)
    (root / "good" / "inner" / "rows.csv").write_text("audio,text\n")
    (root / "empty").mkdir()
    (tmp_path / "secret.csv").write_text("x")
    (root / "way-out").symlink_to(tmp_path)
    assert allowed_dataset(str(root / "good"), [root]) == root / "good" / "inner" / "rows.csv"
    assert allowed_dataset(str(root / "good/inner/rows.csv"), [root]).name == "rows.csv"
    for outside in (tmp_path / "secret.csv", root / ".." / "secret.csv", root / "way-out" / "secret.csv", Path("/etc")):
        with pytest.raises(Forbidden, match="OVERTONE_DATASET_ROOTS"):
            allowed_dataset(str(outside), [root])
    for nothing in (root / "empty", root / "missing.csv"):
        with pytest.raises(BadRequest):
            allowed_dataset(str(nothing), [root])
    (root / "good" / "inner" / "more.jsonl").write_text("")
    with pytest.raises(BadRequest, match=r"several data files .*more.jsonl.*rows.csv"):
        allowed_dataset(str(root / "good"), [root])


def test_folders_that_need_no_list(tmp_path: Path) -> None:
    """As the trainer reads them: transcripts beside recordings, a folder a class, a data file a split."""
    for name in ("spoken/a.wav", "spoken/a.txt", "sounds/rain/1.flac", "sounds/wind/1.flac", "bare/a.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "parts" / "inner").mkdir(parents=True)
    for name in ("train.jsonl", "validation.tsv"):
        (tmp_path / "parts" / "inner" / name).touch()
    for name in ("spoken", "sounds"):
        assert allowed_dataset(str(tmp_path / name), [tmp_path]) == tmp_path / name
    assert allowed_dataset(str(tmp_path / "parts"), [tmp_path]) == tmp_path / "parts" / "inner"
    with pytest.raises(BadRequest, match="no recordings with a transcript"):
        allowed_dataset(str(tmp_path / "bare"), [tmp_path])


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["train.jsonl", "val.jsonl"], "."),
        (["in/my_train.csv", "in/my_eval.csv", "clips/a.wav"], "in"),
        (["train.tsv", "dev.tsv", "validated.tsv", "clips/a.mp3"], "."),
        (["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"], "data"),
        (["train/metadata.csv", "valid/metadata.csv", "train/a.wav"], "."),
        (["train/metadata.csv", "train/a.wav", "val/a.wav"], "."),
        (["one.parquet"], "one.parquet"),
        (["set/dataset_dict.json", "set/train/state.json", "set/train/data-00000-of-00001.arrow"], "set"),
        (["state.json", "dataset_info.json", "data-00000-of-00001.arrow"], "."),
        (["rows.json", "dataset_info.json", "._rows.json", ".cache.json"], "rows.json"),
        (["data/train/wav.scp", "data/train/text", "data/test/wav.scp", "data/test/text"], "."),
        (["train/high/1.caf", "val/high/2.wma"], "."),
    ],
)
def test_what_the_trainer_is_to_read(tmp_path: Path, files: list[str], found: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert data_in(tmp_path) == (tmp_path / found)


def test_the_trainer_is_told_whose_the_adapter_is(tmp_path: Path) -> None:
    from training.cli import options_of

    job = Job(id="1", options=Options(name="x"), dataset="d.csv", owner="acme", created=now(), queued=now())
    words = training_command(job, JobStore(tmp_path), tmp_path, "model")
    told = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
    assert options_of("d.csv", "x", "lora", {}, told, "").owner == "acme"


def test_a_job_is_its_owners_alone(tmp_path: Path) -> None:
    """Other users of the machine read neither recordings nor logs, also of folders that an older release made."""
    before = os.umask(0o022)
    try:
        store = JobStore(tmp_path / "jobs")
        store.open()
        with store.draft() as identity:
            job = Job(id=identity, options=Options(name="x"), dataset="d", created=now(), queued=now())
            store.save(job)
        places = [store.root, store.folder(identity)]
        assert [stat.S_IMODE(place.stat().st_mode) for place in places] == [0o700, 0o700]
        store.close()
        store.folder(identity).chmod(0o755)
        assert [one.id for one in JobStore(tmp_path / "jobs").open()] == [identity]
        assert stat.S_IMODE(store.folder(identity).stat().st_mode) == 0o700
    finally:
        os.umask(before)


def test_a_trainer_has_no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither from the service's environment nor from the `.env` that both read; other settings it has."""
    (tmp_path / ".env").write_text(
        "OVERTONE_API_KEYS=one,two\nOVERTONE_ADMIN_KEYS=three\nOVERTONE_KEYS_FILE=keys.json\nOVERTONE_MAX_RANK=17\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OVERTONE_ADMIN_KEYS", "four")
    service = Settings(device="cpu")
    assert (service.api_keys, service.admin_keys, str(service.keys_file)) == (("one", "two"), ("four",), "keys.json")
    script = (
        "from training.cli import settings_of; told = settings_of(device='cpu'); "
        "print(told.api_keys, told.admin_keys, told.keys_file, told.max_rank)"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script], env=service.for_children() | {"PYTHONPATH": root}, cwd=tmp_path,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == "() () None 17", done.stderr
