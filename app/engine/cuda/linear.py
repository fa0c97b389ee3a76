"""Linear layers for a few rows, bound by reading the weights; more rows go to cuBLAS. And the argmax over logits."""

from dataclasses import dataclass

import torch
import triton

from app.engine.cuda import kernels
from app.engine.cuda.int4_kernels import gemv_int4, skinny_int4
from app.quantization.formats import BLOCK, QuantizedMatrix
from app.quantization.on_cuda import dequantize, numbers_of

SKINNY = 64  # rows up to which our kernel reads a matrix faster than cuBLAS
MOST_PARTS = 4
_SHORT = 16  # rows of the smallest tile
# Weights that are dequantised at a time for many rows: a 7B projection, or q, k and v. In smaller
# parts the library's products get slower: 22.6 ms for 832 rows with 2^24, 17.0 with 2^25, 15.4 whole (H200).
SCRATCH = 3 << 24
_NARROW = 8192  # outputs below which too few programs would read a matrix, so its inputs are split as well
_GEMV_ROWS, _GEMV_BLOCK, _GEMV_WORDS, _BLOCK = 4, 512, 256, 128
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
    rows, outputs = x.shape[0], matrix.outputs
    parts = out.shape[0] if out.dim() == 3 else 1
    columns = 0 if a is None or parts > 1 else a.shape[0]
    z = x.new_empty(rows, columns) if columns else x
    if rows == 1 and _compiled(x) and outputs % _GEMV_ROWS == 0 and _readable(matrix):
        _one_row(x, matrix, out, x if a is None else a, z, columns)
    elif _is_skinny(x, matrix) and (parts > 1 or rows <= SKINNY // 2 or isinstance(matrix.weight, QuantizedMatrix)):
        _few_rows(x, matrix, out, x if a is None else a, z, columns, parts)
    else:
        _many_rows(x, matrix, out)
        columns = 0
    if a is not None and not columns:
        return x @ a.t()
    return z if columns else None


def _one_row(
    x: torch.Tensor, matrix: Matrix, out: torch.Tensor, a: torch.Tensor, z: torch.Tensor, columns: int
) -> None:
    outputs, inputs = matrix.outputs, matrix.inputs
    grid, early = ((outputs + columns) // _GEMV_ROWS,), kernels.early(1, x.device)
    at_rest = matrix.weight if isinstance(matrix.weight, QuantizedMatrix) else None
    if at_rest is not None and at_rest.kind == "int4":
        zero_point, groups = at_rest.zero_point, at_rest.scale.shape[1]
        gemv_int4[grid](
            x, at_rest.data, at_rest.scale, x if zero_point is None else zero_point, out, a, z, outputs, inputs, groups,
            GROUP=inputs // groups, ZERO=zero_point is not None, ROWS=_GEMV_ROWS, WORDS=_GEMV_WORDS, BLOCK=_GEMV_BLOCK,
            num_warps=4, **early,
        )  # fmt: skip
        return
    weight, scale = _scaled(matrix, x)
    kernels.gemv[grid](
        x, weight, scale, out, a, z, outputs, inputs, ROWS=_GEMV_ROWS, BLOCK=_GEMV_BLOCK,
        EVEN=inputs % _GEMV_BLOCK == 0, SCALED=at_rest is not None, BITS=weight.dtype == torch.uint8, num_warps=4,
        **early,
    )  # fmt: skip


def _few_rows(
    x: torch.Tensor, matrix: Matrix, out: torch.Tensor, a: torch.Tensor, z: torch.Tensor, columns: int, parts: int
) -> None:
    rows, outputs, inputs = x.shape[0], matrix.outputs, matrix.inputs
    at_rest = matrix.weight if isinstance(matrix.weight, QuantizedMatrix) else None
    wide = outputs >= 2 * _NARROW or (at_rest is not None and rows > _SHORT)  # unpacking costs more than reading
    block, stages = (64, 3) if wide else (32, 4)
    grid = ((outputs + columns) // block, parts)
    shape = {"ROWS": max(16, triton.next_power_of_2(rows)), "OUTPUTS": block, "STAGES": stages, "num_warps": 4}
    if at_rest is not None and at_rest.kind == "int4":
        zero_point, groups = at_rest.zero_point, at_rest.scale.shape[1]
        magic, offset = _MAGIC[x.dtype]
        skinny_int4[grid](
            x, at_rest.data, at_rest.scale, x if zero_point is None else zero_point, out, a, z, rows, outputs, columns,
            inputs, inputs // parts, inputs // groups, groups, MAGIC=magic, OFFSET=offset, ZERO=zero_point is not None,
            **shape,
        )  # fmt: skip
        return
    weight, scale = _scaled(matrix, x)
    kernels.skinny[grid](
        x, weight, scale, out, a, z, rows, outputs, columns, inputs, inputs // parts, BLOCK=_BLOCK,
        SCALED=at_rest is not None, BITS=weight.dtype == torch.uint8, **shape,
    )  # fmt: skip


def _many_rows(x: torch.Tensor, matrix: Matrix, out: torch.Tensor) -> None:
    """``out`` = ``x`` · matrixᵀ by the library; a matrix at rest is dequantised part by part, in equal parts."""
    if not isinstance(matrix.weight, QuantizedMatrix):
        torch.mm(x, matrix.weight.t(), out=out)
        return
    parts = -(-matrix.outputs * matrix.inputs // SCRATCH)
    step = -(-matrix.outputs // (128 * parts)) * 128
    step = max(1, min(step, SCRATCH // matrix.inputs))
    for first in range(0, matrix.outputs, step):
        part = slice(first, min(first + step, matrix.outputs))
        torch.mm(x, _dequantized(matrix, part, x.dtype).t(), out=out[:, part])


def _dequantized(matrix: Matrix, part: slice, dtype: torch.dtype) -> torch.Tensor:
    """Some outputs' weights, in the scratch memory where there is one."""
    assert isinstance(matrix.weight, QuantizedMatrix)
    rows = matrix.weight.rows(part)
    if not rows.data.is_cuda or matrix.scratch is None:
        return rows.dequantize(dtype)
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
    return fits and _compiled(x) and 2 <= x.shape[0] <= SKINNY


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
    return numbers_of(matrix.weight), matrix.weight.scale


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
