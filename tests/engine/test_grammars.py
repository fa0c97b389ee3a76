"""Grammars and log probabilities on the way through the engine, against plain transformers."""

import json
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.engine.sampling_params import SamplingParams
from app.errors import BadRequest
from app.models.loading import LoadedModel
from app.models.prompt import PromptRenderer
from app.models.structured.grammar import Grammars
from tests.engine.driver import WAVES, Answer, Job
from tests.support import oracle_model, peft_model

pytestmark = pytest.mark.slow

PICK = {"type": "object", "properties": {"a": {"enum": ["x", "yy"]}, "b": {"type": "boolean"}}, "required": ["a", "b"],
        "additionalProperties": False}  # fmt: skip


@pytest.fixture(scope="module")
def grammars(loaded: LoadedModel) -> Grammars:
    width = loaded.model.config.get_text_config().vocab_size
    return Grammars(loaded.processor, width, PromptRenderer(loaded.processor).eos_ids)


def expected(model: Any, loaded: LoadedModel, job: Job, answer: Answer) -> torch.Tensor:
    """Log probabilities [tokens, vocabulary] of an answer by one plain forward over prompt and answer."""
    conversation = [{"role": "user", "content": [*([{"type": "audio", "audio_url": ""}] * len(job.waves)),
                                                 {"type": "text", "text": job.prompt}]}]  # fmt: skip
    text = loaded.processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    waves = [WAVES[index] for index in job.waves]
    inputs = loaded.processor(text=text, audio=waves, sampling_rate=16_000, return_tensors="pt")
    prompt = inputs["input_ids"].shape[1]
    ids = torch.cat([inputs["input_ids"], torch.tensor([answer.tokens])], 1)
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.inference_mode():
        logits = model(**inputs).logits[0, prompt - 1 : -1]
    return logits.float().log_softmax(-1)


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(max_new_tokens=16, logprobs=5, ignore_eos=True),
        SamplingParams(16, temperature=1.4, seed=4, top_p=0.9, repetition_penalty=1.3, ignore_eos=True, logprobs=3),
    ],
)
@pytest.mark.parametrize("mix", [(), (("qv", 1.0),), (("dora", 1.0),)])
@pytest.mark.parametrize("constrained", [False, True])
def test_logprobs_are_those_of_plain_transformers(drive, loaded, folders, grammars, sampling, mix, constrained):
    driver = drive()
    job = Job(mix, (0, 1))
    driver.submit(Job((("qv2", 1.0),), (2,)))  # a neighbour, without logprobs
    driver.submit(job, sampling, grammar=grammars.of(PICK) if constrained else None)
    neighbour, answer = driver.answers()
    assert set(neighbour.logprobs) == {None}
    assert len(answer.tokens) >= 8
    model = peft_model(loaded, folders[mix[0][0]]) if mix else oracle_model(loaded)
    rows = expected(model, loaded, job, answer)
    for token, told, row in zip(answer.tokens, answer.logprobs, rows, strict=True):
        assert told.chosen == pytest.approx(float(row[token]), abs=2e-4)
        best = row.topk(sampling.logprobs)
        assert [value for _, value in told.top] == pytest.approx(best.values.tolist(), abs=2e-4)
        assert all(value == pytest.approx(float(row[other]), abs=2e-4) for other, value in told.top)


def test_constrained_answers_share_a_batch(drive, grammars):
    driver = drive()
    (free,) = driver.ask(Job())
    mixes = [(), (("qv", 1.0),), (("dora", 1.0),), (("qv", 0.5), ("qv2", 0.5))]
    for mix in mixes:
        driver.submit(Job(mix), SamplingParams(max_new_tokens=80), grammar=grammars.of(PICK))
    driver.submit(Job())
    *bound, again = driver.answers()
    assert again.tokens == free.tokens
    for answer in bound:
        assert answer.done.finish_reason == "stop"
        jsonschema.validate(json.loads(answer.text), PICK)
    driver.assert_idle()


def test_a_preempted_answer_goes_on_where_it_was(drive, grammars):
    plenty, scarce = drive(), drive(blocks=16)
    schema = {"type": "array", "items": {"enum": [1, 22, 333]}, "minItems": 30, "maxItems": 30}
    for driver in (plenty, scarce):
        for seed in range(4):
            sampling = SamplingParams(max_new_tokens=180, temperature=1.0, seed=seed)
            driver.submit(Job((), (), "hello"), sampling, grammar=grammars.of(schema))
    texts = [answer.text for answer in plenty.answers()]
    assert [answer.text for answer in scarce.answers()] == texts
    assert scarce.engine.scheduler.preemptions > 0
    for text in texts:
        jsonschema.validate(json.loads(text), schema)


def test_a_limit_within_the_answer_is_length(drive, grammars):
    driver = drive()
    driver.submit(Job(), SamplingParams(max_new_tokens=4), grammar=grammars.of(PICK))
    (answer,) = driver.answers()
    assert answer.done.finish_reason == "length"
    assert answer.done.completion_tokens == 4


def test_a_grammar_that_fails_fails_its_request_alone(drive, grammars):
    driver = drive()
    wide = {"type": "object", "properties": {f"k{index}": {"type": "null"} for index in range(2000)}}
    driver.submit(Job(), SamplingParams(max_new_tokens=50), grammar=grammars.of(wide))
    driver.submit(Job())
    failed, neighbour = driver.answers()
    assert isinstance(failed.error, BadRequest)
    assert "too complex" in str(failed.error)
    assert neighbour.done.finish_reason in ("stop", "length")
    driver.assert_idle()


LEAVES = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(lambda low, size: {"type": "integer", "minimum": low, "maximum": low + size}, st.integers(-200, 200),
              st.integers(0, 300)),
    st.builds(lambda low, size: {"type": "string", "minLength": low, "maxLength": low + size}, st.integers(0, 3),
              st.integers(0, 6)),
    st.builds(lambda values: {"enum": values}, st.lists(st.one_of(st.integers(-9, 9), st.text(max_size=4), st.none()),
                                                        min_size=1, max_size=4)),
)  # fmt: skip


def objects(parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    def build(properties: dict[str, Any], optional: int) -> dict[str, Any]:
        required = list(properties)[: max(0, len(properties) - optional)]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    return st.builds(build, st.dictionaries(st.text(max_size=5), parts, max_size=4), st.integers(0, 2))


def arrays(parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(
        lambda items, low, size: {"type": "array", "items": items, "minItems": low, "maxItems": low + size},
        parts,
        st.integers(0, 2),
        st.integers(0, 3),
    )


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    schema=st.recursive(LEAVES, lambda parts: st.one_of(objects(parts), arrays(parts)), max_leaves=6),
    seed=st.integers(0, 99),
)
def test_any_walk_through_a_grammar_ends_in_a_valid_answer(loaded, grammars, schema, seed):
    """Without a model: every allowed token is as likely."""
    renderer, drawn = PromptRenderer(loaded.processor), np.random.default_rng(seed)
    width = loaded.model.config.get_text_config().vocab_size
    grammar, tokens = grammars.of(schema), []
    while not grammar.finished:
        mask = np.zeros(-(-width // 32), np.int32)
        grammar.fill(mask)
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
        assert len(allowed), grammar.error
        token = int(drawn.choice(allowed))
        if token in renderer.eos_ids:
            break
        grammar.accept(token)
        tokens.append(token)
        assert len(tokens) < 3000
    jsonschema.validate(json.loads(renderer.decode(tokens)), schema)
