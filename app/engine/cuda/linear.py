"""Linear layers for a few rows, bound by reading the weights; more rows go to cuBLAS. And the argmax over logits."""

from dataclasses import dataclass
from functools import cache

import torch
import triton

from app.engine.cuda import kernels
from app.quantization.formats import BLOCK, QuantizedMatrix
from app.quantization.kernels import skinny_int4

SKINNY = 64  # rows up to which our kernel reads a matrix faster than cuBLAS
MOST_PARTS = 4
SCRATCH = 1 << 24  # weights that are dequantised at a time for many rows
_NARROW = 8192  # outputs below which too few programs would read a matrix, so its inputs are split as well
_GEMV_ROWS, _GEMV_BLOCK, _BLOCK = 4, 512, 128
_MAGIC = {torch.bfloat16: (0x4300, 128), torch.float16: (0x6400, 1024)}  # bits, and the number that they are


@dataclass(frozen=True)
class Matrix:
    """Weights [outputs, inputs], as they are or at rest.

    ``scratch``: memory of `SCRATCH` numbers in the model's dtype, which matrices at rest share.
    """

    weight: torch.Tensor | QuantizedMatrix
    scratch: torch.Tensor | None = None

    @property
    def outputs(self) -> int:
        return len(self.weight.data)

    @property
    def inputs(self) -> int:
        return self.weight.inputs if isinstance(self.weight, QuantizedMatrix) else self.weight.shape[1]


