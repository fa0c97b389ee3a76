"""The commands that the documents show, one by one."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from app.main import create_app
from app.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "README.zh.md", "CONTRIBUTING.md", "adapters/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]


@dataclass(frozen=True)
class Command:
    """One simple command: its variables, its words, and the page it stands in."""

    page: str
    line: str
    variables: tuple[str, ...]
    words: tuple[str, ...]


API = create_app(Settings(_env_file=None)).openapi()
REFERENCE = "docs/reference.md"  # made from the descriptions of the routes


def commands() -> list[Command]:
    """All of the `sh` blocks; what `&&` joins counts as several."""
    texts = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
    routes = [told for methods in API["paths"].values() for told in methods.values()]
    texts[REFERENCE] = "\n\n".join(told.get("description", "") for told in routes)
    found: dict[str, Command] = {}
    for page, text in texts.items():
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                for part in _without_comment(line).split("&&"):
                    if part.strip():
                        found.setdefault(part.strip(), _command(page, part.strip()))
    return list(found.values())


def _without_comment(line: str) -> str:
    return "" if line.startswith("#") else line.partition("  #")[0]


def _command(page: str, line: str) -> Command:
    words = shlex.split(line)
    variables = [word for word in words if re.match(r"[A-Z_]+=", word)] if "=" in words[0] else []
    return Command(page, line, tuple(variables), tuple(words[len(variables) :]))
