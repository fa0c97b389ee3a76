"""A base model's folder, checked before it is loaded and again once it is.

transformers fills a tensor that the files lack with random numbers, and logs that. Here names and shapes of all
tensors are compared with the configuration's model beforehand, from the files' headers alone, and the loaded
parameters with the files' bytes afterwards.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from app.errors import ModelRejected, on_disk
from app.models.config import CONFIG, on_meta, read_config, read_json, ties_head
from app.models.layout import AUDIO_TOWER, EMBEDDING, LANGUAGE_MODEL, LM_HEAD, PROJECTOR, parameter_path
from app.models.weights.foreign_weights import refuse_gguf, why_unreadable
from app.models.weights.safetensors_header import AGAIN, BYTES, StoredTensor, named, read_header
from app.models.weights.stored_matrix import StoredMatrix, matrix_of, split

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
_SMALL_FILES = ["*.json", "*.jinja", "*.txt"]
_HEAD, _EMBEDDING = f"{LM_HEAD}.weight", f"{EMBEDDING}.weight"
_BUFFERS = ("rotary_emb.inv_freq", "position_ids")  # older checkpoints hold them; they are computed


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose files fit its configuration.

    ``modules``: the model on the device `meta`, not quantised. ``tensors``: parameter path -> where it is stored.
    ``matrices``: the same for the weights of linear layers that are quantised in the files, by module path.
    """

    name: str
    folder: Path
    config: Any
    modules: Any
    tensors: Mapping[str, StoredTensor]
    matrices: Mapping[str, StoredMatrix]


def open_checkpoint(source: str, *, download: bool = True) -> Checkpoint:
    """Check a local folder's or Hub model's files against each other; no weights are read.

    Without ``download``, a Hub model must lie in the cache. Raises ModelRejected, with file and tensor.
    """
    local = os.path.isdir(source)  # False also for what can be no path
    name = Path(os.path.abspath(source)).name if local else source
    with refusing(name):
        refuse_gguf(source)
        folder = Path(source) if local else _from_hub(source, _SMALL_FILES, download)
        config = read_config(folder)
        if not local:
            folder = _from_hub(source, [*_SMALL_FILES, WEIGHTS, *_shard_names(folder)], download)
        stored = _stored(folder)
        modules = on_meta(config)
        expected = modules.state_dict()
        parts, stored = split(stored) if _declares_quantized(folder) else ({}, stored)
        known = {path: found for path, found in parts.items() if f"{path}.weight" in expected}
        matrices = {path: matrix_of(found, expected.pop(f"{path}.weight").shape) for path, found in known.items()}
        strange = [tensor for path, found in parts.items() if path not in known for tensor in found.values()]
        tensors = _placed(stored)
        _refuse_misfits(folder, tensors, expected, strange)
        _refuse_tied(config, tensors)
    return Checkpoint(name, folder, config, modules, tensors, matrices)


def _declares_quantized(folder: Path) -> bool:
    """True if the configuration, which has been checked, says that weights are quantised."""
    return bool(read_json(folder / CONFIG).get("quantization_config"))


@contextmanager
def refusing(name: str) -> Iterator[None]:
    """Add the model's name to a ModelRejected."""
    try:
        yield
    except ModelRejected as error:
        raise ModelRejected(error.reason, name) from None


