import asyncio
import gc
import itertools
import json
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest
import torch

from app.api import sse
from app.models.features import Clip
from tests.api.conftest import Running, ask, audio, events_of, until, wav
from tests.audio.speech import RATE, piece, silence
from tests.support import tone


async def test_answer_tells_everything(client: httpx.AsyncClient) -> None:
    answer = await ask(client, adapter="alpha", prompt="hello")
    assert set(answer) == {"id", "text", "adapter", "finish_reason", "usage", "audio", "timings_ms", "seed"}
    assert answer["adapter"] == {"name": "alpha", "version": 1}
    assert answer["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 8
    assert answer["usage"]["audio_tokens"] == 12  # half a second: 50 frames
    assert answer["usage"]["prompt_tokens"] > 12
    (receipt,) = answer["audio"]
    assert (receipt["sample_rate"], receipt["channels"], receipt["seconds_used"]) == (16000, 1, 0.5)
    timings = answer["timings_ms"]
    assert set(timings) == {"queue", "activation", "audio", "prefill", "ttft", "decode", "total"}
    assert timings["total"] >= timings["ttft"] >= timings["audio"] > 0


async def test_adapters_differ_and_base_comes_back(client: httpx.AsyncClient) -> None:
    base = await ask(client, adapter="base")
    assert base["adapter"] == {"name": "base"}
    alpha, beta = await asyncio.gather(ask(client, adapter="alpha"), ask(client, adapter="beta"))
    assert len({base["text"], alpha["text"], beta["text"]}) == 3
    assert (await ask(client))["text"] == base["text"]


async def test_mix(client: httpx.AsyncClient) -> None:
    answer = await ask(client, adapter="alpha:0.7,beta:0.3")
    assert answer["adapter"] == {
        "name": "alpha:0.7,beta:0.3",
        "mix": [{"name": "alpha", "version": 1, "weight": 0.7}, {"name": "beta", "version": 1, "weight": 0.3}],
    }


async def test_stream_says_the_same(client: httpx.AsyncClient) -> None:
    whole = await ask(client, adapter="alpha")
    response = await client.post(
        "/generate", data={"max_new_tokens": "8", "adapter": "alpha", "stream": "true"}, files=audio()
    )
    assert response.headers["content-type"].startswith("text/event-stream")
    *tokens, (kind, done) = events_of(response.text)
    assert kind == "done"
    assert {kind for kind, _ in tokens} == {"token"}
    assert "".join(data["text"] for _, data in tokens) == done["text"] == whole["text"]
    assert done["usage"] == whole["usage"]


async def test_a_stream_without_news_is_kept_open(client: httpx.AsyncClient, monkeypatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.001)
    fields = {"prompt": "hello", "max_new_tokens": "64", "stream": "true"}
    text = (await client.post("/generate", data=fields, files=audio())).text
    assert ": waiting\n\n" in text
    assert events_of(text)[-1][0] == "done"


async def test_seed_is_told_and_repeats_the_answer(client: httpx.AsyncClient) -> None:
    first = await ask(client, temperature="1.5")
    again = await ask(client, temperature="1.5", seed=str(first["seed"]))
    other = await ask(client, temperature="1.5", seed=str(first["seed"] + 1))
    assert again["text"] == first["text"] != other["text"]


async def test_text_only_and_stop(client: httpx.AsyncClient) -> None:
    response = await client.post("/generate", data={"prompt": "hi", "max_new_tokens": "8"})
    answer = response.json()
    assert answer["audio"] == []
    assert answer["usage"]["audio_tokens"] == 0
    stop = answer["text"][2:4]
    stopped = (await client.post("/generate", data={"prompt": "hi", "max_new_tokens": "8", "stop": stop})).json()
    assert stopped["text"] == answer["text"][: answer["text"].index(stop)]
    assert stopped["finish_reason"] == "stop"


async def test_messages_are_rendered_like_prompt_and_system(client: httpx.AsyncClient) -> None:
    plain = await client.post(
        "/generate", data={"prompt": "hello", "system": "Be brief.", "max_new_tokens": "8"}, files=audio()
    )
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "audio", "index": 0}, {"type": "text", "text": "hello"}]},
    ]
    asked = await client.post("/generate", data={"messages": json.dumps(turns), "max_new_tokens": "8"}, files=audio())
    assert asked.json()["text"] == plain.json()["text"]
    assert asked.json()["usage"] == plain.json()["usage"]


