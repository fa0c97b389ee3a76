"""`/classify`: the answers of training, whatever decodes beside it; and every way to be refused."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from app.audio.decode import Limits
from app.engine.runner import Runner
from app.models.head import read_head
from app.models.loading import LoadedModel, load
from app.settings import EMBEDDED_MODEL
from tests.api.conftest import Running, ask, audio, events_of, until, wav
from tests.api.test_bad_input import contents, refused, zipped
from tests.api.test_health import samples as measured
from tests.sounds import rows, samples
from tests.sounds import wav as wav_of
from tests.support import make_adapter, make_head, tone
from training.audio_features import AudioFeatures
from training.data.rows import Row, Sound
from training.events import Events
from training.methods.classifier import features_of, labels_of, train_head
from training.options import TrainOptions

LIMITS = Limits(60.0, 1 << 26)
TOWER = r".*audio_tower.*(q_proj|v_proj|fc1)"


@pytest.fixture(scope="module")
def head_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_head(tmp_path_factory.mktemp("made") / "sounds", hidden=8)


@pytest.fixture(scope="module")
async def classifier(running: Running, head_folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """An app with alpha, beta and the head `sounds`."""
    async with running(max_context=512) as client:
        await add(client, "sounds", head_folder)
        yield client


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Each clip takes a while to be heard; when each was."""
    heard: list[float] = []
    real = Runner.pool

    def moments(self: Runner, clip: Any) -> Any:
        heard.append(time.monotonic())
        time.sleep(0.1)
        return real(self, clip)

    monkeypatch.setattr(Runner, "pool", moments)
    return heard


async def add(client: httpx.AsyncClient, name: str, folder: Path, **fields: str) -> dict[str, Any]:
    files = {"file": ("a.zip", zipped(contents(folder)))}
    response = await client.post("/adapters", data={"name": name} | fields, files=files)
    assert response.status_code == 201, response.text
    view: dict[str, Any] = response.json()
    return view


async def classify(client: httpx.AsyncClient, *recordings: bytes, adapter: str = "sounds") -> dict[str, Any]:
    files = [("audio", ("clip.wav", data)) for data in recordings or (wav(),)]
    response = await client.post("/classify", data={"adapter": adapter}, files=files)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def probabilities(answer: dict[str, Any]) -> dict[str, float]:
    return {entry["label"]: entry["probability"] for entry in answer["labels"]}


def engine_of(client: httpx.AsyncClient) -> Any:
    return client.app.state.overtone.service.engine  # type: ignore[attr-defined]


async def test_the_server_says_what_training_said(running: Running, tmp_path: Path) -> None:
    """The embedded model on real sounds: trained, published, asked over HTTP about recordings never heard."""
    tiny = load(str(EMBEDDED_MODEL), torch.device("cpu"), torch.float32)
    audio_features = AudioFeatures(tiny, LIMITS, tmp_path / "cache")
    found = samples(made=8)
    train, held_out = (rows([each for each in found if each.held_out is part]) for part in (False, True))
    features = features_of(held_out, audio_features)
    options = TrainOptions(data="data", name="sounds", method="head")
    trained = train_head(
        features_of(train, audio_features), labels_of(train), features, labels_of(held_out), options, Events()
    )
    trained.save(tmp_path / "head")
    said = trained.head.probabilities(features)
    async with running(model=str(EMBEDDED_MODEL)) as client:
        added = await add(client, "sounds", tmp_path / "head")
        assert (added["manifest"]["method"], added["report"]["serving"]) == ("head", "classify")
        recordings = [row.sounds[0].read() for row in held_out]
        answers = (await classify(client, *recordings))["results"]
        for row, expected, answer in zip(held_out, said, answers, strict=True):
            assert answer["label"] == row.label
            served = probabilities(answer)
            assert [served[name] for name in trained.head.config.labels] == pytest.approx(expected.tolist(), abs=1e-5)