def product(x: torch.Tensor, matrix: Matrix, out: torch.Tensor, a: torch.Tensor | None = None) -> torch.Tensor | None:
    """``out`` [rows, outputs] = ``x`` [rows, inputs] · matrix [outputs, inputs]ᵀ, and z = ``x`` · ``a``ᵀ beside it.

    An ``out`` of [parts, rows, outputs], in float32, gets parts that are still to be summed. Returns z [rows, columns]
    in ``x``'s dtype when there is an ``a`` [columns, inputs].
    """
    rows, outputs, inputs = x.shape[0], matrix.outputs, matrix.inputs
    parts = out.shape[0] if out.dim() == 3 else 1
    columns = 0 if a is None or parts > 1 else a.shape[0]
    z = x.new_empty(rows, columns) if columns else x
    at_rest = matrix.weight if isinstance(matrix.weight, QuantizedMatrix) else None
    blocked = at_rest is not None and at_rest.kind == "int4"
    if rows == 1 and _compiled(x) and outputs % _GEMV_ROWS == 0 and not blocked and _readable(matrix):
        weight, scale = _scaled(matrix, x)
        kernels.gemv[((outputs + columns) // _GEMV_ROWS,)](
            x, weight, scale, out, x if a is None else a, z, outputs, inputs, ROWS=_GEMV_ROWS, BLOCK=_GEMV_BLOCK,
            EVEN=inputs % _GEMV_BLOCK == 0, SCALED=at_rest is not None, BITS=weight.dtype == torch.uint8, num_warps=4,
            **kernels.early(rows, x.device),
        )  # fmt: skip
    elif _is_skinny(x, matrix) and (parts > 1 or rows <= SKINNY // 2 or at_rest is not None):
        block, stages = (32, 4) if outputs < 2 * _NARROW else (64, 3)
        grid = ((outputs + columns) // block, parts)
        shape = {"ROWS": max(16, triton.next_power_of_2(rows)), "OUTPUTS": block, "STAGES": stages, "num_warps": 4}
        if blocked:
            assert at_rest is not None
            zero_point, groups = at_rest.zero_point, at_rest.scale.shape[1]
            magic, offset = _MAGIC[x.dtype]
            skinny_int4[grid](
                x, at_rest.data, at_rest.scale, x if zero_point is None else zero_point, out, x if a is None else a, z,
                rows, outputs, columns, inputs, inputs // parts, inputs // groups, groups, MAGIC=magic, OFFSET=offset,
                ZERO=zero_point is not None, **shape,
            )  # fmt: skip
        else:
            weight, scale = _scaled(matrix, x)
            kernels.skinny[grid](
                x, weight, scale, out, x if a is None else a, z, rows, outputs, columns, inputs, inputs // parts,
                BLOCK=_BLOCK, SCALED=at_rest is not None, BITS=weight.dtype == torch.uint8, **shape,
            )  # fmt: skip
    else:
        _many_rows(x, matrix, out)
        columns = 0
    if a is not None and not columns:
        return x @ a.t()
    return z if columns else None


def _many_rows(x: torch.Tensor, matrix: Matrix, out: torch.Tensor) -> None:
    """``out`` = ``x`` · matrixᵀ by the library; a matrix at rest is dequantised part by part, each small enough to be
    read from the device's cache."""
    if not isinstance(matrix.weight, QuantizedMatrix):
        torch.mm(x, matrix.weight.t(), out=out)
        return
    step = max(1, SCRATCH // matrix.inputs)
    for first in range(0, matrix.outputs, step):
        part = slice(first, min(first + step, matrix.outputs))
        torch.mm(x, _dequantized(matrix, part, x.dtype).t(), out=out[:, part])


def _dequantized(matrix: Matrix, part: slice, dtype: torch.dtype) -> torch.Tensor:
    """Some outputs' weights, in the scratch memory where there is one."""
    assert isinstance(matrix.weight, QuantizedMatrix)
    rows = matrix.weight.rows(part)
    if not rows.data.is_cuda or matrix.scratch is None:
        return rows.dequantize(dtype)
    from app.quantization.on_cuda import dequantize

    out = matrix.scratch[: len(rows.data) * rows.inputs].view(-1, rows.inputs)
    return dequantize(rows, dtype, out)


def parts_of(x: torch.Tensor, matrix: Matrix) -> int:
    """Number of parts that the inputs of a product are split into."""
    if not _is_skinny(x, matrix) or matrix.outputs > _NARROW:
        return 1
    return next((parts for parts in (MOST_PARTS, 2) if matrix.inputs % (_BLOCK * parts) == 0), 1)


def _is_skinny(x: torch.Tensor, matrix: Matrix) -> bool:
    """True when our kernel can compute this product, and is the faster choice."""
    fits = matrix.outputs % 64 == 0 and matrix.inputs % _BLOCK == 0 and x.dtype in _MAGIC and _readable(matrix)
    least = 1 if isinstance(matrix.weight, QuantizedMatrix) and matrix.weight.kind == "int4" else 2
    return fits and _compiled(x) and least <= x.shape[0] <= SKINNY


def _readable(matrix: Matrix) -> bool:
    """True where our kernels read this form: one scale per output, or for int4 one per whole blocks of inputs."""
    if not isinstance(matrix.weight, QuantizedMatrix):
        return True
    weight = matrix.weight
    if weight.kind == "int4":
        return (weight.inputs // weight.scale.shape[1]) % BLOCK == 0
    return weight.scale.shape[1] == 1 and weight.zero_point is None


def _scaled(matrix: Matrix, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and scales as `gemv` and `skinny` take them; any tensor where there are no scales."""
    if not isinstance(matrix.weight, QuantizedMatrix):
        return matrix.weight, x
    data = matrix.weight.data
    if matrix.weight.kind == "float8" and _knows_float8(data.device):
        data = data.view(torch.float8_e4m3fn)
    return data, matrix.weight.scale


@cache
def _knows_float8(device: torch.device) -> bool:
    """True where a kernel can convert float8 by itself; others take its bits apart."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def _compiled(x: torch.Tensor) -> bool:
    """True where kernels are compiled: Triton's interpreter, on a CPU, is slower than the library."""
    return x.is_cuda


def finite_argmax(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As `sampler.finite_argmax`, in one pass over ``logits`` [rows, vocabulary]; of equal numbers the first."""
    rows, splits = logits.shape[0], 16
    values = torch.empty(rows, splits, device=logits.device)
    places = torch.empty(rows, splits, device=logits.device, dtype=torch.int32)
    kernels.peaks[(rows, splits)](
        logits,
        values,
        places,
        logits.shape[1],
        SPLITS=splits,
        BLOCK=1024,
        num_warps=4,
        **kernels.early(rows, logits.device),
    )
    best = values.argmax(1, keepdim=True)
    return torch.isfinite(values).all(1), places.gather(1, best)[:, 0].long()
