"""Work in batches that fit what memory there is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.models.device_memory import left_bytes
from app.models.loading import load
from app.models.shape import shape_from
from app.models.training_memory import Batch, activation_bytes, least_training_bytes, lora_numbers, training_bytes
from training.batches import epoch, micro_batches
from training.events import Events
from training.examples import Example
from training.memory import batches_that_fit
from training.methods.forward import Forward
from training.methods.peft_model import Adapted
from training.micro_batches import MicroBatches, plan_micro_batches
from training.options import TrainOptions
from training.trainer import Trainer

ROUNDING = 1e-4  # Adam makes parts of a step of 0.01 of what rounds a gradient near 0
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


@pytest.fixture(scope="module")
def seven():
    return shape_from("random:7b")


def row(tokens, answer=64):
    return Example(tuple(range(tokens)), tuple(range(tokens - answer, tokens)), (), None)


def test_activations_are_what_was_measured(seven):
    """8 clips of 30 s took 38.3 GB at the peak on an H200, 16.8 of them the weights; the figure is a tenth above."""
    found = activation_bytes(seven, Batch(8 * 800, 8 * 20), itemsize=2, checkpointing=False)
    assert 1.0 < found / (38.3e9 - 16.8e9) < 1.2
    per_layer = 2 * (5 * 4096 + 3 * 11008)
    assert (
        activation_bytes(seven, Batch(800, 64), itemsize=2, checkpointing=False)
        == int(1.1 * 800 * 32 * per_layer) + 64 * 156032 * 16
    )
    assert (
        activation_bytes(seven, Batch(800, 64), itemsize=2, checkpointing=True)
        == int(1.1 * 800 * (32 * 8192 + 2 * per_layer)) + 64 * 156032 * 16
    )


def test_the_whole_of_a_run_by_hand(seven):
    """LoRA of rank 8 on q and v is 4,194,304 numbers, each with a gradient and two moments."""
    assert lora_numbers(seven, 8) == 4_194_304
    parts = training_bytes(seven, 4_194_304, Batch(800, 64), itemsize=2, checkpointing=True)
    assert parts["weights"] == 16_794_189_824
    assert parts["adapter"] == 16 * 4_194_304
    assert sum(parts.values()) == least_training_bytes(seven, 2)


@pytest.mark.parametrize(
    ("left_gb", "tokens", "checkpointing"),
    [(100, 8000, False), (12, 2400, False), (4.0, 800, False), (3.0, 2400, True), (0.1, 800, True)],
)
def test_micro_batches_are_chosen_before_memory_ends(seven, left_gb, tokens, checkpointing):
    rows = [row(800), row(300)]
    found = plan_micro_batches(seven, rows, 8192, int(left_gb * 1e9), itemsize=2)
    assert (found.tokens, found.checkpointing) == (tokens, checkpointing)


@given(st.integers(0, 10**11), st.integers(16, 20000), st.lists(st.integers(2, 3000), min_size=1, max_size=5))
@settings(deadline=None, max_examples=100)
def test_what_is_planned_fits_or_is_one_row(seven, left, most, lengths):
    rows = [row(length, answer=1) for length in lengths]
    found = plan_micro_batches(seven, rows, most, left, itemsize=2)
    for piece in micro_batches(rows, found.tokens):
        tokens = max(len(one.ids) for one in piece) * len(piece)
        needed = activation_bytes(seven, Batch(tokens, len(piece)), itemsize=2, checkpointing=found.checkpointing)
        assert needed <= left or found == MicroBatches(max(lengths), True)


def test_checkpointing_that_was_planned_changes_no_result(model_folder, audio_features, examples, tmp_path):
    """One step each: against the trainer that keeps all activations and takes the rows together."""
    found = []
    for planned in (None, MicroBatches(400, True)):
        loaded, seen = load(str(model_folder), torch.device("cpu"), torch.float32), []
        torch.manual_seed(0)
        options = TrainOptions(data="-", name="x", learning_rate=1e-2, dropout=0, batch=6, epochs=1)
        adapted, forward = Adapted(loaded, options), Forward(loaded.model, audio_features)
        events = Events([seen.append])
        trainer = Trainer(
            adapted, forward, examples[8:], examples[:8], options, events, tmp_path / "c", planned=planned
        )
        found.append((trainer.step(epoch(examples[8:], 6, 0, 0)[0]), adapted.state()))
        assert forward.checkpointing is (planned is not None)
        assert len(seen) == (planned is not None), "the plan is reported"
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for name, one in found[0][1].items():
        torch.testing.assert_close(one, found[1][1][name], rtol=1e-3, atol=ROUNDING)


def test_a_gpu_that_is_not_all_ours_leaves_less(monkeypatch):
    """40 GB free, 10 held, 8 of them by tensors; 0.6 GB stand for what CUDA has taken, and go again."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (40 * 10**9, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 10 * 10**9)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 8 * 10**9)
    assert left_bytes(torch.device("cuda"), None) == 42 * 10**9 - 600 * 10**6
    assert left_bytes(torch.device("cuda"), 24.0) == 16 * 10**9 - 1200 * 10**6
    assert left_bytes(torch.device("cpu"), 24.0) is None
