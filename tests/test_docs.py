"""The documents stay true: settings, routes and links. Their commands: test_commands_of_documents.py."""

import re
from pathlib import Path

import pytest

from app.main import create_app
from app.settings import Settings
from tests.commands import PAGES

ROOT = Path(__file__).parents[1]
MADE = {"reference.md"}  # by docs/site_hooks.py


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_stands_in_operations_with_its_default(name):
    rows = (ROOT / "docs" / "operations.md").read_text().splitlines()
    (row,) = [row for row in rows if row.startswith(f"| `OVERTONE_{name.upper()}` |")]
    default = Settings.model_fields[name].default
    if name != "model" and default not in (None, ()):
        assert f"`{default}`" in row


def test_the_routes_are_those_of_the_service():
    served = {
        f"{method.upper()} {path}"
        for path, methods in create_app(Settings(_env_file=None)).openapi()["paths"].items()
        for method in methods
    }
    told = re.findall(r"^\| `((?:GET|POST|DELETE) [^`]+)` \|", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert set(told) == served


def test_every_promise_names_tests_that_exist():
    text = (ROOT / "SECURITY.md").read_text()
    section = text.partition("## Promises and their tests\n")[2].partition("\n## ")[0]
    rows = [row.split(" | ") for row in section.splitlines() if row.startswith("| ")][2:]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[-1])
        assert named, row[0]
        for file, test in named:
            assert re.search(rf"^ *(async )?def {test}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{test}"


def test_links_lead_somewhere():
    for page in [*PAGES, ROOT / "README.zh-TW.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("http") or target in MADE or (page.parent / target).exists(), (
                f"{page.name}: {target}"
            )


def test_all_languages_tell_the_same():
    """The same chapters, pages and commands."""

    def told(name: str) -> tuple[int, set[str], list[str]]:
        page = (ROOT / name).read_text()
        blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
        lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
        links = set(re.findall(r"\]\((docs/[^)#]+|app/[^)#]+)\)", page))
        return page.count("\n## "), links, [line for line in lines if line and not line.startswith("#")]

    names = ("README.md", "README.zh.md", "README.zh-TW.md")
    for name in names:
        assert told(name) == told("README.md")
        links = set(re.findall(r"\]\((README[^)#]*)\)", (ROOT / name).read_text()))
        assert links >= {*names} - {name}
