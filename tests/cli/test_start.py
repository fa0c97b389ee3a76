"""The first seconds of a command: the port, the banner, the variables, the address of a server."""

import json
import os
import socket
import sys
from pathlib import Path

import httpx
import pytest
from rich.console import Console
from typer.testing import CliRunner

from app.cli import adapters as commands
from app.cli.client import Client, server_address
from app.cli.main import app
from app.cli.output import Refused
from app.cli.serve import banner, page_url
from app.errors import BadRequest, Conflict, NotReady
from app.listening import listening_sockets
from app.settings import Settings, unknown_variables

SHIPPED = Path(__file__).parents[2] / "adapters"


@pytest.fixture(autouse=True)
def _no_variables(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("OVERTONE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def taken():
    """A port that another program listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_port_in_use_is_one_line_before_anything_is_loaded(taken, monkeypatch):
    monkeypatch.setitem(sys.modules, "app.main", None)  # its import would take seconds, and fails here
    done = CliRunner().invoke(app, ["serve", "--port", str(taken)])
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error Port {taken} of 127.0.0.1 is in use")
    assert f"--port {taken + 1}" in line


def test_sockets_listen_at_once_on_the_port_that_was_asked_for():
    (first,) = listening_sockets("127.0.0.1", 0)
    port = first.getsockname()[1]
    connected = socket.create_connection(("127.0.0.1", port), timeout=10)
    with first, connected, pytest.raises(Conflict, match=f"Port {port}"):
        listening_sockets("127.0.0.1", port)
    for again in listening_sockets("127.0.0.1", port):  # as soon as it is free
        again.close()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 70, "203.0.113.7"])
def test_addresses_that_are_not_of_this_machine(host):
    with pytest.raises(BadRequest, match=r"--host"):
        listening_sockets(host, 0)


def test_the_banner_has_the_page_the_model_and_the_number_of_adapters():
    text = shown(banner(Settings(_env_file=None, device="cpu", adapters=SHIPPED, host="0.0.0.0"), 8123))
    assert "http://127.0.0.1:8123" in text
    assert "http://127.0.0.1:8123/docs" in text
    assert "every address of this machine" in text
    assert "overtone-tiny" in text
    assert f"2 in {SHIPPED}" in text
    text = shown(banner(Settings(_env_file=None, device="cpu", adapters=Path("nowhere")), 8000))
    assert f"{Path.cwd() / 'nowhere'} does not exist" in text
    assert page_url("::", 80) == "http://[::1]:80"
    assert page_url("audio.example", 80) == "http://audio.example:80"


def shown(what):
    console = Console(width=200)
    with console.capture() as captured:
        console.print(what)
    return captured.get()


def test_unknown_variables_are_named_with_the_nearest_setting(monkeypatch):
    assert unknown_variables() == []
    for name in ("OVERTONE_ADAPTER", "overtone_max_batchs", "OVERTONE_ZEBRA", "OVERTONE_PORT", "OVERTONE_KEY", "OTHER"):
        monkeypatch.setenv(name, "8000")
    Path(".env").write_text("OVERTONE_HOSTS=127.0.0.1\nPATHS=x\n")
    told = unknown_variables()
    assert len(told) == 4
    assert "OVERTONE_ADAPTER is no setting" in told[0]
    assert "did you mean OVERTONE_ADAPTERS?" in told[0]
    assert told[1].startswith("OVERTONE_HOSTS (in .env) is no setting")
    assert "did you mean" not in told[2]
    assert "did you mean OVERTONE_MAX_BATCH?" in told[3]


def test_commands_name_them_on_stderr(monkeypatch):
    monkeypatch.setenv("OVERTONE_ADAPTER", "elsewhere")
    done = CliRunner().invoke(app, ["adapters", "list", "--adapters", str(SHIPPED), "--json"])
    assert "did you mean OVERTONE_ADAPTERS?" in done.stderr
    assert len(json.loads(done.stdout)["adapters"]) == 2


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("127.0.0.1:8822", "http://127.0.0.1:8822"),
        ("localhost:8822/", "http://localhost:8822"),
        ("audio.example", "http://audio.example"),
        ("[::1]:8000", "http://[::1]:8000"),
        (" https://audio.example/overtone/ ", "https://audio.example/overtone"),
    ],
)
def test_addresses_of_servers(text, url):
    assert server_address(text) == url


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "empty"), ("8822", "host"), (":8822", "host"), ("http://", "host"), ("ftp://x", "http or https"),
     ("http://x:port", "address"), ("http:/x", "http://127.0.0.1:8000")],
)  # fmt: skip
def test_what_an_address_lacks(text, says):
    with pytest.raises(BadRequest, match=says):
        server_address(text)


def answering(monkeypatch, *answer, **content):
    """A client whose server gives this answer."""
    client = Client("127.0.0.1:9")
    monkeypatch.setattr(client._http, "request", lambda *_, **__: httpx.Response(*answer, **content))
    return client


def test_a_server_that_is_another_program_is_no_traceback(monkeypatch):
    with pytest.raises(NotReady, match="no Overtone server"):
        answering(monkeypatch, 200, text="<html>").call("GET", "/adapters")
    problem = {"code": "unauthorized", "detail": "This server asks for a key."}
    with pytest.raises(Refused, match="--api-key"):
        answering(monkeypatch, 401, json=problem).call("GET", "/adapters")
    done = CliRunner().invoke(app, ["adapters", "list", "--api-key", "k"])
    assert "add --server" in done.stderr


def adapter(name):
    report = {"rank": 16, "parts": ["language_model", "projector"], "bytes": 12_345_678, "serving": "batched"}
    task = "turns a spoken command or telephone menu prompt into JSON"
    return {"name": name, "version": 12, "manifest": {"method": "lora", "task": task, "prompt": None}, "report": report}


@pytest.mark.parametrize("length", [4, 30, 50, 64])
@pytest.mark.parametrize("width", [80, 120, 200])
def test_names_are_whole_in_the_list(length, width, monkeypatch):
    monkeypatch.setattr(commands, "out", Console(width=width))
    name = ("an-adapter-of-ours-" * 4)[:length]
    text = shown_at(width, commands._table([adapter("b"), adapter(name)]))
    assert f"│ {name} " in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert "12" in text  # the version
    assert "language_model" in text or width < 200


def shown_at(width, what):
    console = Console(width=width)
    with console.capture() as captured:
        console.print(what)
    return captured.get()
