"""`overtone quantize`: a checkpoint with the language model's matrices at rest, in the format of compressed-tensors.

https://github.com/vllm-project/compressed-tensors. int4 and int8 are `pack-quantized`, float8 is `float-quantized`.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from app.errors import BadRequest, ModelRejected, on_disk
from app.models.config import BASE, CONFIG, read_json
from app.models.layout import AUDIO_TOWER, LM_HEAD, PROJECTOR, part_of
from app.models.loading import checkpoint_fingerprint
from app.models.weights.at_rest import layer_formats, weights_of
from app.models.weights.checkpoint import INDEX, WEIGHTS, Checkpoint, open_checkpoint, refusing
from app.models.weights.foreign_weights import COMPRESSED_TENSORS
from app.models.weights.loaded_weights import refuse_infinite
from app.models.weights.safetensors_header import StoredTensor
from app.models.weights.safetensors_writer import Planned, SafetensorsWriter
from app.models.weights.tensors import read_rows
from app.quantization.formats import Format, QuantizedMatrix, group_size, quantize, step_rows, unpack_int4
from app.quantization.linear import joined

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_PARTIAL = ".quantizing"
Progress = Callable[[int, int], None]  # tensors done, and of how many


@dataclass(frozen=True)
class Written:
    """A folder that was written. ``before`` and ``after``: bytes of the weight files."""

    folder: Path
    before: int
    after: int


def quantize_checkpoint(
    source: str, weights: Format, out: Path, force: bool = False, progress: Progress = lambda done, of: None
) -> Written:
    """Write the model ``source`` with matrices in the format ``weights`` into the folder ``out``.

    One piece of a matrix is in memory at a time. ``force``: a model that lies in ``out`` is replaced; other files there
    stay. Raises ModelRejected for a model that cannot be read or is quantised already, BadRequest for ``out``.
    """
    checkpoint = open_checkpoint(source)
    with refusing(checkpoint.name):
        if (stored := weights_of(checkpoint)) != "bfloat16" or checkpoint.matrices:
            raise ModelRejected(f"its weights are {stored} already; name the model in full precision.")
    _refuse_place(checkpoint.folder, out, force)
    partial = out / _PARTIAL
    with on_disk("The folder of the quantised model"):
        partial.mkdir(parents=True, exist_ok=True)
        try:
            formats = layer_formats(checkpoint.modules, weights)
            with refusing(checkpoint.name):
                _write_weights(checkpoint, formats, partial / WEIGHTS, progress)
            _write_rest(checkpoint, weights, formats, partial)
            _move(partial, out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    before = sum(tensor.end - tensor.start for tensor in checkpoint.tensors.values())
    return Written(out, before, (out / WEIGHTS).stat().st_size)


def _refuse_place(source: Path, out: Path, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise BadRequest(f"{out} is a file; name a folder with --out.")
    if out.is_dir() and out.resolve() == source.resolve():
        raise BadRequest(f"{out} is the model itself; name another folder with --out.")
    if out.is_dir() and any(out.iterdir()):
        if not force:
            raise BadRequest(f"{out} is not empty; name another folder, or replace the model in it with --force.")
        if not (out / CONFIG).is_file() and not (out / _PARTIAL).is_dir():
            raise BadRequest(f"{out} holds other things than a model, so --force does not write into it.")


def _write_weights(checkpoint: Checkpoint, formats: Mapping[str, Format], file: Path, progress: Progress) -> None:
    """All tensors, under the names of the source's layout."""
    planned: dict[str, Planned] = {}
    for path, tensor in checkpoint.tensors.items():
        kind = formats.get(path.removesuffix(".weight"))
        planned |= {tensor.name: (_DTYPES[tensor.dtype], tensor.shape)} if kind is None else _planned(tensor, kind)
    with SafetensorsWriter(file, planned) as writer:
        for done, (path, tensor) in enumerate(checkpoint.tensors.items()):
            progress(done, len(checkpoint.tensors))
            kind = formats.get(path.removesuffix(".weight"))
            if kind is None:
                whole = read_rows(tensor, 0, tensor.shape[0])
                refuse_infinite({path: whole}, checkpoint.tensors)
                writer.write(tensor.name, whole)
                continue
            for name, part in _parts(_quantized(path, checkpoint, kind)):
                writer.write(f"{tensor.name.removesuffix('weight')}{name}", part)
    progress(len(checkpoint.tensors), len(checkpoint.tensors))


def _quantized(path: str, checkpoint: Checkpoint, kind: Format) -> QuantizedMatrix:
    """A matrix of the source, quantised some outputs at a time."""
    stored, parts = checkpoint.tensors[path], []
    outputs, step = stored.shape[0], step_rows(stored.shape[1])
    for first in range(0, outputs, step):
        rows = read_rows(stored, first, min(first + step, outputs))
        refuse_infinite({path: rows}, checkpoint.tensors)
        parts.append(quantize(rows, kind))
    return joined(parts)


