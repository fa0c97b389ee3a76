"""Adapters from an allowed folder, a Hub repository, a web server, or any store that fsspec supports."""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from app.errors import DISK_FULL, AdapterRejected, BadRequest, Forbidden, TooLarge
from app.registry.adapter_files.config import FILE as CONFIG
from app.registry.adapter_files.file_names import KEPT, PICKLE
from app.registry.adapter_files.report import missing_weights
from app.registry.adapter_files.weights import WEIGHTS
from app.registry.archive import NO_ADAPTER, copy_adapter, holds_adapter
from app.registry.archive_reader import ArchiveLimits, copy_stream

HUB = "hf://"
# These could lead out of an allowed prefix: chained file systems, parents, encoded characters, queries
_LEADS_AWAY = re.compile(r"::|\.\.|[%?#\\\s\x00-\x1f]")
_WEB_TIMEOUT_S = 60.0


def fetch(
    source: str, destination: Path, *, roots: Sequence[Path], prefixes: Sequence[str], limits: ArchiveLimits
) -> list[str]:
    """Copy an adapter's files into ``destination``; notes on files that were left out.

    ``roots``: folders that may be read. ``prefixes``: beginnings of Hub ids (`hf://org/`) and URLs that
    may be fetched. Raises Forbidden outside them, BadRequest where nothing can be read, AdapterRejected,
    TooLarge.
    """
    source = source.removeprefix("file://")
    if "://" not in source and (source.startswith(("/", ".")) or _under(source, roots)):
        return _from_folder(source, destination, roots, limits)
    url = source if "://" in source else HUB + source
    if not any(f"{url}/".startswith(f"{prefix.rstrip('/')}/") for prefix in prefixes) or _LEADS_AWAY.search(url):
        raise Forbidden(f"{source[:200]!r} is not among the sources this server may read (OVERTONE_ADAPTER_SOURCES).")
    if url.startswith(HUB):
        return _from_hub(url.removeprefix(HUB), destination, limits)
    if url.startswith(("http://", "https://")):
        return _from_web(url, destination, limits)
    return _from_store(url, destination, limits)


def _from_folder(folder: str, destination: Path, roots: Sequence[Path], limits: ArchiveLimits) -> list[str]:
    real = _under(folder, roots)
    if real is None:
        raise Forbidden("That folder is not under one this server may read (OVERTONE_ADAPTER_ROOTS).")
    return copy_adapter(real, destination, limits)


def _under(folder: str, roots: Sequence[Path]) -> Path | None:
    """A folder, after links are resolved, if it lies under one of the roots."""
    try:
        real = Path(folder).resolve()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, links in a circle
        return None
    return real if any(real.is_relative_to(root.resolve()) for root in roots) else None


def _from_web(url: str, destination: Path, limits: ArchiveLimits) -> list[str]:
    """Plain files of a web server, whose redirects are refused."""
    import httpx

    bytes_left = limits.max_bytes
    try:
        with httpx.Client(follow_redirects=False, trust_env=False, timeout=_WEB_TIMEOUT_S) as client:
            pickle = client.head(f"{url.rstrip('/')}/{PICKLE}").is_success
            for name in sorted(KEPT):
                with (
                    client.stream("GET", f"{url.rstrip('/')}/{name}") as answer,
                    (destination / name).open("wb") as target,
                ):
                    if answer.is_success:
                        for block in answer.iter_bytes(1 << 20):
                            bytes_left -= len(block)
                            if bytes_left < 0:
                                raise limits.too_large()
                            target.write(block)
                    elif answer.status_code != httpx.codes.NOT_FOUND:
                        raise BadRequest(f"{url[:200]!r} could not be read (status {answer.status_code}).")
                if not answer.is_success:
                    (destination / name).unlink()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise BadRequest(f"{url[:200]!r} could not be read ({type(error).__name__}).") from None
    return _checked(url, destination, pickle)


def _from_hub(repository: str, destination: Path, limits: ArchiveLimits) -> list[str]:
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
            _raise_if_full(error)
            raise BadRequest(f"The Hub gave no adapter for {repository!r} ({type(error).__name__}).") from None
        held = any(file.rfilename == PICKLE for file in files)
        if holds_adapter(Path(folder)) and held and not (Path(folder) / WEIGHTS).exists():
            raise AdapterRejected(f"{repository[:200]!r}: {missing_weights(WEIGHTS, [PICKLE])}")
        copy_adapter(Path(folder), destination, limits)
        return [f"{PICKLE} was left aside unread: {WEIGHTS} is the adapter"] if held else []


def _from_store(url: str, destination: Path, limits: ArchiveLimits) -> list[str]:
    import fsspec

    bytes_left = limits.max_bytes
    try:
        system, path = fsspec.core.url_to_fs(url)
        pickle = bool(system.exists(f"{path.rstrip('/')}/{PICKLE}"))
        for name in sorted(KEPT):
            remote = f"{path.rstrip('/')}/{name}"
            if not system.exists(remote):
                continue
            with system.open(remote, "rb") as source, (destination / name).open("wb") as target:
                bytes_left -= copy_stream(source, target, bytes_left, limits)
    except (ImportError, ValueError, TypeError, OSError) as error:
        _raise_if_full(error)
        raise BadRequest(f"{url[:200]!r} could not be read ({type(error).__name__}).") from None
    return _checked(url, destination, pickle)


def _checked(url: str, folder: Path, pickle: bool) -> list[str]:
    """Notes on what was fetched. ``pickle``: whether PEFT's older weights lie there as well. Raises AdapterRejected."""
    if not holds_adapter(folder):
        raise AdapterRejected(f"{url[:200]!r} holds {NO_ADAPTER}")
    if (folder / CONFIG).is_file() and not (folder / WEIGHTS).is_file():
        raise AdapterRejected(f"{url[:200]!r}: {missing_weights(WEIGHTS, [PICKLE] if pickle else [])}")
    return [f"{PICKLE} was left aside unread: {WEIGHTS} is the adapter"] if pickle else []


def _raise_if_full(error: Exception) -> None:
    """Raise an error of a full disk here again: the source is not its cause."""
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        raise error
