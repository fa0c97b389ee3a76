"""The fused decoder on a CPU, its kernels in Triton's interpreter, against plain transformers + PEFT.

The interpreter is slow: a small model, short answers, and as much as can be seen in one batch.
"""

import threading
from dataclasses import replace

import pytest
import torch

from app.engine.detokenizer import Detokenizer
from app.engine.request import Request
from app.engine.sampling_params import SamplingParams
from app.engine.scheduler import Chunk
from app.engine.sequence import Sequence
from app.errors import EngineFault
from tests.engine.driver import Driver, Job, Oracle
from tests.support import ADAPTERS, greedy, make_adapter, random_model

pytest.importorskip("triton", reason="needs Triton; without a GPU its interpreter is enough")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu runs the kernels themselves"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # NumPy's, at NaN
]

TEXT = {"num_hidden_layers": 2}
NAMES = ("qv", "everything", "ranks", "head", "dora")
NEW = 4


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root, small = tmp_path_factory.mktemp("small"), random_model(**TEXT)
    return {name: make_adapter(small, root / name, seed, **ADAPTERS[name]) for seed, name in enumerate(NAMES, 1)}


@pytest.fixture(scope="module")
def expected(folders):
    return Oracle(briefly(random_model(**TEXT)), folders)


def briefly(loaded):
    """Without the words of the template's system message prompts are half as long."""
    loaded.processor.chat_template = loaded.processor.chat_template.replace("You are a helpful assistant.", "")
    return loaded


@pytest.fixture
def fused(drive, monkeypatch):
    """Engines over the fused decoder; few rows a tile, few programs. ``overlaps``: as on CUDA."""
    from app.engine.cuda import decoder as cuda_decoder
    from app.engine.cuda import language_model

    for name in ("_ROW_STEP", "TILE"):
        monkeypatch.setattr(cuda_decoder, name, 16)
    monkeypatch.setattr(cuda_decoder, "_ROWS", ())
    monkeypatch.setattr(language_model, "TILE", 16)
    monkeypatch.setattr(cuda_decoder, "_MIXED", (2,))
    monkeypatch.setattr(language_model, "_PROGRAMS", 16)
    monkeypatch.setattr(cuda_decoder.CudaDecoder, "warm_up", lambda self: None)

    def make(overlaps=False, **limits):
        defaults = dict(text=TEXT, decoder="fused", max_batch=8, max_context=256, step_tokens=512)
        driver = drive(**(defaults | limits))
        briefly(driver.loaded)
        driver.engine.runner.decoder.overlaps = overlaps
        return driver

    return make


def together(driver, *asked):
    """Submit (job, sampling) in one go, so that all are in the first step."""
    everybody_is_in_line = threading.Event()
    driver.engine.call(everybody_is_in_line.wait)
    requests = [driver.submit(job, sampling) for job, sampling in asked]
    everybody_is_in_line.set()
    return requests


def poison(driver):
    """NaN in all pages, and NaN and infinities in A and B of the columns that no adapter of the tests takes."""
    decoder = driver.engine.runner.decoder
    driver.engine.runner.cache.keys.fill_(torch.nan)
    driver.engine.runner.cache.values.fill_(torch.nan)
    for name in decoder.stacks._linears:
        decoder.stacks._ensure(name)
    for held in decoder.stacks.groups.values():
        for tensor in held.tensors:
            tensor[:, -8:-4], tensor[:, -4:] = torch.nan, torch.inf


def test_adapters_of_all_kinds_in_one_batch_among_poison(fused, expected):
    driver = fused(overlaps=True)
    driver.engine.call(lambda: poison(driver)).result()
    jobs = [
        Job((), (), "a"),
        Job((("qv", 1.0),), (), "b"),
        Job((("everything", 1.0),), (0,), "c"),
        Job((("ranks", 1.0),), (), "d"),
        Job((("head", 1.0),), (), "e"),
        Job((("qv", 0.5), ("everything", -0.25), ("head", 0.7)), (), "f"),
    ]
    together(driver, *[(job, greedy(NEW)) for job in jobs])
    assert [answer.tokens for answer in driver.answers()] == [expected(job)[:NEW] for job in jobs]
    assert all(expected(job) != expected(Job((), job.waves, job.prompt)) for job in jobs[1:])
    driver.assert_idle()


def test_chunks_and_preemption(fused, expected):
    """Prompts of 47 tokens in chunks of 24; seven pages of 16 tokens, so the younger has to go back."""
    driver = fused(overlaps=True, step_tokens=24, blocks=7)
    jobs = [Job((("qv", 1.0),), (), "say a long numeral"), Job((), (), "say a long letters")]
    together(driver, *[(job, greedy(NEW)) for job in jobs])
    answers = driver.answers()
    assert answers[0].done.prompt_tokens == 47
    assert [answer.tokens for answer in answers] == [expected(job)[:NEW] for job in jobs]
    assert driver.engine.scheduler.preemptions > 0
    driver.assert_idle()


