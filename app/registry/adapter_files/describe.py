"""The manifest of a folder: facts from its files, and the fields that its publisher gives."""

from pathlib import Path
from typing import Any

from app.models.loading import BaseSpec
from app.registry.adapter_files.file_names import OWN
from app.registry.adapter_files.manifest import BaseModelRef, Manifest, read_manifest, sha256_of
from app.registry.adapter_files.validate import Report


def describe(folder: Path, name: str, version: int, report: Report, spec: BaseSpec, fields: dict[str, Any]) -> Manifest:
    """The manifest that the folder holds, or a new one, with the facts of its files and then ``fields`` in place.

    Nothing is written. Raises BadRequest where the folder's manifest cannot be read.
    """
    old = read_manifest(folder)
    facts = {
        "name": name,
        "version": version,
        "base": BaseModelRef(name=spec.name, fingerprint=spec.fingerprint),
        "rank": report.rank,
        "alpha": report.alpha,
        "targets": report.targets,
        "parts": report.parts,
        "parameters": report.parameters,
        "bytes": report.bytes,
        "files": {f.name: sha256_of(f) for name in sorted(OWN) if (f := folder / name).is_file()},
    }
    if report.serving == "classify":
        facts["method"] = "head"
    method = {"method": "projector" if report.parts == ["projector"] else "lora"}
    kept = old.model_dump(by_alias=True) if old else method
    return Manifest.model_validate({**kept, **facts, **fields})
