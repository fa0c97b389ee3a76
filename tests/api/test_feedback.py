"""Feedback over HTTP: rows, consent, tenants, limits, export, and nothing of it in logs."""

import io
import json
import logging
import os
import zipfile
from base64 import b64encode
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.access.keys import KeyRecord, digest, new_key, write_keys
from app.jobs import command
from tests.api.conftest import Running, audio, events_of, wav
from tests.jobs.support import STAND_IN
from tests.support import tone
from training.data.readers import read_rows

KEYS: dict[str, dict[str, Any]] = {
    "root": {"scopes": ("infer", "adapters", "train")},
    "narrow": {"scopes": ("infer", "train"), "adapters": ("beta",)},
    "acme": {"scopes": ("infer", "train"), "tenant": "acme"},
    "acme-asks": {"scopes": ("infer",), "tenant": "acme"},
    "rival": {"scopes": ("infer", "train"), "tenant": "rival"},
}
CLIP = wav(tone(330, 0.6))
SECRET = "the words that no log may hold"


class As:
    """Requests with a key."""

    def __init__(self, client: httpx.AsyncClient, keys: dict[str, str], folder: Path) -> None:
        self.client, self.keys, self.folder = client, keys, folder

    async def __call__(self, who: str, method: str, path: str, **content: Any) -> httpx.Response:
        return await self.client.request(method, path, headers={"X-API-Key": self.keys[who]}, **content)

    async def answer(self, who: str = "acme", clip: bytes = CLIP, **fields: str) -> dict[str, Any]:
        response = await self(
            who, "POST", "/generate", data={"max_new_tokens": "4"} | fields, files=audio(clip, "a.wav")
        )
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def judge(self, who: str = "acme", **fields: Any) -> dict[str, Any]:
        response = await self(who, "POST", "/feedback", json=fields)
        assert response.status_code == 201, response.text
        return dict(response.json())

    async def rows(self, who: str = "acme", **query: Any) -> list[dict[str, Any]]:
        response = await self(who, "GET", "/feedback", params=query)
        assert response.status_code == 200, response.text
        return list(response.json()["rows"])


