"""Write deploy/image.lock and deploy/image-cluster.lock: exact versions with hashes for the image.

Versions are those of requirements.lock; what torch for CUDA brings besides is resolved by pip. Nothing is installed.
Run by `make lock`; the image is Ubuntu 24.04 on x86-64, so Python 3.12.
"""

import hashlib
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "3.12"
NEWEST_GLIBC = 39  # of Ubuntu 24.04
# Published as source only, which pip resolves for its own platform alone: what they need is named here.
SOURCE_ONLY = {"rouge-score": ["absl-py", "nltk", "six"]}
EXTRAS = {"image.lock": ("train",), "image-cluster.lock": ("train", "cluster")}


def main() -> None:
    """Resolve both sets and write their files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, extras in EXTRAS.items():
        wanted = [*project["dependencies"]]
        for extra in extras:
            wanted += project["optional-dependencies"][extra]
        source = [one for one in wanted if name_of(one) in SOURCE_ONLY]
        wheels = [one for one in wanted if one not in source]
        wheels += [need for one in source for need in SOURCE_ONLY[name_of(one)]]
        pins = [*resolve(wheels), *(fetch(one) for one in source)]
        lines = [f"{package}=={version} --hash=sha256:{digest}" for package, version, digest in pins]
        header = f"# The image's packages ({', '.join(extras)}), Python {PYTHON} on x86-64; renewed by 'make lock'.\n"
        (ROOT / "deploy" / name).write_text(header + "\n".join(sorted(lines, key=str.lower)) + "\n")


def name_of(requirement: str) -> str:
    """`peft` of `peft>=0.21,<0.22`."""
    return re.split(r"[^\w.-]", requirement)[0]


def resolve(wanted: list[str]) -> list[tuple[str, str, str]]:
    """Name, version and sha256 of each wheel that pip would install for the image."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(5, NEWEST_GLIBC + 1)]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "any"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--dry-run"]
        command += ["--ignore-installed", "--target", folder, "--report", str(report), "--only-binary=:all:"]
        command += ["--python-version", PYTHON, "--implementation", "cp"]
        for abi in (f"cp{PYTHON.replace('.', '')}", "abi3", "none"):
            command += ["--abi", abi]
        for platform in platforms:
            command += ["--platform", platform]
        subprocess.run([*command, "-c", str(ROOT / "requirements.lock"), *wanted], check=True)
        found = json.loads(report.read_text())["install"]
    return [
        (
            one["metadata"]["name"],
            one["metadata"]["version"],
            one["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for one in found
    ]


def fetch(wanted: str) -> tuple[str, str, str]:
    """Name, version and sha256 of a source archive."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--no-binary=:all:", "--dest", folder, "-c", str(ROOT / "requirements.lock"), wanted]
        subprocess.run(command, check=True)
        (archive,) = Path(folder).iterdir()
        name, _, version = archive.name.removesuffix(".tar.gz").rpartition("-")
        return name.replace("_", "-"), version, hashlib.sha256(archive.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
