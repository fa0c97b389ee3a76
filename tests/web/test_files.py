"""The page's files, without a browser: small, in both languages, nothing from elsewhere, nothing inline."""

import re
from pathlib import Path

import pytest

from app.api.page import WEB

OWN = [path for path in sorted((WEB / "js").rglob("*.js")) if "vendor" not in path.parts]
STRING = re.compile(r'^  "([^"]+)": "((?:[^"\\]|\\.)*)",$', re.MULTILINE)
PLACEHOLDER = re.compile(r"\{(\w+)\}")


def strings(language: str) -> dict[str, str]:
    return dict(STRING.findall((WEB / "js" / "strings" / f"{language}.js").read_text()))


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_scripts_are_small_and_say_what_they_are_for(path: Path) -> None:
    text = path.read_text()
    limit = 400 if path.parent.name == "strings" else 300  # one file a language
    assert len(text.splitlines()) < limit
    assert text.startswith(("/**", "// ")), "a first line that says what it is for"
    assert not re.search(r"innerHTML|document\.write|\beval\(|new Function", text)
    assert not re.search(r"https?://(?!www\.w3\.org)", text), "nothing from elsewhere"


def test_both_languages_say_the_same_things() -> None:
    english, chinese = strings("en"), strings("zh")
    assert english.keys() == chinese.keys()
    assert len(english) > 200
    for key, words in english.items():
        # a plural's count may be left out of a sentence, never invented
        assert set(PLACEHOLDER.findall(chinese[key])) == set(PLACEHOLDER.findall(words)), key


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