@pytest.fixture(scope="module")
async def server(running: Running, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[As]:
    folder = tmp_path_factory.mktemp("feedback")
    keys, records = {}, []
    for name, fields in KEYS.items():
        keys[name], identity = new_key()
        records.append(KeyRecord(id=identity, name=name, sha256=digest(keys[name]), **fields))
    write_keys(folder / "keys.json", records)
    settings = {"keys_file": folder / "keys.json", "feedback": folder / "rows", "feedback_mb": 1}
    async with running(**settings, max_context=512, feedback_recent_mb=1) as client:
        yield As(client, keys, folder / "rows")


@pytest.fixture(autouse=True)
def _empty(request: pytest.FixtureRequest) -> None:
    """Every test begins without rows."""
    if "server" in request.fixturenames:
        root = request.getfixturevalue("server").folder
        for file in sorted(root.rglob("*"), reverse=True):
            if file.name != ".lock":
                file.rmdir() if file.is_dir() else file.unlink()


async def test_off_names_the_setting(client: httpx.AsyncClient) -> None:
    for method, path in (("POST", "/feedback"), ("GET", "/feedback"), ("GET", "/feedback/export")):
        response = await client.request(method, path, json={"request_id": "x", "verdict": "right"})
        assert response.status_code == 404
        assert response.json()["code"] == "feedback_off"
        assert "OVERTONE_FEEDBACK" in response.json()["detail"]
    assert (await client.get("/ready")).json()["feedback"] is False


async def test_a_corrected_answer_becomes_a_row_that_the_trainer_reads(server: As, tmp_path: Path) -> None:
    answer = await server.answer(adapter="alpha", prompt="What is said?", temperature="0.5", seed="3")
    row = await server.judge(request_id=answer["id"], verdict="wrong", corrected="go on", consent=True)
    digest_of_clip = sha256(CLIP).hexdigest()
    assert row["adapters"] == [{"name": "alpha", "version": 1, "weight": 1.0}]
    assert (row["answer"], row["corrected"], row["model"]) == (answer["text"], "go on", "random-tiny")
    assert row["messages"] == [{"role": "user", "content": "<audio>What is said?"}]
    assert (row["options"]["temperature"], row["options"]["seed"]) == (0.5, 3)
    assert row["recordings"] == [{"sha256": digest_of_clip, "bytes": len(CLIP), "kind": "wav", "kept": True}]

    played = await server("acme", "GET", f"/feedback/{row['id']}/recording")
    assert played.headers["content-type"] == "audio/wav"
    export = await server("acme", "GET", "/feedback/export")
    assert (export.headers["x-rows"], export.headers["x-rows-left-out"]) == ("1", "0")
    zipfile.ZipFile(io.BytesIO(export.content)).extractall(tmp_path)
    (read,) = read_rows(str(tmp_path / "data.jsonl"), default_prompt="unused", audio_roots=[tmp_path])
    assert (read.prompt, read.response) == ("What is said?", "go on")
    assert read.sounds[0].read() == CLIP


async def test_without_consent_no_recording_is_kept(server: As) -> None:
    answer = await server.answer()
    row = await server.judge(request_id=answer["id"], verdict="right")
    assert (row["recordings"][0]["kept"], row["unusable"]) == (False, "no_recording")
    assert row["recordings"][0]["sha256"] == sha256(CLIP).hexdigest()
    files = {file.name for file in server.folder.rglob("*") if file.is_file() and file.name != ".lock"}
    assert files == {"row.json"}
    assert (await server("acme", "GET", f"/feedback/{row['id']}/recording")).status_code == 404

    again = await server.judge(request_id=answer["id"], verdict="right", consent=True)  # then with it
    assert (again["id"], again["unusable"]) == (row["id"], None)
    assert len(list(server.folder.rglob("0.wav"))) == 1
    await server.judge(request_id=answer["id"], verdict="right")  # and it is withdrawn
    assert not list(server.folder.rglob("0.wav"))
    assert len(await server.rows()) == 1


async def test_what_another_tenant_has_does_not_exist(server: As) -> None:
    answer = await server.answer()
    row = await server.judge(request_id=answer["id"], verdict="right", consent=True)
    unknown = "20261130-174500-1f2e3d4c5b"
    for who in ("rival", "root"):
        assert await server.rows(who) == []
        stolen = await server(who, "POST", "/feedback", json={"request_id": answer["id"], "verdict": "right"})
        assert stolen.status_code == 404
        for method, tail in (("GET", ""), ("GET", "/recording"), ("DELETE", ""), ("POST", "")):
            found = [
                await server(who, method, f"/feedback/{one}{tail}", **({"json": {}} if method == "POST" else {}))
                for one in (row["id"], unknown)
            ]
            assert [one.status_code for one in found] == [404, 404]
            assert found[0].json()["detail"].replace(row["id"], unknown) == found[1].json()["detail"]
        export = await server(who, "GET", "/feedback/export")
        assert export.headers["x-rows"] == "0"
    assert len(await server.rows("acme")) == 1
    for path in ("..%2fkeys.json", "20261130-174500-1f2e3d4c5b%2f..", "_operator"):
        assert (await server("acme", "GET", f"/feedback/{path}")).status_code == 404


async def test_scopes(server: As) -> None:
    answer = await server.answer("acme-asks")
    row = await server.judge("acme-asks", request_id=answer["id"], verdict="right")
    for method, path in (("GET", "/feedback"), ("GET", f"/feedback/{row['id']}"), ("DELETE", f"/feedback/{row['id']}")):
        assert (await server("acme-asks", method, path)).status_code == 403
    assert (await server("acme", "GET", f"/feedback/{row['id']}")).status_code == 200


async def test_a_key_for_some_adapters_sees_the_rows_of_these(server: As) -> None:
    for adapter in ("alpha", "beta", "base"):
        answer = await server.answer("root", adapter=adapter)
        await server.judge("root", request_id=answer["id"], verdict="right", consent=True)
    assert sorted(row["adapter"] for row in await server.rows("narrow")) == ["base", "beta"]
    assert len(await server.rows("root")) == 3


async def test_filters_edits_and_deletion(server: As) -> None:
    made = []
    for adapter, verdict in (("alpha", "wrong"), ("base", "wrong"), ("alpha", "right")):
        answer = await server.answer(adapter=adapter)
        made.append(await server.judge(request_id=answer["id"], verdict=verdict, consent=True))
    wrong = await server.rows(verdict="wrong", adapted="true")
    assert [row["id"] for row in wrong] == [made[0]["id"]]
    assert wrong[0]["unusable"] == "no_correction"
    assert len(await server.rows(adapter="alpha")) == 2
    assert len(await server.rows(limit=1, offset=1)) == 1

    path = f"/feedback/{made[0]['id']}"
    edited = (await server("acme", "POST", path, json={"corrected": "left"})).json()
    assert (edited["corrected"], edited["unusable"]) == ("left", None)
    assert (await server("acme", "POST", path, json={"excluded": True})).json()["unusable"] == "excluded"
    assert (await server("acme", "POST", path, json={"verdict": "right"})).json()["corrected"] is None
    assert (await server("acme", "DELETE", path)).status_code == 200
    assert (await server("acme", "GET", path)).status_code == 404
    assert len(list(server.folder.rglob("row.json"))) == 2


async def test_streams_comparisons_and_chats_are_remembered(server: As) -> None:
    data = {"max_new_tokens": "3", "stream": "true"}
    stream = await server("acme", "POST", "/generate", data=data, files=audio(CLIP))
    done = events_of(stream.text)[-1][1]
    assert (await server.judge(request_id=done["id"], verdict="right"))["answer"] == done["text"]
    assert (await server.judge(request_id=stream.headers["x-request-id"], verdict="wrong"))["answer"] == done["text"]
    assert len(await server.rows()) == 1

    data = {"max_new_tokens": "3", "adapters": "base,alpha"}
    compared = (await server("acme", "POST", "/compare", data=data, files=audio(CLIP))).json()["answers"]
    found = [await server.judge(request_id=one["id"], verdict="right") for one in compared]
    assert [row["adapter"] for row in found] == ["base", "alpha"]

    body = {"model": "beta", "max_tokens": 3, "messages": [{"role": "user", "content": "hello"}]}
    chat = (await server("acme", "POST", "/v1/chat/completions", json=body)).json()
    row = await server.judge(request_id=chat["id"], verdict="right", consent=True)
    assert (row["adapter"], row["messages"][0]["content"]) == ("beta", "hello")
    assert row["unusable"] == "no_recording"


@pytest.mark.parametrize("stream", [False, True])
async def test_responses_and_transcripts_are_remembered(server: As, stream: bool) -> None:
    sent = {"type": "input_audio", "input_audio": {"data": b64encode(CLIP).decode(), "format": "wav"}}
    content = [sent, {"type": "input_text", "text": "What is said?"}]
    body = {"model": "alpha", "input": [{"role": "user", "content": content}], "max_output_tokens": 3}
    told = await server("acme", "POST", "/v1/responses", json=body | {"stream": stream})
    said = events_of(told.text)[-1][1]["response"] if stream else told.json()
    row = await server.judge(request_id=said["id"], verdict="right", consent=True)
    assert row["answer"] == said["output"][0]["content"][0]["text"]
    assert (row["adapter"], row["messages"][0]["content"], row["unusable"]) == (
        "alpha",
        "<audio>What is said?",
        None,
    )
    assert (await server.judge(request_id=told.headers["x-request-id"], verdict="wrong"))["id"] == row["id"]

    form = {"model": "beta", "stream": str(stream).lower(), "prompt": "Names: Ada."}
    told = await server("acme", "POST", "/v1/audio/transcriptions", data=form, files={"file": ("a.wav", CLIP)})
    assert told.status_code == 200, told.text
    row = await server.judge(request_id=told.headers["x-request-id"], verdict="wrong", corrected="go", consent=True)
    if not stream:
        assert row["answer"].strip() == told.json()["text"].strip()
    assert (row["adapter"], row["remembered"], row["unusable"]) == ("beta", True, None)
    assert row["messages"][0]["content"].count("<audio>") == 1
    assert row["recordings"][0]["sha256"] == sha256(CLIP).hexdigest()


async def test_a_draft_is_no_row_to_train_on_until_it_is_judged(server: As) -> None:
    said = await server.answer(prompt="?")
    row = await server.judge(request_id=said["id"], verdict="draft", consent=True)
    assert (row["verdict"], row["unusable"], row["split"]) == ("draft", "draft", None)
    assert [one["id"] for one in await server.rows(verdict="draft")] == [row["id"]]
    assert not await server.rows(verdict="wrong")
    for change, verdict, unusable in (
        ({"verdict": "right"}, "right", None),
        ({"verdict": "draft"}, "draft", "draft"),
        ({"corrected": "go"}, "wrong", None),
    ):
        changed = (await server("acme", "POST", f"/feedback/{row['id']}", json=change)).json()
        assert (changed["verdict"], changed["unusable"]) == (verdict, unusable)


async def test_a_rows_side_is_chosen_and_read_by_the_trainer(server: As, tmp_path: Path) -> None:
    identities = {}
    for number, side in enumerate(("train", "held_out", "auto", "held_out")):
        said = await server.answer(clip=wav(tone(200 + 50 * number, 0.5)))
        row = await server.judge(request_id=said["id"], verdict="wrong", corrected=f"{number}", consent=True)
        change = await server("acme", "POST", f"/feedback/{row['id']}", json={"split": side})
        assert change.json()["split"] == (None if side == "auto" else side)
        identities[row["id"]] = side
    last = list(identities)[-1]
    assert (await server("acme", "POST", f"/feedback/{last}", json={"split": "auto"})).json()["split"] is None
    packed = await server("acme", "GET", "/feedback/export")
    with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
        archive.extractall(tmp_path)
    rows = read_rows(str(tmp_path / "data.jsonl"), default_prompt="?")
    assert sorted((row.response, row.split) for row in rows) == [
        ("0", "train"),
        ("1", "validation"),
        ("2", None),
        ("3", None),
    ]


async def test_a_forgotten_answer_can_be_told_again(server: As) -> None:
    body = {"request_id": "req-gone", "verdict": "wrong", "corrected": "go on"}
    refused = await server("acme", "POST", "/feedback", json=body)
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
    assert "answer" in refused.json()["detail"]
    form = body | {"answer": "no on", "prompt": "What is said?", "adapter": "alpha@7", "consent": "true"}
    told = await server("acme", "POST", "/feedback", data=form, files=audio(CLIP, "take.flac"))
    assert told.status_code == 201, told.text
    row = told.json()
    assert (row["remembered"], row["unusable"]) == (False, None)
    assert row["adapters"] == [{"name": "alpha", "version": 7, "weight": 1.0}]
    assert row["recordings"][0]["kind"] == "flac"
    again = await server("acme", "POST", "/feedback", data=form | {"corrected": "go"}, files=audio(CLIP, "take.flac"))
    assert again.json()["id"] == row["id"]
    unreadable = await server("acme", "POST", "/feedback", data=form, files=audio(b"no recording"))
    assert unreadable.status_code == 415
    unknown = await server("acme", "POST", "/feedback", data=form | {"adapter": "gamma"}, files=audio(CLIP))
    assert unknown.status_code == 404


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        ({"verdict": "maybe"}, 422, "verdict"),
        ({"verdict": "right", "corrected": "x"}, 422, "corrected"),
        ({"corrected": "a <audio> b"}, 422, "<audio>"),
        ({"request_id": None}, 422, "request_id"),
        ({"correctde": "x"}, 422, "corrected"),
        ({"answer": "something else"}, 409, "reads otherwise"),
    ],
)
async def test_refusals(server: As, change: dict[str, Any], status: int, word: str) -> None:
    answer = await server.answer()
    body = {"request_id": answer["id"], "verdict": "wrong"} | change
    response = await server("acme", "POST", "/feedback", json=body)
    assert response.status_code == status
    assert word in response.json()["detail"]
    assert await server.rows() == []