async def test_several_recordings_have_several_receipts(client: httpx.AsyncClient) -> None:
    files = audio(wav(tone(300, 0.4))) + audio(wav(tone(200, 3.0), kind="FLAC"), "long.flac")
    answer = (await client.post("/generate", data={"max_new_tokens": "4"}, files=files)).json()
    assert [receipt["container"] for receipt in answer["audio"]] == ["WAV", "FLAC"]
    assert answer["audio"][1]["seconds_used"] == 3.0  # longer than the two-second window: split, not cut


async def test_the_receipt_says_where_a_long_recording_was_cut_and_what_was_skipped(client: httpx.AsyncClient) -> None:
    """Two words and a long silence, over a window of two seconds; `/compare` says the same."""
    word = piece("cards-003")
    samples = np.concatenate([silence(8), word, silence(0.6), word, silence(9)])
    fields = {"max_new_tokens": "4", "adapters": "base"}
    (receipt,) = (await client.post("/generate", data={"max_new_tokens": "4"}, files=audio(wav(samples)))).json()[
        "audio"
    ]
    first, second = receipt["segments"]
    spoken = (8 + len(word) / RATE, 8 + len(word) / RATE + 0.6)
    assert 7 < first["start"] < 8
    assert spoken[0] < first["end"] == second["start"] < spoken[1]
    assert receipt["skipped_seconds"] == pytest.approx(first["start"] + len(samples) / RATE - second["end"], abs=2e-3)
    assert receipt["seconds"] == pytest.approx(receipt["seconds_used"] + receipt["skipped_seconds"], abs=2e-3)
    assert [warning for warning in receipt["warnings"] if "of silence were skipped: 0.0-" in warning]
    compared = (await client.post("/compare", data=fields, files=audio(wav(samples)))).json()["answers"][0]
    assert compared["audio"] == [receipt]
    (short,) = (await ask(client))["audio"]
    assert (short["segments"], short["skipped_seconds"], short["warnings"]) == ([{"start": 0.0, "end": 0.5}], 0.0, [])


async def test_a_cut_into_speech_is_told(client: httpx.AsyncClient) -> None:
    samples = np.tile(piece("librivox-0920"), 2)
    (receipt,) = (await client.post("/generate", data={"max_new_tokens": "2"}, files=audio(wav(samples)))).json()[
        "audio"
    ]
    assert receipt["seconds_used"] == receipt["seconds"] == receipt["segments"][-1]["end"]
    for one, other in itertools.pairwise(receipt["segments"]):
        assert one["end"] == other["start"]
    assert any("a word may be cut" in warning for warning in receipt["warnings"])


async def test_another_cut_of_the_same_recording_is_not_taken_for_it(client: httpx.AsyncClient) -> None:
    """Transcriptions overlap where prompts do not: clips of the same number hold other sounds."""
    samples = np.tile(piece("librivox-0920"), 2)
    service = client.app.state.overtone.service  # type: ignore[attr-defined]
    whole = [await asyncio.to_thread(service.read_clips, wav(samples), transcript=flag) for flag in (False, True)]
    (_, clips), (_, overlapping) = whole
    known = {clip.key: clip for clip in clips}
    assert any(clip.key not in known for clip in overlapping)
    for clip in overlapping:
        assert clip.key not in known or torch.equal(known[clip.key].mel, clip.mel)


@pytest.mark.parametrize("adapters", [["base,alpha,alpha:0.5+beta:0.5"], ["base", "alpha", "alpha:0.5+beta:0.5"]])
async def test_compare(client: httpx.AsyncClient, adapters: list[str]) -> None:
    alone = [await ask(client, adapter=name) for name in ("base", "alpha", "alpha:0.5,beta:0.5")]
    response = await client.post("/compare", data={"adapters": adapters, "max_new_tokens": "8"}, files=audio())
    answers = response.json()["answers"]
    assert [answer["index"] for answer in answers] == [0, 1, 2]
    assert [answer["text"] for answer in answers] == [answer["text"] for answer in alone]
    assert [answer["adapter"] for answer in answers] == [answer["adapter"] for answer in alone]


