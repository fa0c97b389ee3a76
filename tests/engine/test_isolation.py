"""What lies in one adapter's columns changes no bit of the rows that do not use it, on any path."""

import importlib.util

import pytest
import torch
from torch import nn

from app.engine.lora.layers import HostAdapter, LoRABank, Pair
from app.engine.lora.slots import Slot
from app.errors import EngineFault
from tests.engine.driver import Job
from tests.support import random_model

pytestmark = pytest.mark.slow

NAN, INF, LARGE = float("nan"), float("inf"), 6e4  # the last overflows in products of float16, at run time alone
PLANTED = [(NAN, NAN), (INF, -INF), (1.0, INF), (NAN, 1.0), (LARGE, LARGE)]


class Layers(nn.Module):
    """Two layers under names of the language model."""

    def __init__(self, dtype):
        super().__init__()
        self.one, self.two = nn.Linear(8, 6, dtype=dtype), nn.Linear(8, 6, dtype=dtype)

    def forward(self, x):
        return torch.cat([self.one(x), self.two(x)], -1)


def bank_of(dtype, planted=None):
    """Two adapters, of which the second holds what is ``planted``."""
    torch.manual_seed(0)
    model = Layers(dtype).requires_grad_(False)
    bank = LoRABank(model)
    for place, uid in enumerate(("good@1", "bad@1")):
        pairs = {path: Pair(torch.randn(4, 8).to(dtype), torch.randn(6, 4).to(dtype)) for path in ("one", "two")}
        if planted and uid == "bad@1":
            for pair in pairs.values():
                pair.a[1], pair.b[:, 1] = planted
        bank.load(Slot(uid, 8 * place, 4), HostAdapter(pairs, {}, 4, 0), 16)
    return model, bank


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("planted", PLANTED)
@pytest.mark.parametrize("rows", [
    [{"good@1": 1.0}, {"bad@1": 1.0}, {}], [{"good@1": 0.5}], [{}, {"good@1": 1.0}],
])  # fmt: skip
def test_modules(dtype, planted, rows):
    """Rows of a step and, one alone, of a clip. ``good@1`` and ``bad@1`` are resident in all layers."""
    x = torch.randn(1, len(rows), 8).to(dtype)
    answers = []
    for what in (None, planted):
        model, bank = bank_of(dtype, what)
        bank.select(rows, [1] * len(rows))
        answers.append(model(x)[0])
    for row, clean, beside in zip(rows, *answers, strict=True):
        if "bad@1" in row:
            if not (planted[0] == LARGE and dtype != torch.float16):
                assert not beside.isfinite().all(), "its own row must not be a silent wrong answer"
        else:
            assert torch.equal(clean, beside)


@pytest.mark.parametrize("planted", PLANTED[:4])
def test_neighbours_of_a_broken_adapter_get_their_answers(drive, expected, planted):
    driver = drive()
    jobs = [Job((("qv", 1.0),), (0,)), Job((), (1,)), Job((("everything", 0.5), ("qv2", 1.0)), (2,))]
    bad = Job((("rslora", 1.0),), (0,))
    driver.ask(bad, *jobs)  # all are resident now

    def plant():
        slot = driver.engine.lora_manager.slots.get(driver.adapters["rslora"].uid)
        for layer in driver.engine.runner.bank._layers.values():
            layer.lora_a[slot.start : slot.stop], layer.lora_b[slot.start : slot.stop] = planted

    driver.engine.call(plant).result()
    broken, *answers = driver.ask(bad, *jobs)
    assert isinstance(broken.error, EngineFault)
    assert [answer.tokens for answer in answers] == [expected(job) for job in jobs]


triton = importlib.util.find_spec("triton")
SIZES = dict(hidden_size=256, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, intermediate_size=256)


def planted_passes(passes, planted, mixes, prompts, answers):
    """Logits of prompts and of answers beside others, with what is ``planted`` in the columns of ``all``."""
    from tests.engine.passes import draw_rows

    slot = passes.table.get("all")
    for held in passes.decoder.stacks.groups.values():
        for index, tensor in enumerate(held.tensors):
            tensor[:, slot.start + 1] = planted[min(index, 1)]
    rows = draw_rows(len(mixes), prompts, passes.vocabulary, mixes)
    found = [passes.prefill(rows)]
    more = draw_rows(answers, 3 * answers, passes.vocabulary, mixes, seed=1)
    for row in rows:
        row.ids.append(5)
    found.append(passes.step(*((row, 1) for row in rows), *((row, len(row.ids)) for row in more)))
    found.append(passes.decode([*rows, *more], 9))
    passes.end([*rows, *more])
    return [*rows], [*rows, *more], found


def compare(passes, planted, prompts, answers):
    """Every row without ``all`` has the same bits; every row with it is seen to be broken, where it is."""
    mixes = [(("q", 1.0),), (("all", 1.0),), (("down", 1.0), ("head", 0.5)), (), (("o", 1.0), ("gate", 0.5))]
    few, many, clean = planted_passes(passes, (0.5, 0.25), mixes, prompts, answers)
    *_, beside = planted_passes(passes, planted, mixes, prompts, answers)
    for rows, before, after in zip((few, many, many), clean, beside, strict=True):
        assert len(rows) == len(before)
        for row, one, other in zip(rows, before, after, strict=True):
            if ("all", 1.0) not in row.mix:
                assert torch.equal(one, other), row.mix
            elif planted[0] != LARGE:
                assert not other.isfinite().all(), "a wrong answer without a word"


@pytest.fixture(scope="module")
def passes(tmp_path_factory):
    pytest.importorskip("triton")
    from tests.engine.passes import Passes, make_all

    loaded = random_model(dtype=torch.float16, **SIZES)
    return Passes(loaded, make_all(loaded, tmp_path_factory.mktemp("projections")))


@pytest.mark.skipif(triton is None, reason="needs Triton; without a GPU its interpreter is enough")
@pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu runs the kernels themselves")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, at NaN
class TestFused:
    @pytest.fixture(autouse=True)
    def _as_on_cuda(self, monkeypatch):
        from app.engine.cuda import language_model, linear

        monkeypatch.setattr(linear, "_compiled", lambda x: True)
        monkeypatch.setattr(language_model, "_PROGRAMS", 16)

    @pytest.mark.parametrize("planted", [PLANTED[1], PLANTED[4]])
    def test_few_rows(self, passes, planted):
        """Split sums, and A read beside the weights."""
        compare(passes, planted, prompts=15, answers=2)

    def test_many_rows(self, passes):
        """The library's product."""
        compare(passes, (NAN, INF), prompts=70, answers=2)