async def test_other_recordings_than_the_answers_are_refused(server: As) -> None:
    answer = await server.answer()
    form = {"request_id": answer["id"], "verdict": "right", "consent": "true"}
    other = await server("acme", "POST", "/feedback", data=form, files=audio(wav(tone(500, 0.3))))
    assert other.status_code == 409
    same = await server("acme", "POST", "/feedback", data=form, files=audio(CLIP))
    assert same.status_code == 201


async def test_a_tenant_has_so_much_and_no_more(server: As) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000 * 10).astype(np.float32)
    statuses = []
    for shift in range(4):
        answer = await server.answer(clip=wav(np.roll(noise, shift)))  # 320 kB each
        body = {"request_id": answer["id"], "verdict": "right", "consent": True}
        statuses.append((await server("acme", "POST", "/feedback", json=body)).status_code)
    assert statuses == [201, 201, 201, 409]
    body["consent"] = False
    assert (await server("acme", "POST", "/feedback", json=body)).status_code == 201
    listed = (await server("acme", "GET", "/feedback")).json()
    assert listed["used_bytes"] <= listed["most_bytes"] == 1 << 20
    answer = await server.answer("rival")  # another tenant has its own share
    await server.judge("rival", request_id=answer["id"], verdict="right", consent=True)


async def test_nothing_of_it_is_logged(server: As, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        answer = await server.answer(prompt=SECRET)
        row = await server.judge(request_id=answer["id"], verdict="wrong", corrected=SECRET[::-1], consent=True)
        file = next(server.folder.rglob("row.json"))
        file.write_text(file.read_text().replace('"verdict"', '"verdikt"'))  # damaged by hand
        assert await server.rows() == []
    assert row["id"] in caplog.text  # the damage is
    for words in (SECRET, SECRET[::-1], answer["text"]):
        assert words not in caplog.text


async def test_a_folder_that_cannot_be_written_is_said(server: As) -> None:
    answer = await server.answer()
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    server.folder.chmod(0o500)
    try:
        body = {"request_id": answer["id"], "verdict": "right"}
        assert (await server("acme", "POST", "/feedback", json=body)).status_code == 507
    finally:
        server.folder.chmod(0o700)


async def test_files_are_their_owners_alone(server: As) -> None:
    answer = await server.answer()
    await server.judge(request_id=answer["id"], verdict="right", consent=True)
    found = [path for path in server.folder.rglob("*") if path.name != ".lock"]
    assert {path.stat().st_mode & 0o077 for path in found} == {0}
    assert json.loads(next(server.folder.rglob("row.json")).read_text())["verdict"] == "right"


async def test_a_job_trains_on_a_copy_of_the_rows(server: As, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(command, "TRAINER", STAND_IN)
    wanted = {"name": "acme-line", "from_feedback": True, "epochs": 2}
    none = await server("acme", "POST", "/training/jobs", json=wanted)
    assert none.status_code == 422
    made = []
    for adapter, verdict, consent in (("alpha", "right", True), ("base", "wrong", True), ("base", "right", False)):
        answer = await server.answer(adapter=adapter, clip=wav(tone(300 + 20 * len(made), 0.5)))
        fields = {"verdict": verdict, "consent": consent} | ({"corrected": "go on"} if verdict == "wrong" else {})
        made.append(await server.judge(request_id=answer["id"], **fields))
    begun = await server("acme", "POST", "/training/jobs", json=wanted)
    assert begun.status_code == 202, begun.text
    job = begun.json()
    assert (job["options"]["promote"], job["dataset"]) == ("not_worse", "data/data.jsonl")

    store = server.client.app.state.overtone.jobs.store  # type: ignore[attr-defined]
    data = store.data(job["id"])
    for row in made:
        assert (await server("acme", "DELETE", f"/feedback/{row['id']}")).status_code == 200
    rows = read_rows(str(data / "data.jsonl"), default_prompt="", audio_roots=[data])
    assert [(row.response, row.corrected) for row in rows] == [(made[0]["answer"], False), ("go on", True)]
    assert all(row.sounds[0].read().startswith(b"RIFF") for row in rows)

    # beside the data of an earlier job, one row is enough
    said = await server.answer(clip=wav(tone(700, 0.5)))
    await server.judge(request_id=said["id"], verdict="wrong", corrected="stop", consent=True)
    assert (await server("acme", "POST", "/training/jobs", json=wanted)).status_code == 422
    older = {"from_job": job["id"], "start": "current"}
    begun = await server("acme", "POST", "/training/jobs", json=wanted | older)
    assert begun.status_code == 202, begun.text
    second = begun.json()
    assert (second["options"]["start"], second["options"]["promote"]) == ("current", "not_worse")
    words = command.training_command(
        server.client.app.state.overtone.jobs.get(second["id"]),  # type: ignore[attr-defined]
        store,
        tmp_path,
        "m",
    )
    also = Path(words[words.index("--also") + 1])
    roots = [Path(words[at + 1]) for at, word in enumerate(words) if word == "--audio-root"]
    assert [row.response for row in read_rows(str(also), default_prompt="", audio_roots=roots[::-1])] == ["stop"]
    assert len(read_rows(str(store.data(second["id"]) / "data.jsonl"), default_prompt="", audio_roots=roots)) == 2
    assert {path.stat().st_mode & 0o077 for path in (also, also.parent)} == {0}
    for one in (job, second):
        await server("acme", "DELETE", f"/training/jobs/{one['id']}")

    refused = [wanted | {"method": "head"}, wanted | {"dataset": "/data"}, {"name": "x", "from_feedback": False}]
    statuses = [(await server("root", "POST", "/training/jobs", json=body)).status_code for body in refused]
    assert statuses == [422, 422, 422]
    assert (await server("acme", "POST", "/training/jobs", json={"name": "x", "dataset": "/d"})).status_code == 403


async def test_a_refusal_counts_what_cannot_be_trained_on(server: As) -> None:
    for fields in ({"verdict": "wrong", "consent": True}, {"verdict": "right"}):
        answer = await server.answer()
        await server.judge(request_id=answer["id"], **fields)
    refused = await server("acme", "POST", "/training/jobs", json={"name": "acme-x", "from_feedback": "base"})
    assert refused.status_code == 422
    for words in ("0 of 2 rows", "1 keep no recording", "1 say that the answer was wrong"):
        assert words in refused.json()["detail"]
