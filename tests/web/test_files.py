"""The page's files, without a browser: small, in all languages, nothing from elsewhere, nothing inline."""

import ast
import contextlib
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import app
import training
from app.api.routes.page import WEB
from app.audio.report import DAMAGED
from app.errors import OvertoneError
from training.data.checks.findings import CODES

OWN = [path for path in sorted((WEB / "js").rglob("*.js")) if "vendor" not in path.parts]
STRING = re.compile(r'^  "([^"]+)": "((?:[^"\\]|\\.)*)",$', re.MULTILINE)
PLACEHOLDER = re.compile(r"\{(\w+)\}")


LANGUAGES = ("en", "zh", "zh-hant")


def strings(language: str) -> dict[str, str]:
    """All words of a language; no key twice."""
    found: dict[str, str] = {}
    for file in (f"{language}.js", f"{language}-rows.js", f"{language}-problems.js"):
        pairs = STRING.findall((WEB / "js" / "strings" / file).read_text())
        lines = [line for line in (WEB / "js" / "strings" / file).read_text().splitlines() if line.startswith('  "')]
        assert len(pairs) == len(lines), f"{file}: a line is no string"
        assert len(dict(pairs)) == len(pairs), f"{file}: a key is there twice"
        assert not found.keys() & dict(pairs).keys(), file
        found |= dict(pairs)
    return found


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_scripts_are_small_and_say_what_they_are_for(path: Path) -> None:
    text = path.read_text()
    limit = 600 if path.parent.name == "strings" else 300  # one file a language
    assert len(text.splitlines()) < limit
    assert text.startswith(("/**", "// ")), "a first line that says what it is for"
    assert not re.search(r"innerHTML|document\.write|\beval\(|new Function", text)
    assert not re.search(r"https?://(?!www\.w3\.org)", text), "nothing from elsewhere"


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_all_languages_say_the_same_things(language: str) -> None:
    english, other = strings("en"), strings(language)
    assert english.keys() == other.keys()
    assert len(english) > 300
    for key, words in english.items():
        assert set(PLACEHOLDER.findall(other[key])) == set(PLACEHOLDER.findall(words)), key
        assert other[key].strip(), key


def test_every_error_and_every_finding_is_translated() -> None:
    """Errors by code, as the modules define them; findings of the data check with what to do."""
    for package in (app, training):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if "pretrain" not in module.name and not module.name.endswith("__main__"):
                with contextlib.suppress(ImportError):  # a part that is not installed
                    importlib.import_module(module.name)
    known = strings("en")
    codes = {error.code for error in _all(OvertoneError) if error.__module__.startswith(("app.", "training."))}
    assert {"adapter_rejected", "queue_full", "training_failed"} <= codes
    for code in codes:
        assert f"error.code.{code}" in known, code
    for code in CODES:
        assert {f"gate.code.{code}", f"gate.what.{code}"} <= known.keys(), code
        assert f"gate.do.{code}" in known or {f"gate.do.{code}.error", f"gate.do.{code}.warning"} <= known.keys(), code


def _all(kind: type[OvertoneError]) -> Iterator[type[OvertoneError]]:
    yield kind
    for narrower in kind.__subclasses__():
        yield from _all(narrower)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_speaks_of_no_commands(language: str) -> None:
    for key, words in strings(language).items():
        assert not re.search(r"(^|\s)--[a-z]|\bovertone (adapters|train)\b|OVERTONE_", words), key


def test_every_word_that_is_asked_for_is_there() -> None:
    known = strings("en")
    for path in OWN:
        for key in re.findall(r'\bt\("([^"]+)"', path.read_text()):
            assert key in known, f"{path.name}: {key}"
        for start in re.findall(r"\b(?:t|known)\(`([\w.-]+)\$\{", path.read_text()):
            assert any(key.startswith(start) for key in known), f"{path.name}: {start}…"


def test_no_word_is_left_over() -> None:
    text = "\n".join(path.read_text() for path in OWN if path.parent.name != "strings")
    starts = tuple(re.findall(r"\b(?:t|known)\(`([\w.-]+)\$\{", text))
    unused = [key for key in strings("en") if f'"{key}"' not in text and not key.startswith(starts)]
    assert not unused


def test_the_page_holds_nothing_inline() -> None:
    page = (WEB / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    for reference in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert (WEB.parent / reference).is_file(), reference


def test_both_dark_themes_are_alike() -> None:
    text = (WEB / "css" / "tokens.css").read_text()
    dark = [re.findall(r"[\w-]+: [^;]+;", block) for block in re.findall(r"\{([^{}]*color-scheme: dark[^{}]*)\}", text)]
    assert len(dark) == 2
    assert dark[0] == dark[1]


def test_what_others_wrote_comes_with_its_licence() -> None:
    vendor = WEB / "js" / "vendor"
    assert {path.name for path in vendor.glob("LICENSE*")} == {"LICENSE.preact", "LICENSE.htm"}
    assert "bare" in (vendor / "README.md").read_text()


def test_sentences_that_the_page_translates_are_the_servers() -> None:
    """Every pattern meets a sentence of the code, with a number in place of each value."""
    text = (WEB / "js" / "problem-words.js").read_text()
    patterns = re.findall(r'^  \[/(.+)/, "(reason[\w.-]+)"\],$', text, re.MULTILINE)
    assert len(patterns) > 30
    said = [f"{DAMAGED[:-1]}; 2.0 s are missing.", *_sentences()]
    for pattern, key in patterns:
        if key.removeprefix("reason.") not in COMPOSED:
            assert any(re.search(pattern, sentence) for sentence in said), key


COMPOSED = ("tensors", "shapes", "shape", "goes-on", "is-head", "is-tower")  # of sentences in several places


def _sentences() -> Iterator[str]:
    for package in (app, training):
        for file in Path(package.__path__[0]).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(_piece(part) for part in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def _piece(part: ast.expr) -> str:
    """A constant as it is; of a choice the last; a sample in place of any other value."""
    if isinstance(part, ast.Constant):
        return str(part.value)
    assert isinstance(part, ast.FormattedValue)
    if isinstance(part.value, ast.IfExp):
        return _piece(part.value.orelse) if isinstance(part.value.orelse, ast.Constant) else "2"
    if isinstance(part.value, ast.BinOp) and isinstance(part.value.left, ast.Constant):
        return ""  # the s of a plural
    percent = part.format_spec is not None and "%" in ast.unparse(part.format_spec)
    return "'x'" if part.conversion == ord("r") else "2%" if percent else "2"
