"""A loaded base model compared with the files that it was read from."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from app.errors import ModelRejected
from app.models.weights.safetensors_header import StoredTensor, named

_PIECES, _PIECE = 8, 4096  # of each tensor: pieces compared with its file, elements of a piece
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def check_loading(info: Mapping[str, Collection[Any]]) -> None:
    """Refuse what transformers' loading info reports: keys missing, unexpected or of another shape, and errors."""
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys", "error_msgs"):
        if found := sorted(str(one) for one in info.get(kind) or ()):
            raise ModelRejected(f"transformers reports {kind.replace('_', ' ')}: {named(found)}.")


def check_weights(model: nn.Module, tensors: Mapping[str, StoredTensor]) -> None:
    """Compare every parameter with its bytes in the files, in 8 pieces of 4096 elements each, and look for NaN and inf.

    ``tensors``: parameter path -> where it is stored. Raises ModelRejected for a parameter that no file holds, that
    differs from its file, such as a head that was tied silently, or that is not finite everywhere.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if unread := [path for path, one in parameters.items() if path not in tensors or one.is_meta]:
        raise ModelRejected(f"{named(unread)} were not read from any file ({len(unread)} parameters).")
    for path, parameter in parameters.items():
        stored = tensors[path]
        if not _same(parameter, stored):
            raise ModelRejected(
                f"{stored.name} in {stored.file.name} is not what was loaded as {path}. This release of transformers "
                "reads the model wrongly (5.10.0 to 5.10.3 tie lm_head), or the file has changed: load it again."
            )
    refuse_infinite(parameters, tensors)


def refuse_infinite(parameters: Mapping[str, torch.Tensor], tensors: Mapping[str, StoredTensor]) -> None:
    """Raise ModelRejected where a tensor, by its path, is not finite everywhere."""
    infinite = [path for path, one in parameters.items() if not _finite(one)]
    if infinite:
        found = [(path, tensors[path]) for path in infinite]
        raise ModelRejected(_why_not_finite(found, parameters[infinite[0]].dtype))


def _same(parameter: torch.Tensor, stored: StoredTensor) -> bool:
    """True if pieces over the whole length equal those of the file, to the bit but for NaN."""
    flat = parameter.detach().reshape(-1)
    starts = _starts(flat.numel())
    ours = torch.cat([flat[start : start + _PIECE] for start in starts]).cpu()
    theirs = torch.cat([_read(stored, start, min(_PIECE, flat.numel() - start)) for start in starts])
    return torch.equal(ours.nan_to_num(7.0), theirs.to(ours.dtype).nan_to_num(7.0))


def _starts(count: int) -> list[int]:
    """Starts of the pieces; they touch where the tensor is short."""
    if count <= _PIECES * _PIECE:
        return list(range(0, max(count, 1), _PIECE))
    return [index * (count - _PIECE) // (_PIECES - 1) for index in range(_PIECES)]


def _read(stored: StoredTensor, start: int, count: int) -> torch.Tensor:
    """``count`` elements of a tensor from its file, in the file's dtype."""
    dtype = _DTYPES[stored.dtype]
    with stored.file.open("rb") as stream:
        stream.seek(stored.start + start * dtype.itemsize)
        return torch.frombuffer(bytearray(stream.read(count * dtype.itemsize)), dtype=dtype)


def _finite(tensor: torch.Tensor) -> bool:
    low, high = torch.aminmax(tensor)  # NaN passes through both
    return bool(torch.isfinite(low) & torch.isfinite(high))


def _why_not_finite(found: list[tuple[str, StoredTensor]], dtype: torch.dtype) -> str:
    names = named([f"{stored.name} in {stored.file.name}" for _, stored in found])
    reason = f"NaN or infinity in {names} ({len(found)} of the tensors)"
    _, stored = found[0]
    whole = _read(stored, 0, (stored.end - stored.start) // _DTYPES[stored.dtype].itemsize)
    if _finite(whole):
        kind = str(dtype).removeprefix("torch.")
        return (
            f"{reason} once they are {kind}; those of the file are finite: set OVERTONE_DTYPE to bfloat16 or float32."
        )
    return f"{reason}. Download the model again; such weights answer nothing."
