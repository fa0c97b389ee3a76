"""Work in batches that fit what memory there is."""

import pytest
import torch

from training.memory import batches_that_fit

ERRORS = [
    torch.OutOfMemoryError("no"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=str)
@pytest.mark.parametrize("room", [1, 2, 3, 8, 100])
def test_every_item_once_in_order(error, room):
    sizes = []

    def compute(batch):
        if len(batch) > room:
            raise error
        sizes.append(len(batch))
        return [2 * item for item in batch]

    found = list(batches_that_fit(list(range(19)), 8, compute))
    assert [item for batch, _ in found for item in batch] == list(range(19))
    assert [item for _, doubled in found for item in doubled] == [2 * item for item in range(19)]
    assert max(sizes) <= min(room, 8)


def test_one_item_too_large_and_errors_about_something_else_are_raised():
    def too_large(batch):
        raise ERRORS[0]

    def wrong(batch):
        raise ValueError("shape")

    with pytest.raises(torch.OutOfMemoryError):
        list(batches_that_fit([1, 2, 3], 2, too_large))
    with pytest.raises(ValueError, match="shape"):
        list(batches_that_fit([1, 2, 3], 2, wrong))
