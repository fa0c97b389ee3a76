"""Chat completions through the official client, sync, async and streaming."""

import asyncio
import time
from base64 import b64encode
from typing import Any

import httpx
import openai as sdk
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionChunk

from tests.api.openai.conftest import BASE, COMMAND, Live, heard

GREETING = [{"role": "user", "content": "hello"}]
SAMPLED = {"temperature": 1.2, "seed": 7}


def generated(plain: httpx.Client, adapter: str = "base", **fields: Any) -> dict[str, Any]:
    """What /generate answers to the same."""
    answer = plain.post(
        "/generate",
        data={"adapter": adapter, "prompt": "Transcribe the audio."} | fields,
        files={"audio": COMMAND.read_bytes()},
    )
    told: dict[str, Any] = answer.json()
    return told


def join(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


@pytest.mark.parametrize("model", [BASE, "base", "nato", "command-json", "nato:0.7,command-json:0.3"])
def test_says_what_generate_says(openai: OpenAI, plain: httpx.Client, live: Live, model: str) -> None:
    expected = generated(plain, model.replace(BASE, "base"))
    answer = openai.chat.completions.create(model=model, messages=heard())
    assert answer.choices[0].message.content == expected["text"]
    assert answer.choices[0].finish_reason == expected["finish_reason"] == "stop"
    assert answer.model == model
    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    assert live.service.fingerprint.startswith(str(answer.system_fingerprint).removeprefix("fp_"))
    usage, told = answer.usage, expected["usage"]
    assert (usage.prompt_tokens, usage.completion_tokens) == (told["prompt_tokens"], told["completion_tokens"])
    assert usage.total_tokens == told["prompt_tokens"] + told["completion_tokens"]
    assert usage.prompt_tokens_details.audio_tokens == told["audio_tokens"] == 70


def test_a_selected_adapter_does_not_change_what_a_model_is(openai: OpenAI, plain: httpx.Client) -> None:
    before = openai.chat.completions.create(model=BASE, messages=heard()).choices[0].message.content
    plain.post("/adapters/nato/select")
    try:
        after = openai.chat.completions.create(model=BASE, messages=heard()).choices[0].message.content
    finally:
        plain.post("/unload")
    assert after == before


def test_audio_url_is_input_audio(openai: OpenAI) -> None:
    url = f"data:audio/flac;base64,{b64encode(COMMAND.read_bytes()).decode()}"
    parts = [{"type": "audio_url", "audio_url": {"url": url}}, {"type": "text", "text": "Transcribe the audio."}]
    asked: Any = [{"role": "user", "content": parts}]
    first = openai.chat.completions.create(model="nato", messages=asked)
    second = openai.chat.completions.create(model="nato", messages=heard())
    assert first.choices == second.choices
    assert first.usage == second.usage


def test_turns_are_rendered_as_generate_renders_them(openai: OpenAI, plain: httpx.Client) -> None:
    asked = [{"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}, *heard()]
    answer = openai.chat.completions.create(model=BASE, messages=asked).choices[0].message
    asked += [answer, {"role": "user", "content": "Again."}]  # type: ignore[list-item]
    again = openai.chat.completions.create(model=BASE, messages=asked, max_tokens=30)
    turns = (
        '[{"role": "system", "content": "Be brief."},'
        '{"role": "user", "content": [{"type": "audio", "index": 0},'
        '{"type": "text", "text": "Transcribe the audio."}]},'
        f'{{"role": "assistant", "content": "{answer.content}"}}, {{"role": "user", "content": "Again."}}]'
    )
    fields = {"adapter": "base", "messages": turns, "max_new_tokens": "30"}
    expected = plain.post("/generate", data=fields, files={"audio": COMMAND.read_bytes()}).json()
    assert again.choices[0].message.content == expected["text"]
    assert again.usage.prompt_tokens == expected["usage"]["prompt_tokens"]


@pytest.mark.parametrize("options", [{}, SAMPLED, {"stop": ["ten", "Ten"]}, {"max_tokens": 2}, {"logprobs": True}])
def test_a_stream_says_the_same(openai: OpenAI, options: dict[str, Any]) -> None:
    asked: Any = {"model": BASE, "messages": heard(), **options}
    whole = openai.chat.completions.create(**asked)
    chunks = list(openai.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert join(chunks) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons == [None] * (len(reasons) - 1) + [whole.choices[0].finish_reason]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    logprobs = [one for c in chunks if c.choices and c.choices[0].logprobs for one in c.choices[0].logprobs.content]
    assert logprobs == (whole.choices[0].logprobs.content if "logprobs" in options else [])
    if "stop" in options:
        assert whole.choices[0].message.content == "go forward "
        assert whole.choices[0].finish_reason == "stop"
    if "max_tokens" in options:
        assert whole.choices[0].finish_reason == "length"
        assert whole.usage.completion_tokens == 2


def test_without_include_usage_there_is_none(openai: OpenAI) -> None:
    chunks = list(openai.chat.completions.create(model=BASE, messages=GREETING, max_tokens=4, stream=True))
    assert all(chunk.usage is None and len(chunk.choices) == 1 for chunk in chunks)


def test_the_wire_is_server_sent_events_that_end_with_done(plain: httpx.Client) -> None:
    body = {"model": BASE, "messages": GREETING, "max_tokens": 3, "stream": True}
    response = plain.post("/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.strip().split("\n\n")
    assert blocks[-1] == "data: [DONE]"
    assert all(block.startswith("data: {") for block in blocks[:-1])


def test_seeds(openai: OpenAI) -> None:
    def ask(seed: int | None) -> str:
        asked = openai.chat.completions.create(
            model=BASE, messages=heard(), temperature=1.8, top_p=0.95, seed=seed, max_completion_tokens=24
        )
        return str(asked.choices[0].message.content)

    assert ask(-3) == ask(-3)
    assert len({ask(seed) for seed in range(6)}) > 1
    assert len({ask(None) for _ in range(8)}) > 1


def test_logprobs(openai: OpenAI) -> None:
    answer = openai.chat.completions.create(model=BASE, messages=heard(), logprobs=True, top_logprobs=3)
    told = answer.choices[0].logprobs.content
    assert bytes(byte for token in told for byte in token.bytes).decode() == answer.choices[0].message.content
    assert "".join(token.token for token in told) == answer.choices[0].message.content
    assert len(told) == answer.usage.completion_tokens - 1  # the end of the turn is no part of the text
    for token in told:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token  # greedy
        assert token.top_logprobs[0].logprob == token.logprob <= 0
        assert sorted((one.logprob for one in token.top_logprobs), reverse=True) == [
            one.logprob for one in token.top_logprobs
        ]
    none = openai.chat.completions.create(model=BASE, messages=heard(), logprobs=True)
    assert [token.top_logprobs for token in none.choices[0].logprobs.content] == [[]] * len(told)
    assert openai.chat.completions.create(model=BASE, messages=GREETING, max_tokens=2).choices[0].logprobs is None


def test_without_a_limit_the_answer_may_fill_the_room(openai: OpenAI, live: Live) -> None:
    never: Any = {"temperature": 5, "seed": 16, "messages": GREETING, "model": BASE}
    answer = openai.chat.completions.create(**never)
    assert answer.usage.total_tokens <= live.service.engine.max_tokens_per_request
    assert answer.usage.completion_tokens > 256


async def test_many_at_once_say_what_each_says_alone(async_openai: AsyncOpenAI) -> None:
    models = [BASE, "nato", "command-json", "nato:0.5,command-json:0.5"] * 3

    async def whole(model: str) -> str:
        answer = await async_openai.chat.completions.create(model=model, messages=heard(), max_tokens=40)
        return str(answer.choices[0].message.content)

    async def streamed(model: str) -> str:
        chunks = await async_openai.chat.completions.create(model=model, messages=heard(), max_tokens=40, stream=True)
        return join([chunk async for chunk in chunks])

    alone = [await whole(model) for model in models[:4]] * 3
    together = await asyncio.gather(*((streamed if index % 2 else whole)(m) for index, m in enumerate(models)))
    assert together == alone


def test_a_client_that_leaves_ends_its_work(openai: OpenAI, plain: httpx.Client, live: Live) -> None:
    endless: Any = {"model": BASE, "messages": GREETING, "temperature": 5, "seed": 7, "max_tokens": 1900}

    def until_running(wanted: int) -> None:
        limit = time.monotonic() + 20
        while plain.get("/ready").json()["running"] != wanted:
            assert time.monotonic() < limit
            time.sleep(0.01)

    stream = openai.chat.completions.create(**endless, stream=True)
    next(iter(stream))
    until_running(1)
    stream.close()
    until_running(0)
    with pytest.raises(sdk.APITimeoutError):
        openai.with_options(timeout=0.3).chat.completions.create(**endless)
    until_running(0)
    pool = live.service.engine.scheduler.pool
    assert pool.available == pool.blocks
