"""A wrong path is one line of error in every command, and nothing that is there is overwritten."""

import json
import os
import shutil
from pathlib import Path

import pytest
import soundfile
from typer.testing import CliRunner

from app.cli.main import app
from training.cli import app as training

ROOT = Path(__file__).parents[2]
LONG = "a" * 300
FILE_FOR_FOLDER = ("a-file", "a-file/below", LONG)
FOLDER_FOR_FILE = ("a-folder", "a-file/below", LONG)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """A folder with something of each kind."""
    for name in [name for name in os.environ if name.startswith("OVERTONE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    Path("a-file").write_text("words")
    Path("an-empty-file").touch()
    Path("a-folder").mkdir()
    shutil.copytree(ROOT / "adapters" / "nato", "registry/nato")
    soundfile.write("a.wav", [0.0] * 1600, 16_000)
    rows = [{"audio": "a.wav", "prompt": "x", "response": "y"}] * 2
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def refused(program, *words):
    """The one line that a command refuses with."""
    done = CliRunner().invoke(program, list(words))
    assert isinstance(done.exception, SystemExit), repr(done.exception)
    assert done.exit_code in (1, 2)
    lines = [line for line in done.stderr.splitlines() if line.startswith(("error", "note"))]
    assert [line for line in lines if line.startswith("error")] == lines[-1:], done.output
    return lines[-1]


@pytest.mark.parametrize("path", FILE_FOR_FOLDER)
@pytest.mark.parametrize(
    "words",
    [
        ("generate", "a.wav"),
        ("adapters", "list"),
        ("adapters", "add", "registry/nato", "--name", "new"),
        ("adapters", "inspect", "nato"),
        ("adapters", "merge", "nato:0.5", "nato2:0.5", "--name", "new"),
        ("adapters", "remove", "nato", "--yes"),
        ("adapters", "rollback", "nato"),
        ("serve", "--port", "0"),
    ],
)
def test_a_file_is_no_registry(words, path):
    assert "adapters: a" in refused(app, *words, "--adapters", path)


@pytest.mark.parametrize("path", [*FOLDER_FOR_FILE, "an-empty-file"])
@pytest.mark.parametrize("words", [("list",), ("revoke", "x"), ("add", "me")])
def test_keys_files(words, path):
    before = {file: file.read_bytes() for file in Path().rglob("*") if file.is_file()}
    assert path[:20] in refused(app, "keys", *words, "--file", path)
    assert {file: file.read_bytes() for file in Path().rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("path", ["nowhere/x.wav", "a-folder", "a-file", "an-empty-file", LONG])
def test_recordings(path):
    assert path[:20] in refused(app, "generate", path)


@pytest.mark.parametrize(
    "path", ["nowhere", "nowhere.zip", "/nowhere/at/all", "no/where", "a-file", "an-empty-file", LONG]
)
def test_sources_of_adapters(path):
    said = refused(app, "adapters", "add", path, "--name", "new", "--adapters", "registry")
    assert path[:20] in said
    assert "OVERTONE_ADAPTER_SOURCES=hf://no/" in said if path == "no/where" else "this server" not in said


def test_an_empty_source_is_not_the_folder_that_one_is_in():
    assert "is empty" in refused(app, "adapters", "add", "", "--name", "new", "--adapters", "registry")


def test_a_registry_that_does_not_exist_is_said_and_not_made():
    listed = CliRunner().invoke(app, ["adapters", "list", "--adapters", "nowhere", "--json"])
    assert json.loads(listed.stdout) == {"adapters": [], "removed": []}
    assert "nowhere does not exist" in listed.stderr
    for words in (("inspect", "nato"), ("remove", "nato", "--yes"), ("rollback", "nato")):
        assert "nowhere does not exist" in refused(app, "adapters", *words, "--adapters", "nowhere")
    assert not Path("nowhere").exists()
    added = CliRunner().invoke(app, ["adapters", "add", "registry/nato", "--adapters", "nowhere"])
    assert (added.exit_code, Path("nowhere/nato").is_dir()) == (0, True)


def test_a_taken_name_names_the_option():
    said = refused(app, "adapters", "add", "registry/nato", "--adapters", "registry")
    assert "--replace" in said
    assert "--name" in said


@pytest.mark.parametrize(
    "words",
    [
        ("train", "data.jsonl", "--name", "n", "--work", "a-file"),
        ("train", "data.jsonl", "--name", "n", "--events", "a-folder"),
        ("train", "data.jsonl", "--name", "n", "--check", "--events", "a-file/below"),
        ("train", "data.jsonl", "--name", "n", "--registry", "a-file"),
        ("train", "nowhere.jsonl", "--name", "n", "--check"),
        ("train", "an-empty-file", "--name", "n", "--check"),
        ("train", "a-folder", "--name", "n", "--check"),
        ("train", LONG, "--name", "n", "--check"),
        ("train", "data.jsonl", "--name", "n", "--check", "--validation", "nowhere.jsonl"),
        ("sample-data", "a-file"),
        ("sample-data", "a-file/below"),
        ("sample-data", LONG),
        ("compare-methods", "--out", "a-file"),
        ("compare-methods", "--dimensions-only", "nowhere"),
        ("compare-methods", "--dimensions-only", "7b", "--out", "a-file"),
    ],
)
def test_commands_of_training(words):
    assert refused(training, *words)


def test_sample_data_overwrites_nothing():
    mine = Path("mine")
    assert CliRunner().invoke(training, ["sample-data", "mine", "--rows", "2"]).exit_code == 0
    Path(mine / "data.jsonl").write_text("my own rows")
    said = refused(training, "sample-data", "mine", "--rows", "2")
    assert "--force" in said
    assert "mine/data.jsonl and 2 more" in said
    assert (mine / "data.jsonl").read_text() == "my own rows"
    (mine / "data.jsonl").unlink()
    (mine / "0000.flac").unlink()
    (mine / "0001.flac").write_text("a recording of my own")
    assert "0001.flac" in refused(training, "sample-data", "mine", "--rows", "2")
    assert [file.name for file in mine.iterdir()] == ["0001.flac"]
    assert CliRunner().invoke(training, ["sample-data", "mine", "--rows", "2", "--force"]).exit_code == 0
    assert len((mine / "data.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("words", [(), ("--dimensions-only", "7b")])
def test_a_comparison_overwrites_no_earlier_one(words):
    for name in ("comparison.json", "dimensions.json"):
        (Path("a-folder") / name).write_text("earlier")
    said = refused(training, "compare-methods", *words, "--out", "a-folder")
    assert "--force" in said
    assert sorted(file.name for file in Path("a-folder").iterdir()) == ["comparison.json", "dimensions.json"]


def test_a_comparison_of_nothing_fails():
    assert "None of the methods" in refused(training, "compare-methods", "nowhere.jsonl", "--out", "new")


def test_an_adapter_to_train_needs_a_name():
    assert "--name" in refused(training, "train", "data.jsonl")
    assert not Path("runs").exists()