async def test_answer_tells_everything(classifier: httpx.AsyncClient) -> None:
    answer = await classify(classifier)
    assert set(answer) == {"id", "adapter", "label", "labels", "audio", "timings_ms"}
    assert answer["adapter"] == {"name": "sounds", "version": 1}
    likely = [entry["probability"] for entry in answer["labels"]]
    assert likely == sorted(likely, reverse=True)
    assert sum(likely) == pytest.approx(1, abs=1e-5)
    assert set(probabilities(answer)) == {"high", "low", "silence"}
    assert answer["label"] == answer["labels"][0]["label"]
    (receipt,) = answer["audio"]
    assert (receipt["sample_rate"], receipt["seconds_used"]) == (16000, 0.5)
    timings = answer["timings_ms"]
    assert set(timings) == {"queue", "audio", "total"}
    assert timings["total"] >= timings["audio"] > 0
    assert (await classify(classifier))["id"] != answer["id"]


async def test_recordings_are_answered_one_by_one_and_long_ones_as_a_whole(
    classifier: httpx.AsyncClient, head_folder: Path, loaded: LoadedModel, tmp_path: Path
) -> None:
    """The model's window is two seconds: five are three clips, pooled."""
    recordings = [wav_of(tone(300, 0.4)), wav_of(tone(900, 5.0)), wav_of(tone(500, 1.0))]
    answer = await classify(classifier, *recordings)
    assert set(answer) == {"id", "adapter", "results", "audio", "timings_ms"}
    assert [receipt["seconds_used"] for receipt in answer["audio"]] == [0.4, 5.0, 1.0]
    audio_features = AudioFeatures(loaded, LIMITS, tmp_path)
    made = [Row((), (Sound("clip.wav", data=data),), None, "here") for data in recordings]
    head = read_head(head_folder)
    for row, result in zip(head.probabilities(features_of(made, audio_features)), answer["results"], strict=True):
        served = probabilities(result)
        assert [served[name] for name in head.config.labels] == pytest.approx(row.tolist(), abs=1e-5)
    assert probabilities(answer["results"][1]) == probabilities(await classify(classifier, recordings[1]))


async def test_neighbours_decode_as_if_alone(
    running: Running, head_folder: Path, loaded: LoadedModel, tmp_path: Path
) -> None:
    """Also beside an adapter that changes the tower, which heads never hear through."""
    adapters = ("base", "alpha", "tower")

    async def said(client: httpx.AsyncClient, adapter: str, pitch: int) -> list[int]:
        fields = {"adapter": adapter, "max_new_tokens": "40", "stream": "true"}
        response = await client.post("/generate", data=fields, files=audio(wav(tone(pitch, 1.5))))
        return [data["id"] for kind, data in events_of(response.text) if kind == "token"]

    async with running(encoder_cache_mb=0) as client:
        await add(client, "sounds", head_folder)
        await add(client, "tower", make_adapter(loaded, tmp_path / "tower", 9, target_modules=TOWER))
        alone = [await said(client, adapter, 300 + index) for index, adapter in enumerate(adapters)]
        recordings = [wav(tone(pitch, 1.7)) for pitch in (300, 440, 800)]
        expected = [probabilities(await classify(client, data)) for data in recordings]
        streams = [said(client, adapter, 300 + index) for index, adapter in enumerate(adapters)]
        asks = [classify(client, data) for data in recordings * 4]
        ended: list[Any] = await asyncio.gather(*streams, *asks)
        assert ended[:3] == alone
        for index, answer in enumerate(ended[3:]):
            served = probabilities(answer)
            assert served == pytest.approx(expected[index % 3], abs=1e-6)


async def test_a_recording_that_was_heard_is_not_encoded_again(classifier: httpx.AsyncClient) -> None:
    encoder = engine_of(classifier).runner.encoder
    data = wav(tone(611, 0.7))
    await classifier.post("/generate", data={"max_new_tokens": "2", "adapter": "alpha"}, files=audio(data))
    before = encoder.misses
    first = await classify(classifier, data)
    assert (await classify(classifier, data))["labels"] == first["labels"]
    assert encoder.misses == before


async def test_who_cannot_classify(classifier: httpx.AsyncClient) -> None:
    async def asked(**fields: str) -> httpx.Response:
        return await classifier.post("/classify", data=fields, files=audio())

    refused(await asked(adapter="alpha"), 422, "bad_request", "'alpha' carries no", "these do: sounds", "/generate")
    refused(await asked(adapter="base"), 422, "bad_request", "these do: sounds")
    refused(await asked(), 422, "bad_request", "Name an adapter", "these do: sounds")
    refused(await asked(adapter="alpha:0.5,sounds:0.5"), 422, "bad_request", "is a mix", "sounds")
    refused(await asked(adapter="sonds"), 404, "adapter_not_found", "did you mean sounds?")
    await classifier.post("/adapters/alpha/select")
    refused(await asked(), 422, "bad_request", "'alpha' carries no", "these do: sounds")
    await classifier.post("/unload")


