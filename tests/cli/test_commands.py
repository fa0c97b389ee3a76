"""The commands as a user types them: on a registry folder, on the embedded model, and in error."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.access.caller import Caller
from app.access.keyring import Keyring
from app.cli.demo import CLIP, SAID, as_command, command_in
from app.cli.main import app

SHIPPED = Path(__file__).parents[2] / "adapters"


@pytest.fixture
def folder(tmp_path):
    """A registry with one shipped adapter."""
    shutil.copytree(SHIPPED / "nato", tmp_path / "registry" / "nato")
    return tmp_path / "registry"


def run(*words, code=0, **options):
    result = CliRunner().invoke(app, [str(word) for word in words], **options)
    assert result.exit_code == code, result.output
    return result


def run_json(*words, code=0):
    return json.loads(run(*words, "--json", code=code).stdout)


def test_help_names_every_command():
    text = run("--help").stdout
    assert all(command in text for command in ("serve", "generate", "demo", "bench", "adapters"))


def test_list_and_inspect(folder):
    (listed,) = run_json("adapters", "list", "--adapters", folder)["adapters"]
    assert (listed["name"], listed["version"]) == ("nato", 1)
    told = run_json("adapters", "inspect", "nato", "--adapters", folder)
    assert told["report"]["problems"] == []
    assert told["manifest"]["base"]["name"] == "overtone-tiny"
    assert "NATO" in run("adapters", "inspect", "nato", "--adapters", folder).stdout


def test_what_cannot_be_served_is_told_with_its_reasons(folder):
    (folder / "half").mkdir()
    shutil.copy(SHIPPED / "nato" / "adapter_config.json", folder / "half")
    listed = run_json("adapters", "list", "--adapters", folder)["adapters"]
    assert [(adapter["name"], adapter["status"]) for adapter in listed] == [("half", "broken"), ("nato", "ready")]
    for words in (("list",), ("inspect", "half")):
        assert "adapter_model.safetensors is missing" in run("adapters", *words, "--adapters", folder).stdout
    run("adapters", "remove", "half", "--yes", "--adapters", folder)
    assert not (folder / "half").exists()


def test_add_replace_roll_back_and_remove(folder):
    added = run_json("adapters", "add", SHIPPED / "command-json", "--name", "mine", "--adapters", folder)
    assert (added["name"], added["version"]) == ("mine", 1)
    taken = run_json("adapters", "add", SHIPPED / "nato", "--name", "mine", "--adapters", folder, code=1)
    assert taken["error"]["code"] == "conflict"
    words = ("adapters", "add", SHIPPED / "nato", "--name", "mine", "--replace", "--adapters", folder)
    assert run_json(*words)["version"] == 2
    assert run_json("adapters", "rollback", "mine", "--adapters", folder)["version"] == 1
    run("adapters", "remove", "mine", "--adapters", folder, input="n\n", code=1)
    told = run("adapters", "remove", "mine", "--adapters", folder, "--yes").output
    assert "overtone adapters rollback mine" in " ".join(told.split())
    listed = run_json("adapters", "list", "--adapters", folder)
    assert [a["name"] for a in listed["adapters"]] == ["nato"]
    assert listed["removed"] == [{"name": "mine", "versions": [1, 2]}]
    assert "Removed, and kept: mine." in run("adapters", "list", "--adapters", folder).output
    assert run_json("adapters", "rollback", "mine", "--adapters", folder)["version"] == 2
    assert run_json("adapters", "list", "--adapters", folder)["removed"] == []


def test_add_from_an_archive(folder, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "My Nato"), "zip", SHIPPED / "nato")
    assert run_json("adapters", "add", archive, "--adapters", folder)["name"] == "my-nato"


def test_errors_say_what_to_do(folder, tmp_path):
    near = run_json("adapters", "inspect", "nata", "--adapters", folder, code=1)
    assert "did you mean nato" in near["error"]["message"]
    assert "--server" in run("adapters", "select", "nato", code=1).output
    assert "cannot be read" in run_json("generate", tmp_path / "none.wav", code=1)["error"]["message"]
    assert "Name a recording" in run("generate", code=1).output
    assert "give --train too" in run("bench", "--batch", "3", code=1).output
    for command in (("generate", CLIP), ("serve",)):
        assert "'banana' is no device" in run(*command, "--device", "banana", code=1).output
        assert "There is no cuda:99" in run(*command, "--device", "cuda:99", code=1).output
    (tmp_path / "text.wav").write_text("no audio")
    refused = run_json("generate", tmp_path / "text.wav", "--adapters", folder, code=1)
    assert refused["error"]["code"] == "not_audio"


def test_generate_without_a_server(folder):
    words = ("generate", CLIP, "--prompt", "Transcribe the audio.", "--adapters", folder)
    plain = run_json(*words)
    assert (plain["text"], plain["adapter"]) == (SAID, {"name": "base"})
    spelled = run_json(*words, "--adapter", "nato")
    assert spelled["text"].startswith("golf oscar")
    assert spelled["adapter"] == {"name": "nato", "version": 1}
    half = run_json(*words, "--adapter", "nato:0.5", "--max-new-tokens", "1")["adapter"]
    assert half == {"name": "nato:0.5", "mix": [{"name": "nato", "version": 1, "weight": 0.5}]}
    assert spelled["audio"][0]["seconds"] == pytest.approx(2.79, abs=0.01)


def test_the_demo_s_check_can_fail():
    right = '{"intent": "move", "direction": "forward", "distance": 10, "unit": "meters"}'
    assert as_command(right) == command_in(SAID)
    assert as_command(right.replace("10", "9")) != command_in(SAID)
    assert as_command("go forward ten meters") is None


def test_keys_are_made_listed_and_revoked(tmp_path):
    file = ("--file", tmp_path / "keys.json")
    plain = run("keys", "add", "callers", *file).stdout.strip()
    made = run_json("keys", "add", "acme", "--tenant", "acme", "--scope", "infer", "--scope", "train",
                    "--adapter", "acme-*", "--per-minute", 60, "--concurrent", 4, *file)  # fmt: skip
    ring = Keyring(file=file[1])
    assert ring.find(plain).scopes == {"infer"}
    assert ring.find(made["key"]) == Caller(made["id"], frozenset({"infer", "train"}), "acme", ("acme-*",), 60, 4)
    listed = run("keys", "list", *file).stdout
    assert "callers" in listed
    assert plain not in listed
    assert "sha256" not in run_json("keys", "list", *file)["keys"][0]
    run("keys", "revoke", made["id"], *file)
    assert [key["name"] for key in run_json("keys", "list", *file)["keys"]] == ["callers"]
    assert run_json("keys", "revoke", "ffffffff", *file, code=1)["error"]["code"] == "not_found"
    assert run_json("keys", "add", "x", "--tenant", "No Tenant", *file, code=1)["error"]["code"] == "bad_request"
    assert "OVERTONE_KEYS_FILE" in run_json("keys", "list", code=1)["error"]["message"]
