"""Dequantising on CUDA, in one pass over the matrix. Import this module only where Triton is installed."""

import torch
import triton

from app.quantization.formats import QuantizedMatrix, block_words
from app.quantization.kernels import dequantize_kernel

_ROWS, _BLOCK = 4, 512


def dequantize(matrix: QuantizedMatrix, dtype: torch.dtype, out: torch.Tensor | None = None) -> torch.Tensor:
    """The weights [outputs, inputs]; written to ``out``, contiguous and of any dtype, where it is given."""
    outputs, inputs, groups = len(matrix.data), matrix.inputs, matrix.scale.shape[1]
    if out is None:
        out = torch.empty(outputs, inputs, device=matrix.data.device, dtype=dtype)
    zero_point = matrix.scale if matrix.zero_point is None else matrix.zero_point
    dequantize_kernel[(triton.cdiv(outputs, _ROWS), triton.cdiv(inputs, _BLOCK))](
        matrix.data, matrix.scale, zero_point, out, outputs, inputs, inputs // groups, groups, KIND=matrix.kind,
        WORDS=block_words(inputs), ZERO=matrix.zero_point is not None, ROWS=_ROWS, BLOCK=_BLOCK, num_warps=4,
    )  # fmt: skip
    return out
