"""Which pages of the KV cache are free. No torch."""


class PagePool:
    """Fixed-size pages, handed out and taken back by number."""

    def __init__(self, pages: int, page_size: int) -> None:
        self.pages = pages
        self.page_size = page_size
        self._free = list(range(pages - 1, -1, -1))

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def tokens(self) -> int:
        """Tokens that the whole cache holds."""
        return self.pages * self.page_size

    def grow(self, held: list[int], tokens: int) -> bool:
        """Extend ``held`` so that it holds ``tokens``; False, with nothing taken, when too few are free."""
        wanted = -(-tokens // self.page_size) - len(held)
        if wanted > len(self._free):
            return False
        for _ in range(wanted):
            held.append(self._free.pop())
        return True

    def release(self, held: list[int]) -> None:
        self._free.extend(reversed(held))
        held.clear()
