"""The files around the code say what the code does."""

import re
import tomllib
from itertools import chain
from pathlib import Path

import yaml

from app.settings import Settings

ROOT = Path(__file__).parents[1]


def test_env_example_lists_every_setting() -> None:
    text = (ROOT / ".env.example").read_text()
    listed = re.findall(r"^# OVERTONE_([A-Z_]+)=", text, re.MULTILINE)
    assert sorted(listed) == sorted(name.upper() for name in Settings.model_fields)


def test_env_example_shows_the_defaults() -> None:
    text = (ROOT / ".env.example").read_text()
    shown = dict(re.findall(r"^# OVERTONE_([A-Z_]+)=(.*)$", text, re.MULTILINE))
    defaults = Settings(_env_file=None)
    for name in ("WATCH_SECONDS", "MAX_RESIDENT", "STEP_TOKENS", "MAX_UPLOAD_MB", "PORT", "LONG_AUDIO", "ADAPTERS"):
        assert str(getattr(Settings(_env_file=None, **{name.lower(): shown[name]}), name.lower())) == str(
            getattr(defaults, name.lower())
        )


def test_lock_pins_every_dependency_exactly() -> None:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line) for line in lines)
    pinned = {_plain(line.partition("==")[0]) for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = {_plain(re.split(r"[\[<>=!~; ]", one)[0]) for one in chain(project["dependencies"], *extras)}
    assert wanted - {project["name"]} <= pinned


def test_yaml_files_are_readable_and_agree() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    service = compose["services"]["overtone"]
    assert "/ready" in " ".join(service["healthcheck"]["test"])
    assert service["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert workflow["jobs"]["ci"]["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert all(hook["language"] == "system" for hook in hooks)


def test_the_image_installs_hashed_wheels_at_the_locked_versions_and_can_train() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert 'pip install --require-hashes -r "${LOCK}"' in text
    assert "\nARG LOCK=image.lock\n" in text
    assert not re.search(r"pip install (?!--require-hashes|--no-cache-dir --no-deps --force-reinstall \.)", text)
    locked = dict(_pins(ROOT / "requirements.lock"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for name, wanted in {
        "image.lock": [*project["dependencies"], *extras["train"]],
        "image-cluster.lock": [*project["dependencies"], *extras["train"], *extras["cluster"]],
    }.items():
        file = ROOT / "deploy" / name
        pinned = dict(_pins(file))
        assert {_plain(re.split(r"[\[<>=!~; ]", one)[0]) for one in wanted} <= pinned.keys()
        assert {one: pinned[one] for one in pinned.keys() & locked.keys()} == {
            one: locked[one] for one in pinned.keys() & locked.keys()
        }
        lines = file.read_text().splitlines()[1:]
        assert all(re.fullmatch(r"[\w.-]+==[\w.]+ --hash=sha256:[0-9a-f]{64}", line) for line in lines)


def test_actions_are_pinned_by_commit() -> None:
    for file in (ROOT / ".github/workflows").glob("*.yml"):
        used = re.findall(r"uses: (\S+)", file.read_text())
        assert used
        assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", one) for one in used)


def test_dockerfile_copies_only_what_the_context_holds() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copies = re.findall(r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for source in {name for line in copies for name in line.split()}:
        assert f"!{source.partition('/')[0]}" in ignored


def _pins(file: Path) -> list[tuple[str, str]]:
    """Name and version of each line."""
    found = re.findall(r"^([\w.-]+)==([\w.]+)", file.read_text(), re.MULTILINE)
    return [(_plain(name), version) for name, version in found]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