def test_a_step_in_flight_changes_no_answer(fused, drive, expected):
    """Every way to end, and requests that must not fly, beside those that do; as the modules answer."""
    stop = expected(Job((), (), "end"))[1]
    asked = [
        (Job((), (), "end"), greedy(NEW)),
        (Job((), (), "seed"), SamplingParams(max_new_tokens=NEW, temperature=1.0, top_p=0.9, seed=7, ignore_eos=True)),
        (Job((), (), "rep"), SamplingParams(max_new_tokens=NEW, repetition_penalty=1.7, ignore_eos=True)),
        (Job((("dora", 1.0),), (), "far"), SamplingParams(max_new_tokens=NEW, ignore_eos=True)),
        (Job((("qv", 1.0),), (), "len"), SamplingParams(max_new_tokens=1, ignore_eos=True)),
        (Job((), (), "left"), SamplingParams(max_new_tokens=100, ignore_eos=True)),
    ]

    def answers(driver):
        driver.engine._sequences.eos_ids = frozenset([stop])
        requests = together(driver, *asked)
        leaving = driver.engine._sequences.get(requests[-1].id)
        emit, heard = leaving.request.emit, []

        def cancel_at_the_second(event):
            heard.append(event)
            emit(event)
            if len(heard) == 2:
                driver.engine.cancel(leaving.request.id)

        leaving.request = replace(leaving.request, emit=cancel_at_the_second)
        found = driver.answers()
        driver.assert_idle()
        return [(answer.tokens, answer.done.finish_reason) for answer in found]

    modules = drive(text=TEXT, decoder="modules")
    briefly(modules.loaded)
    plain = answers(modules)
    assert [reason for _, reason in plain] == ["stop", "length", "length", "length", "length", "cancelled"]
    assert answers(fused(overlaps=True)) == plain


def test_a_row_without_a_token_harms_its_own_request_alone(fused, expected, caplog):
    """NaN is told one step late: the step in between must not look up the token that there is not."""
    driver = fused(overlaps=True)
    runner = driver.engine.runner
    original = runner._audio_of

    def broken(chunk):
        audio = original(chunk)
        return audio and replace(audio, embeddings=audio.embeddings * torch.nan)

    runner._audio_of = broken
    good = Job((), (), "a")
    together(driver, (Job((), (0,), ""), greedy(NEW)), (good, greedy(NEW)))
    bad, fine = driver.answers()
    assert isinstance(bad.error, EngineFault)
    assert "finite" in str(bad.error)
    assert fine.tokens == expected(good)[:NEW]
    assert not caplog.records
    driver.assert_idle()


def test_one_token_of_an_answer_computed_anew(fused):
    """What is left of a step may be one token, and that not the last."""
    driver = fused()
    decoder, tokens = driver.engine.runner.decoder, [5, 9, 40, 3, 77, 21, 8]

    def logits(first_page, *lengths):
        request = Request(tuple(tokens[:3]), (), (), greedy(NEW), lambda event: None)
        sequence = Sequence(request, Detokenizer(lambda ids: "", ()), 0.0)
        sequence.tokens, sequence.blocks = list(tokens), [first_page]
        for tokens_now in lengths:
            final = sequence.computed + tokens_now == len(tokens)
            chunk = Chunk(sequence, sequence.computed, tokens_now, final)
            found = decoder.step([chunk], [None]).clone()
            sequence.computed += tokens_now
        return found

    whole = driver.engine.call(lambda: logits(0, 7)).result()
    parts = driver.engine.call(lambda: logits(1, 3, 1, 3)).result()
    assert torch.allclose(whole, parts, atol=1e-4)


def test_graphs_are_forgotten_even_when_loading_fails(fused, monkeypatch):
    """A graph over tensors that were replaced would read memory that is no longer its own."""
    from app.engine.lora.stacked_weights import LAYERS, Reach

    driver = fused()
    decoder = driver.engine.runner.decoder
    decoder._graphs._graphs.update({(0, 1, Reach(64, LAYERS)): object(), (0, 1, None): object()})

    def failing(slot, adapter, capacity):
        decoder.stacks._grow(capacity)
        raise MemoryError("planted")

    monkeypatch.setattr(decoder.stacks, "load", failing)
    with pytest.raises(MemoryError):
        decoder.load(None, None, 100)
    assert list(decoder._graphs._graphs) == [(0, 1, None)]


def test_rows_are_padded_to_the_next_size():
    from app.engine.cuda.decoder import _ROWS, _padded

    assert list(_ROWS) == sorted({size for size in _ROWS if size % 16 == 0})
    assert [_padded(rows) for rows in (1, 64, 65, 803, 1024, 1025, 2048)] == [64, 64, 128, 816, 1024, 1152, 2048]


def test_the_warm_up_runs_every_shape_and_says_how_far_it_is(tmp_path, monkeypatch, caplog):
    from app.engine.cuda import decoder as cuda_decoder
    from app.engine.cuda import language_model
    from app.engine.cuda.graph_runner import GraphRunner
    from app.engine.lora.stacked_weights import LAYERS, QUERY_VALUE, Reach

    for name, value in {
        "_ROWS": (16,),
        "_ROW_STEP": 16,
        "TILE": 16,
        "_MIXED": (2,),
        "_SPARE_TILES": 2,
        "_SHAPES_PER_LOG_LINE": 4,
    }.items():
        monkeypatch.setattr(cuda_decoder, name, value)
    monkeypatch.setattr(language_model, "TILE", 16)
    original, keys = GraphRunner.run, []
    monkeypatch.setattr(GraphRunner, "run", lambda self, key, run: (keys.append(key), original(self, key, run)))
    with caplog.at_level("INFO", logger="app.engine.cuda.decoder"):
        limits = {"decoder": "fused", "max_batch": 2, "max_context": 256, "step_tokens": 32}
        driver = Driver(tmp_path / "registry", {}, text=TEXT | {"num_hidden_layers": 1}, **limits)
    shapes = [(0, 2), (0, 1), (32, 2), (16, 2), (32, 0), (16, 0)]
    reaches = (None, Reach(64, QUERY_VALUE), Reach(64, LAYERS))
    assert keys == [(*shape, reach) for reach in reaches for shape in shapes]
    assert [record.args for record in caplog.records] == [(done, 18) for done in range(0, 18, 4)]
    briefly(driver.loaded)
    (answer,) = driver.ask(Job())  # and the engine is as good as new
    driver.engine.close()
    assert answer.done
