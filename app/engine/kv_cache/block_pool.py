"""Free and allocated blocks of the KV cache. No torch.

A block holds the keys and values of ``block_size`` consecutive tokens of one sequence, over all layers.
"""


class BlockPool:
    """Blocks of fixed size, allocated and freed by number."""

    def __init__(self, blocks: int, block_size: int) -> None:
        self.blocks = blocks
        self.block_size = block_size
        self._free = list(range(blocks - 1, -1, -1))

    @property
    def available(self) -> int:
        """Blocks that no sequence holds."""
        return len(self._free)

    @property
    def tokens(self) -> int:
        """Tokens that the whole cache holds."""
        return self.blocks * self.block_size

    def missing(self, held: list[int], tokens: int) -> int:
        """Blocks beyond ``held`` that ``tokens`` tokens need; not above 0 when they fit."""
        return -(-tokens // self.block_size) - len(held)

    def allocate(self, held: list[int], tokens: int) -> bool:
        """Extend ``held`` to hold ``tokens`` tokens; False, and unchanged, when too few blocks are available."""
        missing = self.missing(held, tokens)
        if missing > len(self._free):
            return False
        for _ in range(missing):
            held.append(self._free.pop())
        return True

    def free(self, held: list[int]) -> None:
        """Return all blocks of ``held``, and empty it."""
        self._free.extend(reversed(held))
        held.clear()
