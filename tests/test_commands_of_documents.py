"""Every command in README and docs is known and parses; those that need a moment only are run."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import typer
from accelerate.commands.launch import launch_command_parser
from typer.testing import CliRunner

from app.cli.main import app as cli
from app.cli.training import PASSED_ON
from app.settings import Settings
from tests.api.openai.conftest import Live, serving
from tests.commands import API, REFERENCE, ROOT, Command, commands
from tests.support import make_head
from training.cli import app as training
from training.sample_data import write

# Not even read by a test, and why.
OTHERS = {
    "docker compose up": "needs docker and a GPU",
    "echo OVERTONE_MODEL=": "writes .env, for docker",
    "tests/gpu/run.sh": "needs a GPU",
    "python tests/gpu/formats.py": "needs a GPU",
    "pytest -s tests/gpu/test_caps.py": "needs a GPU",
    ".venv/bin/pre-commit install": "changes the repository's hooks",
    ". .venv/bin/activate": "changes the shell",
    "export OVERTONE_MODEL=": "changes the shell",
    "mkdir -p /tmp/overtone-store": "a folder for the servers of the next lines",
    "pip install -c requirements.lock": "changes the environment",
    "serve run deploy.ray_serve": "runs until it is stopped; tests/cluster serves the same application",
    "pip install openapi-python-client": "changes the environment",
    "openapi-python-client generate": "tests/api/openai/test_generated_client.py",
    "docker build": "needs docker",
    "kubectl apply": "needs a cluster",
    "python docs/guides/dictation.py": "needs espeak-ng, a program of the system",
}
# Read, not run: by how they begin, and why.
NOT_RUN = {
    "make": "sets up an environment of its own; .ci/run runs check, test and demo",
    "overtone serve": "runs until it is stopped; the server below is the same app",
    "OVERTONE_MODEL=": "needs the 7B weights from the Hub",
    "OVERTONE_SHARED_ADAPTERS=": "runs until it is stopped; tests/api/test_shared.py",
    "OVERTONE_WEIGHTS=": "runs until it is stopped",
    "overtone quantize": "needs the 7B weights from the Hub; tests/quantization/test_checkpoint.py",
    "overtone train": "minutes; tests/training/test_run.py",
    "python -m training train": "minutes; tests/training/test_examples.py",
    "accelerate launch": "needs several GPUs; on a CPU: tests/training/test_workers.py",
    "overtone compare-methods": "minutes; tests/training/test_compare.py",
    "overtone keys": "needs keys made before; tests/cli/test_commands.py",
    "overtone bench": "minutes, and a GPU for most",
    "curl localhost:8000/training/jobs": "starts training; tests/api/test_jobs.py",
    "curl -N localhost:8000/training/jobs": "needs a job; tests/api/test_jobs.py",
    "curl 'localhost:8000/training/jobs": "needs a job; tests/api/test_jobs.py",
    "curl localhost:8000/feedback": "needs an answer of the last hour; tests/api/test_feedback.py",
    "curl localhost:8000/adapters/my-adapter/rollback": "needs a version that waits; tests/training/test_promotion.py",
    "curl -X DELETE localhost:8000/training/jobs": "needs a job; tests/api/test_jobs.py",
}
ALL = commands()
READ = [command for command in ALL if not command.line.startswith(tuple(OTHERS))]


def ids(command: Command) -> str:
    return f"{command.page}: {command.line}"


def chosen(*programs: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("command", [c for c in READ if c.words[0] in programs], ids=ids)


def test_every_command_is_read_or_excused() -> None:
    assert {c.words[0] for c in READ} == {"overtone", "python", "accelerate", "make", "curl"}
    for beginning in OTHERS | NOT_RUN:
        assert any(c.line.startswith(beginning) for c in ALL), f"{beginning}: no longer in the documents"


@chosen("overtone", "python")
def test_commands_parse(command: Command) -> None:
    words = list(command.words[1:])
    if command.words[0] == "python":
        assert words[:2] == ["-m", "training"]
        program, words = typer.main.get_command(training), words[2:]
    else:
        program = typer.main.get_command(cli)
    while hasattr(program, "commands"):  # typer's groups are no click.Group
        program = program.commands[words.pop(0)]
    if program.context_settings == PASSED_ON:  # another program's options
        program = typer.main.get_command(training).commands[program.name]
    program.make_context(command.line, words).close()
    known = {f"OVERTONE_{name.upper()}" for name in Settings.model_fields}
    assert {variable.partition("=")[0] for variable in command.variables} <= known


@chosen("accelerate")
def test_accelerate_launches_our_program(command: Command) -> None:
    launch, *words = command.words[1:]
    assert launch == "launch"
    told = launch_command_parser().parse_args(words)
    assert (told.module, told.training_script) == (True, "training")
    assert told.config_file is None or (ROOT / told.config_file).is_file()
    name, *words = told.training_script_args
    typer.main.get_command(training).commands[name].make_context(command.line, words).close()


@chosen("make")
def test_make_has_the_target(command: Command) -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(command.words[1:]) <= set(phony.split())


@chosen("curl")
def test_curl_names_a_route_and_its_fields(command: Command) -> None:
    request = Request(command)
    operation = request.operation()
    assert request.query <= {one["name"] for one in operation.get("parameters", []) if one["in"] == "query"}
    if request.kind:
        assert request.fields <= fields_of(operation["requestBody"]["content"][request.kind]["schema"])


class Request:
    """What a line of curl sends."""

    def __init__(self, command: Command) -> None:
        words = iter(command.words[1:])
        self.method, self.kind, self.fields, url = "", "", set[str](), ""
        for word in words:
            if word == "-X":
                self.method = next(words)
            elif word == "-F":
                self.kind = "multipart/form-data"
                self.fields.add(next(words).partition("=")[0])
            elif word == "--json":
                self.kind = "application/json"
                self.fields |= json.loads(next(words)).keys()
            elif word == "-H":
                assert re.match(r"(Authorization: Bearer|X-API-Key:) ", next(words))
            elif not re.fullmatch(r"-[Nsf]+", word):
                assert not url, f"{word}: another option of curl than those this test knows"
                url = word
        parts = urlsplit(url if "//" in url else f"http://{url}")
        assert parts.netloc == "localhost:8000"
        self.path, self.query = parts.path, set(parse_qs(parts.query))
        self.method = (self.method or ("POST" if self.kind else "GET")).lower()

    def operation(self) -> dict:
        """Of the first route that fits. Fails when there is none."""
        for path, methods in API["paths"].items():
            pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path))
            if re.fullmatch(pattern, self.path) and self.method in methods:
                return methods[self.method]
        pytest.fail(f"{self.method.upper()} {self.path}: no such route")


def fields_of(schema: dict) -> set[str]:
    if "$ref" in schema:
        return fields_of(API["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    names = set(schema.get("properties", ()))
    return names.union(*(fields_of(one) for one in schema.get("anyOf", ())))


def furnish(root: Path) -> None:
    """Put the files into a folder that the documents speak of."""
    (root / "tests" / "data").mkdir(parents=True)
    (root / "tests" / "data" / "human").symlink_to(ROOT / "tests" / "data" / "human")
    for name in ("runs/my-adapter", "path/to/folder", "checkpoints/orders"):
        shutil.copytree(ROOT / "adapters" / "nato", root / name)
    shutil.copytree(ROOT / "adapters" / "command-json", root / "checkpoints" / "spelling")
    shutil.make_archive(str(root / "my-adapter"), "zip", ROOT / "adapters" / "nato")
    write(root / "runs" / "tones", rows=2)
    (root / "runs" / "dictation").mkdir()  # a recording in place of espeak-ng's
    shutil.copy(ROOT / "tests" / "data" / "human" / "goforward.flac", root / "runs" / "dictation" / "0000.wav")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server with adapters of all names that the documents have made before they ask."""
    root = tmp_path_factory.mktemp("documents")
    furnish(root)
    make_head(root / "adapters" / "sounds", width=384)
    for name in ("orders", "spelling", "tones", "dictation"):
        shutil.copytree(ROOT / "adapters" / "command-json", root / "adapters" / name)
        (root / "adapters" / name / "manifest.json").unlink()
    with serving(root, feedback=root / "feedback") as started:
        shutil.copytree(started.source / "spelling", started.source / "mine")
        yield started


