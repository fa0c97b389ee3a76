"""Dequantising on CUDA, in one pass over the matrix. Import this module only where Triton is installed."""

from functools import cache

import torch
import triton

from app.quantization.formats import BLOCK, QuantizedMatrix, block_words
from app.quantization.kernels import dequantize_bytes, dequantize_int4, dequantize_kernel

# tiles of the kernels: outputs, and inputs or words
_BYTES, _INT4, _ANY = (4, 1024), (4, 64), (4, 512)


def dequantize(matrix: QuantizedMatrix, dtype: torch.dtype, out: torch.Tensor | None = None) -> torch.Tensor:
    """The weights [outputs, inputs]; written to ``out``, contiguous and of any dtype, where it is given."""
    outputs, inputs, groups = len(matrix.data), matrix.inputs, matrix.scale.shape[1]
    if out is None:
        out = torch.empty(outputs, inputs, device=matrix.data.device, dtype=dtype)
    zero_point = matrix.scale if matrix.zero_point is None else matrix.zero_point
    group = inputs // groups
    if matrix.kind == "int4" and group % BLOCK == 0:
        rows, words = _INT4
        dequantize_int4[(triton.cdiv(outputs, rows), triton.cdiv(inputs // 8, words))](
            matrix.data, matrix.scale, zero_point, out, outputs, inputs, groups, GROUP=group,
            ZERO=matrix.zero_point is not None, ROWS=rows, WORDS=words, num_warps=4,
        )  # fmt: skip
    elif matrix.kind != "int4" and groups == 1 and matrix.zero_point is None:
        rows, columns = _BYTES
        data = numbers_of(matrix)
        dequantize_bytes[(triton.cdiv(outputs, rows), triton.cdiv(inputs, columns))](
            data, matrix.scale, out, outputs, inputs, BITS=data.dtype == torch.uint8, ROWS=rows, BLOCK=columns,
            num_warps=4,
        )  # fmt: skip
    else:
        rows, columns = _ANY
        dequantize_kernel[(triton.cdiv(outputs, rows), triton.cdiv(inputs, columns))](
            matrix.data, matrix.scale, zero_point, out, outputs, inputs, group, groups, KIND=matrix.kind,
            WORDS=block_words(inputs), ZERO=matrix.zero_point is not None, ROWS=rows, BLOCK=columns, num_warps=4,
        )  # fmt: skip
    return out


def numbers_of(matrix: QuantizedMatrix) -> torch.Tensor:
    """int8 or float8 numbers as a kernel reads them: float8 as such where the device knows it, else its bits."""
    if matrix.kind == "float8" and _knows_float8(matrix.data.device):
        return matrix.data.view(torch.float8_e4m3fn)
    return matrix.data


@cache
def _knows_float8(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)