async def test_a_head_says_no_words(classifier: httpx.AsyncClient) -> None:
    for adapter in ("sounds", "alpha:0.5,sounds:0.5"):
        response = await classifier.post("/generate", data={"adapter": adapter}, files=audio())
        refused(response, 422, "bad_request", "'sounds' is a classification head", "/classify")
    response = await classifier.post("/compare", data={"adapters": "sounds"}, files=audio())
    refused(response, 422, "bad_request", "/classify")
    fields = {"adapters": "base,sounds", "max_new_tokens": "2"}
    base, sounds = (await classifier.post("/compare", data=fields, files=audio())).json()["answers"]
    assert base["text"]
    assert "/classify" in sounds["error"]["detail"]
    refused(await classifier.post("/adapters/sounds/select"), 422, "bad_request", "/classify")
    refused(await classifier.post("/adapters/sounds/pin"), 422, "bad_request", "no slot")


@pytest.mark.parametrize(
    ("fields", "data", "status", "code", "words"),
    [
        ({"prompt": "what?"}, wav(), 422, "bad_request", "Unknown field 'prompt'"),
        ({"model": "sounds"}, wav(), 422, "bad_request", "did you mean 'adapter'?"),
        ({}, b"hello, I am a text file" * 50, 415, "not_audio", "not audio"),
        ({}, None, 422, "bad_request", "audio: this field is required"),
        ({}, wav(tone(200, 700.0), kind="FLAC"), 413, "too_large", "600 s"),
    ],
)
async def test_bad_requests(
    classifier: httpx.AsyncClient, fields: dict[str, str], data: bytes | None, status: int, code: str, words: str
) -> None:
    files = audio(data) if data else None
    response = await classifier.post("/classify", data={"adapter": "sounds"} | fields, files=files)
    refused(response, status, code, words)


async def test_the_active_adapter_when_its_name_became_a_head(running: Running, head_folder: Path) -> None:
    async with running() as client:
        await client.post("/adapters/alpha/select")
        assert (await add(client, "alpha", head_folder, replace="true"))["active"]
        response = await client.post("/classify", files=audio())
        assert response.json()["adapter"] == {"name": "alpha", "version": 2}
        refused(await client.post("/generate", files=audio()), 422, "bad_request", "/classify")
        await client.post("/adapters/alpha/rollback")
        assert (await ask(client))["adapter"] == {"name": "alpha", "version": 1}


async def test_what_is_told_of_a_head(running: Running, head_folder: Path) -> None:
    async with running() as client:
        view = await add(client, "sounds", head_folder)
        assert (view["residency"], view["report"]["labels"]) == ("disk", ["high", "low", "silence"])
        await classify(client)
        await classify(client, wav(), wav())
        await client.post("/classify", data={"adapter": "sounds"}, files=audio(b"x"))
        view = (await client.get("/adapters/sounds")).json()
        assert view["residency"] == "host"
        assert view["usage"] == {"requests": 2, "completion_tokens": 0, "audio_seconds": 1.5}
        found = await measured(client)
        assert found["overtone_requests_total", "sounds"] == 2
        assert found["overtone_audio_seconds_total", "sounds"] == 1.5
        assert found["overtone_request_seconds_count", "sounds"] == 2
        assert found["overtone_classifications", ""] == 0
        assert found["overtone_slots_used", ""] == 0
        downloaded = await client.get("/adapters/sounds/download")
        again = await client.post("/adapters", data={"name": "again"}, files={"file": ("a.zip", downloaded.content)})
        assert again.status_code == 201
        pair = [("file", (name, data)) for name, data in contents(head_folder).items() if name != "README.md"]
        assert (await client.post("/adapters", data={"name": "pair"}, files=pair)).status_code == 201
        answers = [await classify(client, adapter=name) for name in ("sounds", "again", "pair")]
        assert answers[0]["labels"] == answers[1]["labels"] == answers[2]["labels"]


