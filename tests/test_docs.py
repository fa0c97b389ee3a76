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


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("http") or target in MADE or (page.parent / target).exists(), (
                f"{page.name}: {target}"
            )


def test_both_languages_tell_the_same():
    """The same chapters, pages and commands."""

    def told(name: str) -> tuple[int, set[str], list[str]]:
        page = (ROOT / name).read_text()
        blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
        lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
        links = set(re.findall(r"\]\((docs/[^)#]+|app/[^)#]+)\)", page))
        return page.count("\n## "), links, [line for line in lines if line and not line.startswith("#")]

    assert told("README.md") == told("README.zh.md")
