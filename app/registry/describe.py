"""What a folder's files say about an adapter, as a manifest."""

from pathlib import Path
from typing import Any

from app.model.base import BaseSpec
from app.registry.archive import OWN
from app.registry.manifest import BaseModelRef, Manifest, read_manifest, sha256_of
from app.registry.validate import Report


def describe(folder: Path, name: str, version: int, report: Report, spec: BaseSpec, fields: dict[str, Any]) -> Manifest:
    """The folder's own manifest with what is certain filled in, or a new one."""
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