async def test_limits_hold_as_for_words(running: Running, head_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, go_on = Runner.pool, threading.Event()

    def held(self: Runner, clip: Any) -> Any:
        go_on.wait(120)
        return real(self, clip)

    monkeypatch.setattr(Runner, "pool", held)
    async with running(max_queue=1, max_batch=1) as client:
        await add(client, "sounds", head_folder)
        asks = [
            asyncio.create_task(
                client.post("/classify", data={"adapter": "sounds"}, files=audio(wav(tone(300 + 10 * index, 0.5))))
            )
            for index in range(8)
        ]

        async def one_refused() -> bool:
            return any(one.done() for one in asks)

        try:
            await until(one_refused)
        finally:
            go_on.set()
        responses = await asyncio.gather(*asks)
        full = [response for response in responses if response.status_code == 429]
        assert full
        assert full[0].headers["retry-after"] == "1"
        assert [response.status_code for response in responses].count(200) >= 1
        assert (await classify(client))["label"]
        assert len(engine_of(client).pooling) == 0


async def test_deadline(running: Running, head_folder: Path, slow: list[float]) -> None:
    async with running(request_seconds=0.25) as client:
        await add(client, "sounds", head_folder)
        response = await client.post("/classify", data={"adapter": "sounds"}, files=audio(wav(tone(300, 19.0))))
        refused(response, 504, "deadline_exceeded")
        assert len(slow) < 10
        assert (await measured(client))["overtone_failures_total", ""] == 1


async def test_a_fault_harms_nobody_else(running: Running, head_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Runner.pool

    def faulty(self: Runner, clip: Any) -> Any:
        if clip.frames > 100:
            raise ZeroDivisionError("secret internals")
        return real(self, clip)

    monkeypatch.setattr(Runner, "pool", faulty)
    async with running() as client:
        await add(client, "sounds", head_folder)
        bad = client.post("/classify", data={"adapter": "sounds"}, files=audio(wav(tone(300, 1.5))))
        broken, fine, words = await asyncio.gather(bad, classify(client), ask(client))
        assert "secret" not in broken.text
        refused(broken, 500, "engine_fault")
        assert fine["label"]
        assert words["text"]


async def test_draining_answers_what_was_taken_in(running: Running, head_folder: Path, slow: list[float]) -> None:
    async with running() as client:
        await add(client, "sounds", head_folder)
        asked = asyncio.create_task(classify(client, wav(tone(300, 9.0))))
        await until(lambda: _true(bool(slow)))
        client.app.state.overtone.draining = True  # type: ignore[attr-defined]
        response = await client.post("/classify", data={"adapter": "sounds"}, files=audio())
        refused(response, 503, "not_ready", "shutting down")
        assert await asyncio.to_thread(engine_of(client).drain, 30)
        assert len(slow) == 5
        assert (await asked)["label"]


async def test_a_client_that_leaves_ends_the_work(running: Running, head_folder: Path, slow: list[float]) -> None:
    async with running() as client:
        await add(client, "sounds", head_folder)
        request = client.build_request(
            "POST", "/classify", data={"adapter": "sounds"}, files=audio(wav(tone(300, 59.0)))
        )
        body = [{"type": "http.request", "body": request.read()}]
        told: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if body:
                return body.pop()
            await until(lambda: _true(bool(slow)))
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            told.append(message)

        headers = [(name.lower(), value) for name, value in request.headers.raw]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/classify",
            "query_string": b"",
            "headers": headers,
            "server": ("test", 80),
        }
        await client.app(scope, receive, send)  # type: ignore[attr-defined]
        assert told[0]["status"] == 499
        await until(lambda: _true(len(engine_of(client).pooling) == 0))
        heard = len(slow)
        assert heard < 10  # of thirty clips
        assert (await ask(client))["text"]
        assert len(slow) == heard
        text = (await client.get("/metrics")).text
        assert 'overtone_requests_total{adapter="sounds",outcome="cancelled"} 1.0' in text


async def test_keys_guard_it_as_they_guard_words(running: Running, head_folder: Path) -> None:
    async with running(api_keys=("user",), admin_keys=("admin",)) as client:
        client.headers["x-api-key"] = "admin"
        await add(client, "sounds", head_folder)
        client.headers["x-api-key"] = "user"
        assert (await classify(client))["label"]
        client.headers["x-api-key"] = "nobody"
        response = await client.post("/classify", data={"adapter": "sounds"}, files=audio())
        refused(response, 401, "unauthorized")


async def _true(value: bool) -> bool:
    return value
