"""The commands that the documents show, one by one."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

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


def commands() -> list[Command]:
    """All of the `sh` blocks; what `&&` joins counts as several."""
    found: dict[str, Command] = {}
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                for part in _without_comment(line).split("&&"):
                    if part.strip():
                        found.setdefault(part.strip(), _command(page, part.strip()))
    return list(found.values())


def _without_comment(line: str) -> str:
    return "" if line.startswith("#") else line.partition("  #")[0]


def _command(page: Path, line: str) -> Command:
    words = shlex.split(line)
    variables = [word for word in words if re.match(r"[A-Z_]+=", word)] if "=" in words[0] else []
    return Command(str(page.relative_to(ROOT)), line, tuple(variables), tuple(words[len(variables) :]))
