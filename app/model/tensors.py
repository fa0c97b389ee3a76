"""Tensors of a safetensors file, read once."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """All tensors of ``file``, in memory of their own. Raises OSError, SafetensorError.

    safetensors' own ways of opening a file map it into memory: whoever writes over it later changes the tensors,
    and whoever cuts it short kills the process that looks at them.
    """
    try:
        tensors: dict[str, torch.Tensor] = load(file.read_bytes())
    except (KeyError, RuntimeError, ValueError) as error:  # a dtype that torch, or safetensors for torch, lacks
        raise SafetensorError(f"its tensors cannot be read ({error})") from None
    return tensors
