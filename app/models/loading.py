"""Load a base model and describe it: the shapes that adapters must fit, and its fingerprints."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from app.errors import BadRequest
from app.models.config import base_of
from app.models.family import ModelFamily, family_of
from app.models.processor import load_processor
from app.models.weights.at_rest import Wanted, Weights, formats_for, told, weights_of
from app.models.weights.checkpoint import Checkpoint, open_checkpoint, refusing
from app.models.weights.loaded_weights import check_loading, check_weights, refuse_infinite
from app.models.weights.streaming import fill, model_without_weights
from app.models.weights.tensors import read_rows
from app.quantization.formats import Format

_SAMPLE_BYTES = 4096
_SAMPLES_PER_FILE = 64
CHECKSUM_WORDS = 1 << 21  # of a weight that are summed at a time, as int64: with their positions, five such tensors


@dataclass(frozen=True)
class BaseSpec:
    """The shapes that an adapter must fit. Paths are module or parameter paths inside the model.

    ``linears``: path -> (out_features, in_features) of every linear layer.
    ``parameters``: path -> shape of every parameter.
    ``fingerprint``: of the checkpoint's files, the same whatever dtype it is served in.
    ``dtype``: in which it is served. ``weights``: the format of the language model's matrices; bfloat16: in ``dtype``.
    """

    name: str
    fingerprint: str
    linears: Mapping[str, tuple[int, int]]
    parameters: Mapping[str, tuple[int, ...]]
    family: ModelFamily
    dtype: torch.dtype = torch.float32
    weights: Weights = "bfloat16"

    @property
    def tower_width(self) -> int:
        """Width of the audio tower's output, before the projector."""
        return self.family.tower.width(self.parameters)


@dataclass(frozen=True)
class LoadedModel:
    """A resident model of its family's class, with its processor."""

    model: Any
    processor: Any
    spec: BaseSpec

    @property
    def family(self) -> ModelFamily:
        return self.spec.family

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = next(self.model.parameters()).dtype
        return dtype


def pick_device(wanted: str) -> torch.device:
    """`auto` means CUDA where there is one. Raises BadRequest for a device that is not there."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise BadRequest(f"{wanted[:40]!r} is no device; use auto, cpu, cuda or cuda:1 (OVERTONE_DEVICE).")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadRequest(f"There is no {wanted}: {torch.cuda.device_count()} CUDA devices are found (OVERTONE_DEVICE).")
    return device


def pick_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """`auto` means bfloat16 on CUDA and float32 on CPU, where half precision is slow."""
    if wanted == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, wanted)
    return dtype


def load(source: str, device: torch.device, dtype: torch.dtype, weights: Wanted = "auto") -> LoadedModel:
    """Load model and processor from a local folder or the Hub.

    ``weights``: the format of the language model's matrices; ``auto``: as the files have them.
    Raises ModelRejected when ``source`` is neither, or its files are damaged, incomplete or of another model: names
    and shapes are checked before any weight is read, values afterwards.
    """
    checkpoint = open_checkpoint(source)
    with refusing(checkpoint.name):
        processor = load_processor(checkpoint.folder, checkpoint.config)
        formats = formats_for(checkpoint, weights)
        if formats or checkpoint.matrices:
            model = _load_at_rest(checkpoint, device, dtype, formats)
        else:
            model = _load_plain(checkpoint, device, dtype)
    model.name_or_path = model.config.name_or_path = source  # what PEFT writes into adapters: not the cache's folder
    model.eval().requires_grad_(False)
    return LoadedModel(model, processor, _spec(checkpoint, dtype, told(weights, weights_of(checkpoint))))


def _load_plain(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Any:
    """The model as transformers loads it, compared with its files."""
    if device.type == "cuda":
        _reserve(checkpoint.modules, device, dtype)
    model, info = (
        family_of(checkpoint.config)
        .model_class()
        .from_pretrained(
            str(checkpoint.folder), dtype=dtype, device_map=device, use_safetensors=True, output_loading_info=True
        )
    )
    check_loading(info)
    check_weights(model, checkpoint.tensors)
    return model


def _load_at_rest(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, formats: Mapping[str, Format]
) -> Any:
    """The model with these layers quantised, read tensor by tensor."""

    def rows(path: str, first: int, last: int) -> torch.Tensor:
        found = read_rows(checkpoint.tensors[path], first, last)
        refuse_infinite({path: found}, checkpoint.tensors)
        return found

    model = model_without_weights(checkpoint.config)
    fill(model, rows, device, dtype, formats, checkpoint.matrices)
    plain = {path: one for path, one in model.named_parameters() if path in checkpoint.tensors}
    refuse_infinite(plain, checkpoint.tensors)  # a number may be too large for the dtype
    model.config.dtype = dtype
    return model


def processor_of(source: str) -> Any:
    """The processor of a model that is not loaded, whose files are checked all the same. Raises ModelRejected."""
    checkpoint = open_checkpoint(source)
    with refusing(checkpoint.name):
        return load_processor(checkpoint.folder, checkpoint.config)


def _reserve(modules: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Have PyTorch hold memory for each weight by itself.

    transformers reserves one piece for all; what is freed in its middle, as when projections are joined, never
    comes back to the device (3 GB at 7B). It takes what is reserved already, if that is enough.
    """
    blocks = [parameter.new_empty(parameter.shape, device=device, dtype=dtype) for parameter in modules.parameters()]
    del blocks


