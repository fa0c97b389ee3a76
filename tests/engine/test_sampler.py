"""The sampler against transformers' own logits processors."""

import numpy as np
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from app.engine import sampler
from app.engine.sampling_params import SamplingParams

VOCABULARY = 50


def choose(logits, samplings, seen, grammars=None):
    """Token ids alone."""
    positions = [len(tokens) for tokens in seen]
    chosen = sampler.choose(logits, samplings, seen, grammars or [None] * len(seen), positions).result()
    return [choice and choice.token for choice in chosen]


def logits(seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("top_k", "top_p", "temperature"), [(0, 1.0, 0.7), (5, 1.0, 1.0), (0, 0.8, 1.3), (8, 0.6, 1.0)]
)
def test_draws_follow_transformers_distribution(top_k, top_p, temperature):
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    warpers.append(TopPLogitsWarper(top_p))
    expected = warpers(None, logits()).softmax(-1)[0]
    draws = [
        choose(logits(), [SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)], [[1]])[0]
        for seed in range(4000)
    ]
    seen = torch.bincount(torch.tensor(draws), minlength=VOCABULARY) / len(draws)
    assert set(torch.tensor(draws).tolist()) <= set(expected.nonzero()[:, 0].tolist())
    assert (seen - expected).abs().max() < 0.03


def test_repetition_penalty_is_transformers():
    seen = [3, 7, 7, 20]
    expected = RepetitionPenaltyLogitsProcessor(1.8)(torch.tensor([seen]), logits(4).clone()).argmax(-1).tolist()
    assert choose(logits(4), [SamplingParams(repetition_penalty=1.8)], [seen]) == expected


def test_a_seed_gives_the_same_draw_in_any_company():
    sampling = SamplingParams(temperature=1.0, seed=11)
    alone = choose(logits(1), [sampling], [[1, 2]])
    company = torch.cat([logits(2), logits(1), logits(3)])
    samplings = [SamplingParams(temperature=2.0, seed=5), sampling, SamplingParams()]
    assert choose(company, samplings, [[1], [1, 2], [1, 2, 3]])[1] == alone[0]


def test_positions_draw_anew():
    sampling = SamplingParams(temperature=3.0, seed=1)
    draws = {choose(logits(1), [sampling], [list(range(length))])[0] for length in range(30)}
    assert len(draws) > 5


def test_a_broken_row_is_told_and_its_neighbours_are_chosen():
    rows = torch.cat([logits(1), logits(2), logits(3)])
    rows[1, 4] = float("nan")
    chosen = choose(rows.clone(), [SamplingParams()] * 3, [[1]] * 3)
    assert chosen == [rows[0].argmax(), None, rows[2].argmax()]


class Some:
    """A grammar that allows some tokens, always."""

    finished = False
    error = None

    def __init__(self, *tokens):
        self.tokens = tokens

    def fill(self, mask):
        assert mask.shape == (2,)
        assert mask.dtype == np.int32
        for token in self.tokens:
            mask.view(np.uint32)[token // 32] |= np.uint32(1 << token % 32)

    def accept(self, token):
        raise AssertionError("the engine's task")


def test_a_grammar_leaves_what_it_allows_and_neighbours_alone():
    rows = torch.cat([logits(1), logits(2), logits(3)])
    grammars = [None, Some(0, 31, 32, 49), None]
    free = choose(rows.clone(), [SamplingParams()] * 3, [[1]] * 3)
    bound = choose(rows.clone(), [SamplingParams()] * 3, [[1]] * 3, grammars)
    assert bound == [free[0], max((0, 31, 32, 49), key=lambda token: rows[1, token]), free[2]]
    sampling = [SamplingParams(temperature=9.0, seed=seed, repetition_penalty=2.0) for seed in range(300)]
    drawn = choose(logits(2).repeat(300, 1), sampling, [[31, 4]] * 300, [Some(0, 31, 32, 49)] * 300)
    assert set(drawn) == {0, 31, 32, 49}


def test_a_grammar_at_an_end_loses_its_row_alone():
    rows = torch.cat([logits(1), logits(2)])
    assert choose(rows.clone(), [SamplingParams()] * 2, [[1]] * 2, [Some(), None]) == [None, rows[1].argmax()]


def test_logprobs_are_the_models_own():
    sampling = SamplingParams(temperature=0.3, seed=2, repetition_penalty=1.7, top_k=3, logprobs=4)
    expected = logits(6)[0].log_softmax(-1)
    (choice,) = sampler.choose(logits(6), [sampling], [[7, 8]], [Some(5, 9)], [2]).result()
    assert choice.token in (5, 9)
    assert choice.logprobs.chosen == pytest.approx(float(expected[choice.token]))
    best = expected.sort(descending=True)
    assert [token for token, _ in choice.logprobs.top] == best.indices[:4].tolist()
    assert [value for _, value in choice.logprobs.top] == pytest.approx(best.values[:4].tolist())
    none = sampler.choose(logits(6), [SamplingParams(), SamplingParams(logprobs=0)][:1], [[1]], [None], [1]).result()[0]
    assert none.logprobs is None
    (bare,) = sampler.choose(logits(6), [SamplingParams(logprobs=0)], [[1]], [None], [1]).result()
    assert bare.logprobs.top == ()


def test_a_vanishing_temperature_is_greedy():
    assert choose(logits(1), [SamplingParams(temperature=1e-300, seed=3)], [[1]]) == logits(1).argmax(-1).tolist()


@pytest.mark.parametrize("of", ["seeds", "positions"])
def test_draws_of_one_distribution_are_independent(of):
    """Uniform over 50: of 40 draws about 28 differ."""
    flat, drawn = torch.zeros(1, VOCABULARY), []
    for number in range(40):
        seed = number if of == "seeds" else 7
        seen = [1] * (number + 1 if of == "positions" else 1)
        drawn += choose(flat, [SamplingParams(temperature=1.0, seed=seed)], [seen])
    assert len(set(drawn)) > 15