def _from_hub(repository: str, patterns: list[str], download: bool) -> Path:
    """Folder of a Hub model's files, downloaded where they are not there yet."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        with on_disk("The cache of Hub models"):
            return Path(snapshot_download(repository, local_files_only=not download, allow_patterns=patterns))
    except (HFValidationError, NotADirectoryError):
        raise ModelRejected("it cannot be read: there is no such folder, and the Hub has no such names.") from None
    except LocalEntryNotFoundError:
        tried = "the Hub could not be reached" if download else "only downloaded models are described"
        raise ModelRejected(f"it cannot be read: no folder here, it was not downloaded before, {tried}.") from None
    except HfHubHTTPError as error:
        why = "the Hub does not know it, or asks for a token (`hf auth login`)"
        if error.response.status_code not in (401, 403, 404):
            why = f"the Hub answered {error.response.status_code}"
        raise ModelRejected(f"it cannot be read: no folder here, and {why}.") from None


def _stored(folder: Path) -> list[StoredTensor]:
    """All tensors of the weight files, which are one file or the shards of an index."""
    shards = _shard_names(folder)
    if (folder / WEIGHTS).is_file():
        if shards and shards != [WEIGHTS]:
            raise ModelRejected(
                f"there are both {WEIGHTS} and {INDEX} with other files; delete those of the older model."
            )
        shards = [WEIGHTS]
    if not shards:
        raise ModelRejected(_why_no_weights(folder))
    if missing := [shard for shard in shards if not (folder / shard).is_file()]:
        raise ModelRejected(
            f"{INDEX} names {named(missing)}: {len(missing)} of {len(shards)} files are missing. {AGAIN}"
        )
    tensors = [tensor for shard in shards for tensor in read_header(folder / shard)]
    if (folder / INDEX).is_file():
        _refuse_other_index(_weight_map(folder), tensors)
    return tensors


def _weight_map(folder: Path) -> dict[str, str]:
    found = read_json(folder / INDEX).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(shard, str) for shard in found.values()):
        raise ModelRejected(f"{INDEX} has no weight_map. {AGAIN}")
    return found


def _shard_names(folder: Path) -> list[str]:
    """The files that the index names; none where there is no index."""
    if not (folder / INDEX).is_file():
        return []
    shards = sorted(set(_weight_map(folder).values()))
    if strange := [one for one in shards if Path(one).name != one or not one.endswith(".safetensors")]:
        raise ModelRejected(f"{INDEX} names {named(strange)}, which is no safetensors file of the folder. {AGAIN}")
    return shards


def _why_no_weights(folder: Path) -> str:
    files = sorted(file.name for file in folder.iterdir())
    if (folder / WEIGHTS).is_symlink():
        return f"{WEIGHTS} is a link to a file that is not there. {AGAIN}"
    if loose := [name for name in files if name.endswith(".safetensors")]:
        return f"there are {named(loose)}, but neither {WEIGHTS} nor {INDEX}. {AGAIN}"
    if pickled := [name for name in files if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".gguf"))]:
        return (
            f"its weights are {named(pickled)}, and only safetensors are read. If you trust it, load it with "
            "transformers and write it with save_pretrained()."
        )
    return f"there are no weights ({WEIGHTS}, or shards with {INDEX}). {AGAIN}"


def _refuse_other_index(index: dict[str, str], tensors: list[StoredTensor]) -> None:
    """Refuse an index that names tensors which do not lie where it says."""
    there = {(tensor.name, tensor.file.name) for tensor in tensors}
    lost = [(name, shard) for name, shard in index.items() if (name, shard) not in there]
    if lost:
        names = named([f"{name} in {shard}" for name, shard in lost])
        raise ModelRejected(f"{INDEX} names tensors that are not there: {names} ({len(lost)} in all). {AGAIN}")


def _placed(stored: Iterable[StoredTensor]) -> dict[str, StoredTensor]:
    """Tensors by parameter path. Raises ModelRejected for one that is stored twice, or not as floating point."""
    placed: dict[str, StoredTensor] = {}
    for tensor in stored:
        path = parameter_path(tensor.name)
        if path.endswith(_BUFFERS):
            continue
        if (other := placed.get(path)) is not None:
            both = f"{other.name} in {other.file.name} and {tensor.name} in {tensor.file.name}"
            raise ModelRejected(f"one tensor is stored twice: {both}. Delete the file of the older model.")
        if tensor.dtype not in BYTES:
            raise ModelRejected(why_unreadable(tensor, ", ".join(BYTES)))
        placed[path] = tensor
    return placed


def _refuse_misfits(
    folder: Path,
    tensors: Mapping[str, StoredTensor],
    expected: Mapping[str, torch.Tensor],
    strange: Sequence[StoredTensor] = (),
) -> None:
    """Compare names and shapes with those of the configuration's model. ``strange``: more tensors without a place."""
    files = {one.file.name for one in tensors.values()}
    where = f"{files.pop()} lacks" if len(files) == 1 else "its files lack"
    problems = []
    if missing := [path for path in expected if path not in tensors]:
        names = named([_name_in(tensors, path) for path in missing])
        problems.append(f"{where} {names} ({len(missing)} of the {len(expected)} tensors that {CONFIG} asks for)")
        if missing == [_HEAD]:
            problems.append("a tied head is not served: write the embedding as lm_head as well")
    without = [one for path, one in tensors.items() if path not in expected]
    if extra := [f"{one.name} in {one.file.name}" for one in (*without, *strange)]:
        problems.append(f"{CONFIG} has no place for {named(extra)} ({len(extra)} in all)")
    misshapen = [
        f"{one.name} in {one.file.name} is {list(one.shape)}, {CONFIG} makes it {list(expected[path].shape)}"
        for path, one in tensors.items()
        if path in expected and one.shape != tuple(expected[path].shape)
    ]
    if misshapen:
        problems.append(f"{named(misshapen)}{f' ({len(misshapen)} in all)' if len(misshapen) > 1 else ''}")
    if problems:
        raise ModelRejected(
            f"{'; '.join(problems)}. {CONFIG} and weights must be of one model: download or copy both again."
        )


def _name_in(tensors: Mapping[str, StoredTensor], path: str) -> str:
    """The name that a tensor for ``path`` would have in these files' layout."""
    for prefix in (f"{part}." for part in (LANGUAGE_MODEL, AUDIO_TOWER, PROJECTOR, LM_HEAD)):
        for other, tensor in tensors.items():
            if other.startswith(prefix) and path.startswith(prefix):
                kept = len(other) - len(prefix)
                return tensor.name[:-kept] + path.removeprefix(prefix)
    older = any(tensor.name.startswith("language_model.") for tensor in tensors.values())
    return f"language_model.{path}" if older and path == _HEAD else path


def _refuse_tied(config: Any, tensors: Mapping[str, StoredTensor]) -> None:
    """Refuse a head of its own where the configuration says that the embedding is the head."""
    head, embedding = tensors.get(_HEAD), tensors[_EMBEDDING]
    if head is not None and ties_head(config) and not _same_bytes(head, embedding):
        raise ModelRejected(
            f"{CONFIG} says tie_word_embeddings, but {head.name} in {head.file.name} differs from {embedding.name}. "
            f"Set tie_word_embeddings to false in {CONFIG} if this head is the model's."
        )


def _same_bytes(first: StoredTensor, second: StoredTensor) -> bool:
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    with first.file.open("rb") as one, second.file.open("rb") as other:
        one.seek(first.start)
        other.seek(second.start)
        left = first.end - first.start
        while left > 0:
            size = min(left, 1 << 24)
            if one.read(size) != other.read(size):
                return False
            left -= size
    return True
