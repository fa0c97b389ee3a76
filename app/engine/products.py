"""Products of a few rows with a large matrix, bound by the reading of the matrix; more rows are the library's.

And what follows the last of them: the likeliest token of each row.
"""

from dataclasses import dataclass

import torch
import triton

from app.engine import kernels
from app.engine.memory import QUANTISED

SKINNY = 64  # rows up to which our product reads a matrix faster than the library's
MOST_PARTS = 4
_NARROW = 8192  # outputs of a matrix that too few programs would read, so its inputs are split as well
_GEMV_ROWS, _GEMV_BLOCK, _BLOCK = 4, 512, 128
_FLOAT8_MOST = 448.0  # of e4m3


@dataclass(frozen=True)
class Matrix:
    """``weight`` [outputs, inputs]; where there is one, a float8 copy of it with a scale for each output."""

    weight: torch.Tensor
    small: torch.Tensor | None = None
    scale: torch.Tensor | None = None

    @classmethod
    def of(cls, weight: torch.Tensor, quantise: bool) -> "Matrix":
        """With ``quantise``, products of a few rows read e4m3 numbers, scaled by each output's largest weight."""
        if not quantise:
            return cls(weight)
        small = torch.empty_like(weight, dtype=torch.float8_e4m3fn)
        scale = torch.empty(len(weight), device=weight.device)
        step = max(1, QUANTISED // weight.shape[1])
        for rows in range(0, len(weight), step):  # a float32 copy of a part at a time
            part = slice(rows, rows + step)
            wide = weight[part].float()
            scale[part] = wide.abs().amax(1).clamp(min=1e-12) / _FLOAT8_MOST
            small[part] = (wide / scale[part, None]).to(small.dtype)
        return cls(weight, small, scale)


def product(x: torch.Tensor, matrix: Matrix, out: torch.Tensor, a: torch.Tensor | None = None) -> torch.Tensor | None:
    """``out`` [rows, outputs] = ``x`` [rows, inputs] · matrix [outputs, inputs]ᵀ, and z = ``x`` · ``a``ᵀ beside it.

    An ``out`` of [parts, rows, outputs], in float32, gets parts that are still to be summed. Returns z [rows, columns]
    in ``x``'s dtype when there is an ``a`` [columns, inputs].
    """
    rows, (outputs, inputs) = x.shape[0], matrix.weight.shape
    parts = out.shape[0] if out.dim() == 3 else 1
    columns = 0 if a is None or parts > 1 else a.shape[0]
    z = x.new_empty(rows, columns) if columns else x
    weight, scale = (matrix.weight, x) if matrix.small is None else (matrix.small, matrix.scale)
    if rows == 1 and _compiled(x) and outputs % _GEMV_ROWS == 0:
        kernels.gemv[((outputs + columns) // _GEMV_ROWS,)](
            x, weight, scale, out, x if a is None else a, z, outputs, inputs, ROWS=_GEMV_ROWS, BLOCK=_GEMV_BLOCK,
            EVEN=inputs % _GEMV_BLOCK == 0, SCALED=matrix.small is not None, num_warps=4,
            **kernels.early(rows, x.device),
        )  # fmt: skip
    elif _is_skinny(x, matrix) and (parts > 1 or rows <= SKINNY // 2 or matrix.small is not None):
        block, stages = (32, 4) if outputs < 2 * _NARROW else (64, 3)
        kernels.skinny[((outputs + columns) // block, parts)](
            x, weight, scale, out, x if a is None else a, z, rows, outputs, columns, inputs, inputs // parts,
            ROWS=max(16, triton.next_power_of_2(rows)), OUTPUTS=block, BLOCK=_BLOCK, STAGES=stages,
            SCALED=matrix.small is not None, num_warps=4,
        )  # fmt: skip
    else:
        torch.mm(x, matrix.weight.t(), out=out)
        columns = 0
    if a is not None and not columns:
        return x @ a.t()
    return z if columns else None


def parts_of(x: torch.Tensor, matrix: Matrix) -> int:
    """Into how many parts the inputs of a product are split."""
    outputs, inputs = matrix.weight.shape
    if not _is_skinny(x, matrix) or outputs > _NARROW:
        return 1
    return next((parts for parts in (MOST_PARTS, 2) if inputs % (_BLOCK * parts) == 0), 1)


def _is_skinny(x: torch.Tensor, matrix: Matrix) -> bool:
    """Whether our product can take this one, and should."""
    outputs, inputs = matrix.weight.shape
    fits = outputs % 64 == 0 and inputs % _BLOCK == 0 and x.dtype in (torch.bfloat16, torch.float16)
    return fits and _compiled(x) and 1 < x.shape[0] <= SKINNY


def _compiled(x: torch.Tensor) -> bool:
    """Whether kernels run as they were written for: Triton's interpreter, on a CPU, is slower than the library."""
    return x.is_cuda


def likeliest(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether each row of ``logits`` [rows, vocabulary] is finite, and the first of its largest, in one reading."""
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