def _planned(tensor: StoredTensor, kind: Format) -> dict[str, Planned]:
    """Names, dtypes and shapes of `_parts` of a matrix."""
    outputs, inputs = tensor.shape
    stem = tensor.name.removesuffix("weight")
    if kind == "float8":
        parts: dict[str, Planned] = {
            "weight": (torch.float8_e4m3fn, (outputs, inputs)), "weight_scale": (torch.float32, (outputs, 1))
        }  # fmt: skip
    else:
        groups = inputs // group_size(inputs) if kind == "int4" else 1
        words = -(-inputs // (8 if kind == "int4" else 4))
        parts = {
            "weight_packed": (torch.int32, (outputs, words)),
            "weight_scale": (torch.float16 if kind == "int4" else torch.float32, (outputs, groups)),
            "weight_shape": (torch.int64, (2,)),
        }
        if kind == "int4":
            parts["weight_zero_point"] = (torch.int32, (-(-outputs // 8), groups))
    return {f"{stem}{name}": plan for name, plan in parts.items()}


def _parts(matrix: QuantizedMatrix) -> Iterator[tuple[str, torch.Tensor]]:
    """A matrix as compressed-tensors stores it."""
    if matrix.kind == "float8":
        yield "weight", matrix.data.view(torch.float8_e4m3fn)
        yield "weight_scale", matrix.scale
        return
    numbers = unpack_int4(matrix.data) if matrix.kind == "int4" else matrix.data
    yield "weight_packed", pack_words(numbers, 4 if matrix.kind == "int4" else 8)
    yield "weight_scale", matrix.scale
    yield "weight_shape", torch.tensor([len(matrix.data), matrix.inputs])
    if matrix.zero_point is not None:
        yield "weight_zero_point", pack_words(matrix.zero_point.t(), 4).t()


def pack_words(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """int8 [rows, columns] as int32 words, the first column in the lowest bits, plus 2^(bits-1); the rest is 0."""
    rows, columns = numbers.shape
    each = 32 // bits
    wide = torch.nn.functional.pad(numbers.to(torch.int64) + (1 << (bits - 1)), (0, -columns % each))
    words = (wide.view(rows, -1, each) << torch.arange(0, 32, bits)).sum(2)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def _write_rest(checkpoint: Checkpoint, weights: Format, formats: Mapping[str, Format], folder: Path) -> None:
    """Configuration, tokenizer and whatever else lies beside the weights."""
    for file in checkpoint.folder.iterdir():
        if file.is_file() and file.name not in (CONFIG, INDEX, "SHA256SUMS") and file.suffix != ".safetensors":
            shutil.copyfile(file, folder / file.name)
    content = read_json(checkpoint.folder / CONFIG)
    content["quantization_config"] = _declaration(checkpoint, weights, formats)
    content[BASE] = {"name": checkpoint.name, "fingerprint": checkpoint_fingerprint(checkpoint.folder)}
    (folder / CONFIG).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _declaration(checkpoint: Checkpoint, weights: Format, formats: Mapping[str, Format]) -> dict[str, Any]:
    """The `quantization_config`: one group of layers for each number of bits and size of groups."""
    linears = {path: module.in_features for path, module in checkpoint.modules.named_modules() if path in formats}
    groups: dict[tuple[Format, int], list[str]] = {}
    for path, kind in formats.items():
        groups.setdefault((kind, group_size(linears[path]) if kind == "int4" else 0), []).append(path)
    name = "float-quantized" if weights == "float8" else "pack-quantized"
    declared = {}
    for index, ((kind, size), paths) in enumerate(groups.items()):
        scheme: dict[str, Any] = {
            "num_bits": 4 if kind == "int4" else 8,
            "type": "float" if kind == "float8" else "int",
            "symmetric": kind != "int4",
            "strategy": "group" if kind == "int4" else "channel",
            "group_size": size or None,
            "dynamic": False,
        }
        declared[f"group_{index}"] = {"targets": _patterns(paths, formats), "weights": scheme, "format": name}
    left = [path for path in _linears(checkpoint) if path not in formats and part_of(path) == "language_model"]
    ignored = [f"re:{re.escape(part)}.*" for part in (AUDIO_TOWER, PROJECTOR)]
    return {
        "quant_method": COMPRESSED_TENSORS, "format": name, "quantization_status": "compressed",
        "config_groups": declared, "ignore": [*ignored, *left], "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }  # fmt: skip


def _patterns(paths: list[str], all_paths: Iterable[str]) -> list[str]:
    """Regular expressions that fit the modules ``paths`` in every layout, and no other of ``all_paths``."""
    others = set(all_paths) - set(paths)
    leaves = sorted({path.rpartition(".")[2] for path in paths})
    patterns = [f"re:.*{'' if leaf == LM_HEAD else 'language_model.*[.]'}{leaf}$" for leaf in leaves]
    if any(re.match(pattern.removeprefix("re:"), path) for pattern in patterns for path in others):
        return [f"re:{re.escape(path)}$" for path in paths]
    return patterns


def _linears(checkpoint: Checkpoint) -> list[str]:
    return [path for path, module in checkpoint.modules.named_modules() if isinstance(module, torch.nn.Linear)]


def _move(partial: Path, out: Path) -> None:
    """Put the finished files in place of those of a model before; the configuration last."""
    for old in [*out.glob("*.safetensors"), out / INDEX]:
        old.unlink(missing_ok=True)
    for file in sorted(partial.iterdir(), key=lambda file: file.name == CONFIG):
        file.replace(out / file.name)