async def test_compare_gives_an_error_in_its_place(client: httpx.AsyncClient) -> None:
    fields = {"adapters": "base,nobody,alpha", "max_new_tokens": "4"}
    response = await client.post("/compare", data=fields, files=audio())
    base, nobody, alpha = response.json()["answers"]
    assert response.status_code == 200
    assert "text" in base
    assert "text" in alpha
    assert nobody["adapter"]["name"] == "nobody"
    assert nobody["error"]["code"] == "adapter_not_found"
    streamed = await client.post("/compare", data=fields | {"stream": "true"}, files=audio())
    ends = {data["index"]: (kind, data) for kind, data in events_of(streamed.text) if kind != "token"}
    assert [ends[index][0] for index in range(3)] == ["done", "error", "done"]
    assert ends[0][1]["text"] == base["text"]
    assert ends[1][1]["error"]["code"] == "adapter_not_found"
    failed = await client.post("/compare", data={"adapters": "no,nobody"}, files=audio())
    assert failed.status_code == 404


async def test_compare_hears_the_audio_once(client: httpx.AsyncClient) -> None:
    engine = client.app.state.overtone.service.engine
    before = engine.runner.encoder.misses
    await client.post(
        "/compare", data={"adapters": "base,alpha,beta", "max_new_tokens": "2"}, files=audio(wav(tone(777, 0.6)))
    )
    assert engine.runner.encoder.misses == before + 1


async def test_queue_full_says_when_to_come_back(running: Running) -> None:
    async with running(max_queue=1, max_batch=1, max_context=2048) as client:
        asks = [
            client.post("/generate", data={"prompt": "hi", "max_new_tokens": "200", "stop": "\x00"}) for _ in range(8)
        ]
        responses = await asyncio.gather(*asks)
        refused = [response for response in responses if response.status_code == 429]
        assert refused
        assert refused[0].headers["retry-after"] == "1"
        assert refused[0].json()["code"] == "queue_full"
        assert [r.status_code for r in responses].count(200) >= 2
        assert (await ask(client))["text"]


async def test_deadline(running: Running) -> None:
    async with running(request_seconds=0.001) as client:
        response = await client.post("/generate", data={"max_new_tokens": "200"}, files=audio())
        assert response.status_code == 504
        assert response.json()["code"] == "deadline_exceeded"
        streamed = await client.post("/generate", data={"max_new_tokens": "200", "stream": "true"}, files=audio())
        assert events_of(streamed.text)[-1][0] == "error"
        assert events_of(streamed.text)[-1][1]["code"] == "deadline_exceeded"


async def test_a_full_line_refuses_before_the_body_is_read(running: Running) -> None:
    """What cannot be answered is neither read, parsed nor decoded."""
    async with running(max_queue=1, max_batch=1, max_context=2048) as client:
        long = {"prompt": "hi", "max_new_tokens": "1500", "stop": "\x00"}
        asks = [asyncio.create_task(client.post("/generate", data=long)) for _ in range(2)]
        engine = client.app.state.overtone.service.engine

        async def full() -> bool:
            return len(engine._sequences) == 2

        await until(full)

        async def body() -> AsyncIterator[bytes]:
            pytest.fail("the body was read")
            yield b""

        kind = {"content-type": "multipart/form-data; boundary=x"}
        for path in ("/generate", "/compare", "/classify", "/v1/chat/completions", "/v1/audio/transcriptions"):
            assert (await client.post(path, content=body(), headers=kind)).status_code == 429
        for task in asks:
            task.cancel()


@pytest.mark.parametrize(
    ("route", "fields"),
    [("/generate", {}), ("/generate", {"stream": "true"}), ("/compare", {"adapters": "base"})],
)
async def test_no_recording_waits_for_the_garbage_collector(running: Running, route: str, fields: dict) -> None:
    """A clip of the real model is 1.5 MB: cycles that hold them would be gigabytes between two collections."""

    def clips() -> int:
        return sum(type(thing) is Clip for thing in gc.get_objects())

    async with running() as client:
        data = {"prompt": "go", "max_new_tokens": "4"} | fields
        await client.post(route, data=data, files=audio())
        gc.collect()
        gc.disable()
        try:
            before = clips()
            for _ in range(5):
                answer = await client.post(route, data=data, files=audio())
                assert answer.status_code == 200, answer.text
            assert clips() <= before + 1  # the last answer's end may still be under way
        finally:
            gc.enable()
