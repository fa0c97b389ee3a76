"""Adapters from elsewhere: an allowed folder, a Hub repository, or any store that fsspec speaks."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from app.errors import AdapterRejected, BadRequest, Forbidden, TooLarge
from app.registry.archive import KEPT, NO_ADAPTER, copy_adapter, holds_adapter
from app.registry.entries import ArchiveLimits, copy_stream

HUB = "hf://"


def fetch(
    source: str, destination: Path, *, roots: Sequence[Path], prefixes: Sequence[str], limits: ArchiveLimits
) -> None:
    """Bring an adapter's files into ``destination``.

    ``roots``: folders that may be read. ``prefixes``: beginnings of Hub ids (`hf://org/`) and URLs that
    may be fetched. Raises Forbidden outside them, BadRequest when nothing is there.
    """
    source = source.removeprefix("file://")
    if "://" not in source and (source.startswith(("/", ".")) or Path(source).is_dir()):
        _from_folder(Path(source), destination, roots, limits)
        return
    url = source if "://" in source else HUB + source
    allowed = any(f"{url}/".startswith(f"{prefix.rstrip('/')}/") for prefix in prefixes)
    if not allowed or ".." in url or "::" in url:  # fsspec takes what follows `::` for another place
        raise Forbidden(f"{source[:200]!r} is not among the sources this server may read (OVERTONE_ADAPTER_SOURCES).")
    if url.startswith(HUB):
        _from_hub(url.removeprefix(HUB), destination, limits)
    else:
        _from_store(url, destination, limits)


def _from_folder(folder: Path, destination: Path, roots: Sequence[Path], limits: ArchiveLimits) -> None:
    """A folder, after links are resolved, under one of the roots."""
    real = folder.resolve()
    if not any(real.is_relative_to(root.resolve()) for root in roots):
        raise Forbidden("That folder is not under one this server may read (OVERTONE_ADAPTER_ROOTS).")
    copy_adapter(real, destination, limits)


def _from_hub(repository: str, destination: Path, limits: ArchiveLimits) -> None:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = repository.partition("@")
    with tempfile.TemporaryDirectory() as cache:
        try:
            files = HfApi().model_info(name, revision=revision or None, files_metadata=True).siblings or []
            if sum(file.size or 0 for file in files if file.rfilename in KEPT) > limits.max_bytes:
                raise TooLarge("That adapter exceeds this server's limit (OVERTONE_MAX_ADAPTER_MB).")
            folder = snapshot_download(name, revision=revision or None, allow_patterns=sorted(KEPT), local_dir=cache)
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise BadRequest(f"The Hub gave no adapter for {repository!r} ({type(error).__name__}).") from None
        copy_adapter(Path(folder), destination, limits)


def _from_store(url: str, destination: Path, limits: ArchiveLimits) -> None:
    import fsspec

    room = limits.max_bytes
    try:
        system, path = fsspec.core.url_to_fs(url)
        for name in sorted(KEPT):
            remote = f"{path.rstrip('/')}/{name}"
            if not system.exists(remote):
                continue
            with system.open(remote, "rb") as source, (destination / name).open("wb") as target:
                room -= copy_stream(source, target, room, limits)
    except (ImportError, ValueError, OSError) as error:
        raise BadRequest(f"{url[:200]!r} could not be read ({type(error).__name__}).") from None
    if not holds_adapter(destination):
        raise AdapterRejected(f"{url[:200]!r} holds {NO_ADAPTER}")