def spec_of(source: str, weights: Wanted = "auto") -> BaseSpec:
    """The spec of a model without loading it: shapes from its configuration, fingerprint from its files.

    ``weights``: as in `load`. Raises ModelRejected as `load` does, and for a Hub model that was not downloaded.
    """
    checkpoint = open_checkpoint(source, download=False)
    return _spec(checkpoint, torch.float32, told(weights, weights_of(checkpoint)))


def _spec(checkpoint: Checkpoint, dtype: torch.dtype, weights: Weights) -> BaseSpec:
    """The spec of a checkpoint. Weights that `overtone quantize` wrote are those of the model they were made of."""
    name, fingerprint = base_of(checkpoint.config) or (checkpoint.name, checkpoint_fingerprint(checkpoint.folder))
    return replace(describe(checkpoint.modules, name, fingerprint), dtype=dtype, weights=weights)


def empty_model(source: str) -> Any:
    """The modules of a model with weights that were never written: PEFT may be put around them, nothing may run.

    Memory that is not written takes no place, so this is cheap at any size. Raises ModelRejected as `spec_of` does.
    """
    return open_checkpoint(source, download=False).modules.float().to_empty(device="cpu").requires_grad_(False)


def describe(model: Any, name: str, fingerprint: str) -> BaseSpec:
    """The spec of a model already in memory (on any device, `meta` included)."""
    linears = {
        path: (module.out_features, module.in_features)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    parameters = {path: tuple(parameter.shape) for path, parameter in model.named_parameters()}
    dtype = next(model.parameters()).dtype
    return BaseSpec(name, fingerprint, linears, parameters, family_of(model.config), dtype)


def checkpoint_fingerprint(folder: Path) -> str:
    """sha256 over each weight file's size, header and 64 evenly spaced 4 KiB samples.

    Tells checkpoints apart in milliseconds, also at 16 GB; it is not proof against forgery.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size};".encode())
        with file.open("rb") as stream:
            for index in range(_SAMPLES_PER_FILE):
                stream.seek(index * max(0, size - _SAMPLE_BYTES) // (_SAMPLES_PER_FILE - 1))
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def weight_checksums(model: nn.Module) -> Iterator[str]:
    """One line per parameter over all its bits, so that the work can be spread over engine steps.

    Computed where the tensor lies: two int64 sums of its words, plain and weighted by position.
    """
    for path, parameter in model.named_parameters(remove_duplicate=True):
        words = parameter.detach().contiguous().view(-1)
        words = words.view({1: torch.int8, 2: torch.int16}.get(words.element_size(), torch.int32))
        plain = weighted = 0
        for start in range(0, words.numel(), CHECKSUM_WORDS):
            piece = words[start : start + CHECKSUM_WORDS].long()
            position = torch.arange(start, start + piece.numel(), device=piece.device) % 65521 + 1
            plain += int(piece.sum())
            weighted += int((piece * position).sum())
        yield f"{path}:{tuple(parameter.shape)}:{plain}:{weighted}"


def combine_checksums(lines: Iterator[str] | list[str]) -> str:
    """The fingerprint of the resident weights: sha256 over `weight_checksums`."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
