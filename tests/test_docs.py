"""The documents stay true: settings, routes, commands and links."""

import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from app.cli.main import app as cli
from app.cli.training import PASSED_ON
from app.main import create_app
from app.settings import Settings
from training.cli import app as training

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "README.zh.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


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


def commands() -> list[str]:
    lines = [line.strip() for page in PAGES for line in page.read_text().splitlines()]
    return sorted({line.partition("  #")[0].strip() for line in lines if re.match(r"overtone [a-z]", line)})


@pytest.mark.parametrize("line", commands())
def test_commands_in_the_documents_parse(line):
    command: click.Command = typer.main.get_command(cli)
    context = click.Context(command)
    words = shlex.split(line)[1:]
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    if command.context_settings == PASSED_ON:  # another program's options
        command = typer.main.get_command(training).commands[command.name]
    command.make_context(line, words, parent=context, resilient_parsing=False).close()


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_both_languages_tell_the_same():
    """The same chapters, pages and commands."""

    def told(name: str) -> tuple[int, set[str], list[str]]:
        page = (ROOT / name).read_text()
        blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
        lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
        links = set(re.findall(r"\]\((docs/[^)#]+|app/[^)#]+)\)", page))
        return page.count("\n## "), links, [line for line in lines if line and not line.startswith("#")]

    assert told("README.md") == told("README.zh.md")
