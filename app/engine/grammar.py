"""The protocol of grammars, which constrain answers. No torch, and no grammar library."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from app.errors import OvertoneError


class Grammar(Protocol):
    """State of one constrained answer. Each sequence has its own, called on the engine's thread only."""

    @property
    def finished(self) -> bool:
        """True when the answer is complete: no token may follow."""

    @property
    def error(self) -> OvertoneError | None:
        """The error that ended it, if one did."""

    def fill(self, mask: npt.NDArray[np.int32]) -> None:
        """Set a bit in ``mask`` [ceil(vocabulary / 32)] for each token that may come next: bit i % 32 of word i // 32.

        End-of-turn tokens are among them where the answer may end. No bit is set once ``error`` is.
        """

    def accept(self, token: int) -> None:
        """Advance past a token that the last mask allowed."""
