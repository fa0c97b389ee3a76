"""`overtone data …` on a folder of feedback, and drafts by the embedded model. By a server: the documents' commands."""

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli.main import app
from app.feedback.recent import Upload
from app.feedback.row import FeedbackRow
from app.feedback.store import FeedbackStore
from tests.feedback.test_store import row

SPOKEN = Path(__file__).parents[1] / "data" / "human" / "goforward.flac"
CLIP = Upload(SPOKEN.read_bytes(), "flac")


def run(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return " ".join(done.output.split())


def run_json(*words: object, code: int = 0) -> Any:
    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two rows without a tenant, one of a tenant."""
    store = FeedbackStore(tmp_path / "rows", 1 << 30, 90)
    store.open()
    store.put(None, row("req-1", CLIP), [CLIP])
    store.put(None, row("req-2").model_copy(update={"verdict": "wrong"}), [])
    store.put("acme", row("req-3", CLIP), [CLIP])
    return tmp_path / "rows"


def test_rows_are_listed_shown_exported_and_deleted(folder: Path, tmp_path: Path) -> None:
    listed = run_json("data", "list", "--feedback", folder)["rows"]
    assert {one["request_id"]: one["unusable"] for one in listed} == {"req-1": None, "req-2": "no_correction"}
    assert [one["request_id"] for one in run_json("data", "list", "--wrong", "--feedback", folder)["rows"]] == ["req-2"]
    (own,) = run_json("data", "list", "--feedback", folder, "--tenant", "acme")["rows"]
    assert own["request_id"] == "req-3"
    assert own["id"][:8] in run("data", "list", "--feedback", folder, "--tenant", "acme")

    usable = next(one["id"] for one in listed if one["unusable"] is None)
    assert FeedbackRow.model_validate(run_json("data", "show", usable, "--feedback", folder)).answer == "said"
    target = tmp_path / "out.zip"
    run("data", "export", target, "--feedback", folder)
    with zipfile.ZipFile(io.BytesIO(target.read_bytes())) as archive:
        (line,) = archive.read("data.jsonl").decode().splitlines()
        assert archive.read(json.loads(line)["audio"]) == CLIP.data
    assert "not overwritten" in run("data", "export", target, "--feedback", folder, code=1)

    assert run_json("data", "delete", usable, "--feedback", folder)["id"] == usable
    gone = run_json("data", "show", usable, "--feedback", folder, code=1)
    assert gone["error"]["code"] == "not_found"
    run_json("data", "show", own["id"], "--feedback", folder, code=1)  # another's


def test_rows_are_edited(folder: Path) -> None:
    first = run_json("data", "list", "--feedback", folder)["rows"][-1]["id"]
    path = ("data", "edit", first, "--feedback", folder)
    assert run_json(*path, "--verdict", "draft")["unusable"] == "draft"
    assert [one["id"] for one in run_json("data", "list", "--drafts", "--feedback", folder)["rows"]] == [first]
    edited = run_json(*path, "--corrected", "go on", "--split", "held_out", "--exclude")
    assert (edited["verdict"], edited["corrected"], edited["split"]) == ("wrong", "go on", "held_out")
    assert edited["unusable"] == "excluded"
    assert "is changed" in run(*path, "--include", "--split", "auto", "--verdict", "right")
    shown = run_json("data", "show", first, "--feedback", folder)
    assert (shown["verdict"], shown["corrected"], shown["split"], shown["unusable"]) == ("right", None, None, None)
    assert "Say what to change" in run(*path, code=1)
    for words in (("--verdict", "maybe"), ("--split", "left"), ("--corrected", "a <audio>"), ("--wrong",)):
        assert CliRunner().invoke(app, [*map(str, path), *words]).exit_code != 0
    assert run_json("data", "show", first, "--feedback", folder) == shown
    assert "two lists" in run("data", "list", "--wrong", "--drafts", "--feedback", folder, code=1)


def test_without_a_folder_the_setting_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OVERTONE_FEEDBACK", raising=False)
    assert "OVERTONE_FEEDBACK" in run("data", "list", code=1)
    assert "There is no feedback folder" in run("data", "list", "--feedback", tmp_path / "none", code=1)
    assert "--tenant" in run("data", "list", "--tenant", "x", "--server", "http://127.0.0.1:9", code=1)


def test_drafts_of_the_model_are_written_once(tmp_path: Path) -> None:
    (tmp_path / "takes").mkdir()
    shutil.copy(SPOKEN, tmp_path / "takes" / "one.flac")
    (tmp_path / "takes" / "two.wav").write_bytes(b"no recording")
    words = ("data", "label", tmp_path, "--max-new-tokens", "8", "--device", "cpu", "--adapters", tmp_path / "none")
    told = run_json(*words)
    assert (told["rows"], told["left_out"]) == (1, ["takes/two.wav"])
    drafts = (tmp_path / "data.jsonl").read_text()
    (draft,) = map(json.loads, drafts.splitlines())
    assert (draft["audio"], draft["prompt"]) == ("takes/one.flac", "Transcribe the audio.")
    assert "forward" in draft["response"]
    assert "not overwritten" in run(*words, code=1)
    assert (tmp_path / "data.jsonl").read_text() == drafts


def test_a_folder_that_is_not_there_or_empty_is_said(tmp_path: Path) -> None:
    assert "There is no folder" in run("data", "label", tmp_path / "none", "--to", tmp_path / "x.jsonl", code=1)
    assert "holds no recordings" in run("data", "label", tmp_path, code=1)