def quick(*programs: str) -> pytest.MarkDecorator:
    """Commands to run. Those of the reference name recordings and adapters that nobody has."""
    found = [c for c in READ if c.words[0] in programs and c.page != REFERENCE]
    found = [c for c in found if not c.line.startswith(tuple(NOT_RUN))]
    return pytest.mark.parametrize("command", found, ids=ids)


def words_of(command: Command, live: Live) -> list[str]:
    """The command's words, with this test's server and its folder of sources."""
    places = {"localhost:8000": live.url, "http://127.0.0.1:8000": live.url, "/data/adapters": str(live.source)}
    words = list(command.words)
    for told, here in places.items():
        words = [word.replace(told, here) for word in words]
    return words


def adds_mine(command: Command) -> bool:
    return any(sign in command.line for sign in ("adapters add", "-F name=mine", "/v1/load_lora_adapter"))


@quick("curl")
def test_curl_is_answered(command: Command, live: Live) -> None:
    root = live.source.parent
    with httpx.Client(base_url=live.url, trust_env=False) as client:
        client.delete("/adapters/mine")
        if not adds_mine(command):
            upload = {"file": (root / "my-adapter.zip").read_bytes()}
            assert client.post("/adapters", data={"name": "mine"}, files=upload).status_code == 201
    words = words_of(command, live)
    options = ["--silent", "--show-error", "--fail-with-body", "--noproxy", "*"]
    done = subprocess.run([words[0], *options, *words[1:]], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@quick("overtone")
def test_overtone_does_it(command: Command, live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(tmp_path)
    for name in ("nato", "command-json"):
        shutil.copytree(ROOT / "adapters" / name, tmp_path / "adapters" / name)
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    if not adds_mine(command):
        for name, extra in product(("mine", "tones"), ([], ["--replace"])):  # two versions of each
            assert run(cli, ["adapters", "add", "checkpoints/orders", "--name", name, *extra]).exit_code == 0
    words = words_of(command, live)[1:]
    if words[0] == "sample-data":  # it overwrites nothing
        shutil.rmtree(tmp_path / words[1])
    done = run(training if words[0] == "sample-data" else cli, words)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("page", ["from-vllm", "from-peft"])
def test_python_of_the_guides_runs(
    page: str, live: Live, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "guides" / f"{page}.md").read_text(), re.DOTALL)
    monkeypatch.chdir(ROOT)
    exec(compile(snippet.replace("http://localhost:8000", live.url), page, "exec"), {})
    assert json.loads(capsys.readouterr().out.splitlines()[0])["direction"] == "forward"
