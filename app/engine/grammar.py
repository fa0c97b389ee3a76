"""What a constrained answer may say next. No torch, no library: the engine knows only this much of grammars."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from app.errors import OvertoneError


class Grammar(Protocol):
    """One answer on its way; each sequence has its own, and only the engine's thread calls it."""

    @property
    def finished(self) -> bool:
        """Nothing may follow: the answer is complete."""

    @property
    def error(self) -> OvertoneError | None:
        """Why it cannot go on, once it cannot."""

    def fill(self, mask: npt.NDArray[np.int32]) -> None:
        """Write which tokens may come next into ``mask`` [ceil(vocabulary / 32)]: bit i % 32 of word i // 32.

        End-of-turn tokens are among them where the answer may end. No bit at all once ``error`` is set.
        """

    def accept(self, token: int) -> None:
        """Go on past a token that the last mask allowed."""
