"""Sources that a stranger names: nothing outside the lists is asked, and nobody is sent elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from app.errors import AdapterRejected, BadRequest, Forbidden, TooLarge
from app.jobs.dataset import allowed_dataset
from app.registry.archive_reader import ArchiveLimits
from app.registry.sources import fetch
from tests.loopback import loopback

LIMITS = ArchiveLimits(1 << 20)
ALLOWED = ("hf://acme/", "s3://bucket/team", "https://models.example/pub/", "memory://safe")


def get(source: str, target: Path, prefixes: tuple[str, ...] = ALLOWED, roots: tuple[Path, ...] = ()) -> None:
    target.mkdir(exist_ok=True)
    fetch(source, target, roots=roots, prefixes=prefixes, limits=LIMITS)


@contextmanager
def serving(answer: dict[str, tuple[int, dict[str, str], bytes]]) -> Iterator[tuple[str, list[str]]]:
    """A web server on loopback; its address, and the paths that were asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            status, headers, body = answer.get(self.path, (404, {}, b""))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with loopback(Handler) as address:
        yield address, asked


@pytest.mark.parametrize(
    "source",
    [
        "http://127.0.0.1:1/x",
        "http://[::1]/x",
        "http://169.254.169.254/latest/meta-data",
        "https://models.example.evil/pub/x",
        "https://models.example@evil/pub/x",
        "https://models.example/pub/../private",
        "https://models.example/pub/%2e%2e/private",
        "https://models.example/pub/x?next=http://evil",
        "https://models.example/pub/x#y",
        "https://models.example/pub\\..\\private",
        "HTTPS://models.example/pub/x",
        "s3://bucket/team-two/x",
        "s3://bucket/team/x?endpoint_url=http://127.0.0.1",
        "s3://bucket/team/x::http://127.0.0.1/",
        "s3://bucket/team/x::file:///etc",
        "simplecache::s3://bucket/team/x",
        "zip://x::s3://bucket/team/x",
        "filecache::file:///etc",
        "memory://safe::file:///etc",
        "memory://safe/../other",
        "local:///etc",
        "FILE:///etc",
        "file:/etc",
        "file://localhost/etc",
        "hf://acme/../evil/x",
        "hf://acme/x\n",
        "reference://acme",
        "ftp://127.0.0.1/x",
        "github://acme:x@main/",
        "::",
        "://",
    ],
)
def test_what_leads_elsewhere_is_refused_before_anything_is_asked(source: str, tmp_path: Path) -> None:
    with pytest.raises(Forbidden):
        get(source, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("source", ["/\0", "/etc", "/" + "x" * 5000, "./x", "file:///etc", "file://../x", "/loop", "."])
def test_folders_outside_the_roots(source: str, tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    named = str(loop) if source == "/loop" else source
    with pytest.raises(Forbidden) as refused:
        get(named, tmp_path / "out", roots=(tmp_path / "root",))
    assert str(tmp_path) not in str(refused.value)
    with pytest.raises(Forbidden):
        allowed_dataset(named, [tmp_path / "root"])


def test_that_a_folder_exists_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    told = set()
    for name in ("there", "gone!"):
        with pytest.raises(Forbidden) as refused:
            get(name, tmp_path / "out", roots=(tmp_path / "root",))
        told.add(str(refused.value).replace(name, ""))
    assert len(told) == 1


def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    secret = {"/secret/adapter_config.json": (200, {}, b"{}")}
    with serving(secret) as (inside, asked_inside):
        away = {"/pub/adapter_config.json": (302, {"Location": f"{inside}/secret/adapter_config.json"}, b"")}
        with serving(away) as (outside, asked), pytest.raises(BadRequest, match="status 302"):
            get(f"{outside}/pub", tmp_path / "out", prefixes=(f"{outside}/pub",))
        assert asked[-1] == "/pub/adapter_config.json"
        assert asked_inside == []


def test_plain_files_of_an_allowed_server(tmp_path: Path) -> None:
    files = {"/pub/a/adapter_config.json": (200, {}, b"{}"), "/pub/a/adapter_model.safetensors": (200, {}, b"x")}
    large = {"/pub/large/adapter_config.json": (200, {}, bytes(2 << 20))}
    broken = {"/pub/broken/README.md": (500, {}, b"Traceback")}
    with serving(files | large | broken) as (url, _):
        get(f"{url}/pub/a", tmp_path / "in", prefixes=(f"{url}/pub",))
        assert sorted(p.name for p in (tmp_path / "in").iterdir()) == [
            "adapter_config.json",
            "adapter_model.safetensors",
        ]
        with pytest.raises(TooLarge):
            get(f"{url}/pub/large", tmp_path / "large", prefixes=(f"{url}/pub",))
        with pytest.raises(AdapterRejected, match="no adapter_config"):
            get(f"{url}/pub/none", tmp_path / "none", prefixes=(f"{url}/pub",))
        with pytest.raises(BadRequest, match="status 500"):
            get(f"{url}/pub/broken", tmp_path / "broken", prefixes=(f"{url}/pub",))
    with pytest.raises(BadRequest, match="ConnectError"):
        get(f"{url}/pub/a", tmp_path / "off", prefixes=(f"{url}/pub",))
