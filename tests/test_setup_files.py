"""The files around the code say what the code does."""

import os
import re
import shutil
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml

from app.settings import Settings

ROOT = Path(__file__).parents[1]
SUPPORTED = range(11, 15)  # minor versions of Python 3


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
    assert workflow["jobs"]["ci"]["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in SUPPORTED]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert all(hook["language"] == "system" for hook in hooks)


def test_python_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">=3.{SUPPORTED[0]}"
    named = [f"Programming Language :: Python :: 3.{minor}" for minor in SUPPORTED]
    assert [one for one in project["classifiers"] if one.startswith("Programming Language")] == named
    makefile = (ROOT / "Makefile").read_text()
    assert f"(3, {SUPPORTED[0]}) <= sys.version_info[:2] <= (3, {SUPPORTED[-1]})" in makefile
    assert all(f"python3.{minor} " in makefile for minor in SUPPORTED)
    for page in ("README.md", "docs/index.md"):
        assert f"Python 3.{SUPPORTED[0]} to 3.{SUPPORTED[-1]}" in (ROOT / page).read_text(), page


def test_make_shell_finds_the_command(tmp_path: Path) -> None:
    """With `.venv/bin/overtone` as the set-up leaves it; the set-up itself is left out (-o)."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for file in ("pyproject.toml", "requirements.lock"):
        (tmp_path / file).touch()
    command = tmp_path / ".venv" / "bin" / "overtone"
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/sh\necho it runs\n")
    command.chmod(0o755)
    asked = ["make", "-o", ".venv/.ready", "shell"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        asked, cwd=tmp_path, input="overtone\n", capture_output=True, text=True, env=environment | {"SHELL": "/bin/sh"}
    )
    assert "it runs" in done.stdout, done.stderr


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


@pytest.mark.parametrize(
    ("told", "pinned"),
    [(f"sha256:{'0f' * 32}", True), ("", False), ("sha256:short", False), (f"{'0f' * 32}", False)],
)
def test_the_base_image_is_pinned_by_the_digest_that_the_registry_tells(
    told: str, pinned: bool, tmp_path: Path
) -> None:
    """`docker` is a stand-in: it needs a registry. Pinning twice leaves one digest; no digest changes nothing."""
    for name in ("Dockerfile", "Makefile"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tool := tmp_path / "docker").write_text(f"#!/bin/sh\nprintf '%s\\n' \"$*\" >> asked; echo '{told}'\n")
    tool.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    before = (ROOT / "Dockerfile").read_text()
    (image,) = re.findall(r"^ARG CUDA_IMAGE=([\w./:-]+)(?:@sha256:[0-9a-f]{64})?$", before, re.MULTILINE)
    for _ in range(2):
        done = subprocess.run(["make", "pin-image"], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert (done.returncode == 0) == pinned, done.stderr
    after = (tmp_path / "Dockerfile").read_text()
    if pinned:
        assert re.findall(r"^ARG CUDA_IMAGE=.*", after, re.MULTILINE) == [f"ARG CUDA_IMAGE={image}@{told}"]
        assert f"inspect {image} --format" in (tmp_path / "asked").read_text()
    else:
        assert after == before
        assert f"no digest of {image}" in done.stdout
    assert after.count("FROM ${CUDA_IMAGE}") == after.count("FROM ") == 2, "every stage is of the pinned image"


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
