"""Three replicas through real HTTP: one service, with the adapters spread over them."""

import io
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx

from app.main import create_app
from app.registry.archive import pack
from app.settings import Settings
from tests.api.conftest import audio, client_of, events_of, ready
from tests.cluster.conftest import NAMES, REPLICAS, Cluster
from tests.support import make_adapter

AFFINITY = 0.95
PATIENT_S = 120.0  # of a machine with two cores for all processes


def ask(client: httpx.Client, adapter: str | None = None, **fields) -> httpx.Response:
    named = {} if adapter is None else {"adapter": adapter}
    return client.post("/generate", data={"max_new_tokens": "6"} | named | fields, files=audio())


def eventually(condition: Callable[[], bool], seconds: float = PATIENT_S) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "this took too long"
        time.sleep(0.1)


def everywhere(request: Callable[[], httpx.Response], expected: Callable[[httpx.Response], bool]) -> None:
    """Soon every answer is as expected, whichever replica gives it: 12 in a row, of three replicas."""
    eventually(lambda: all(expected(request()) for _ in range(12)))


def warm(client: httpx.Client) -> None:
    for _ in range(2):
        for name in NAMES:
            assert ask(client, name).status_code == 200


def test_routes_headers_and_errors_pass_unchanged(cluster):
    with cluster.client() as client:
        assert client.get("/health").json()["status"] == "ok"
        assert client.get("/ready").json()["adapters"] == len(NAMES)
        page = client.get("/")
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert client.get("/web/js/main.js").status_code == 200
        missing = client.post(
            "/generate", data={"adapter": "voice-zz", "prompt": "x"}, headers={"X-Request-Id": "mine"}
        )
        assert (missing.status_code, missing.json()["code"]) == (404, "adapter_not_found")
        assert missing.json()["instance"] == "mine"
        assert missing.headers.get_list("x-request-id") == ["mine"]
        openai = client.post("/v1/chat/completions", json={"model": "voice-zz", "messages": []})
        assert openai.json()["error"]["code"]
        too_large = client.post("/generate", content=bytes(5 << 20))
        assert too_large.status_code == 413
        training = client.post("/training/jobs", data={"name": "x"})
        assert training.status_code == 403
        assert "train beside it" in training.json()["detail"]


async def test_answers_are_those_of_one_process(cluster, tmp_path):
    """A plain server over the same store, and the cluster, say the same."""
    alone = create_app(Settings(_env_file=None, **cluster.settings | {"adapters": tmp_path, "jobs": tmp_path / "jobs"}))
    async with alone.router.lifespan_context(alone), client_of(alone) as one:
        await ready(one)
        with cluster.client() as many:
            for name in (*NAMES, "base", "voice-a:0.5,voice-b:0.5"):
                fields = {"adapter": name, "max_new_tokens": "12", "seed": "1"}
                expected = (await one.post("/generate", data=fields, files=audio())).json()
                found = many.post("/generate", data=fields, files=audio()).json()
                for key in ("text", "adapter", "finish_reason", "usage"):
                    assert found[key] == expected[key], name


def test_requests_go_where_their_adapter_is_resident(cluster):
    """Twelve adapters, three replicas of five slots: none of them holds all."""
    drawn = random.Random(0)
    with cluster.client() as client, ThreadPoolExecutor(6) as pool:
        warm(client)
        asked = [drawn.choice(NAMES) for _ in range(240)]
        answers = [answer.json() for answer in pool.map(lambda name: ask(client, name), asked)]
    assert [answer["adapter"]["name"] for answer in answers] == asked
    hits = sum(answer["timings_ms"]["activation"] == 0 for answer in answers)
    assert hits / len(answers) >= AFFINITY, f"{hits} of {len(answers)} found their adapter resident"


def test_streams_come_token_by_token(cluster):
    with cluster.client() as client:
        arrivals: list[float] = []
        with client.stream(
            "POST", "/generate", data={"adapter": "voice-a", "max_new_tokens": "200", "stream": "true"}, files=audio()
        ) as response:
            text = ""
            for piece in response.iter_text():
                arrivals.append(time.monotonic())
                text += piece
        kinds = Counter(kind for kind, _ in events_of(text))
        assert kinds["done"] == 1
        assert kinds["token"] > 20
        assert len(arrivals) > 10, "not held back until the end"


def test_clients_that_leave_end_their_requests_at_the_replicas(cluster):
    def running() -> int:
        with cluster.client() as client:
            return max(client.get("/ready").json()["running"] for _ in range(12))

    streams = []
    with cluster.client() as client, ExitStack() as stack:
        for name in NAMES:  # so that every replica is busy: Ray asks those that are less so
            fields = {"adapter": name, "max_new_tokens": "1500", "stream": "true"}
            response = stack.enter_context(client.stream("POST", "/generate", data=fields, files=audio()))
            streams.append(response.iter_text())
            next(streams[-1])
        assert running() > 0
    eventually(lambda: running() == 0)
    with cluster.client() as client:  # it is the leaving that ended them
        eventually(lambda: set().union(*(_cancelled(client.get("/metrics").text) for _ in range(12))) == set(NAMES))


def test_uploads_selections_and_unloads_reach_all(cluster, loaded, tmp_path):
    folder = make_adapter(loaded, tmp_path / "late", 99)
    files = [("file", (file.name, file.read_bytes())) for file in folder.iterdir() if file.name.startswith("adapter_")]
    (folder / "README.md").write_bytes(random.Random(0).randbytes(20 << 20))  # makes a body of several parts
    archive = io.BytesIO()
    pack(folder, archive)
    with cluster.client() as client:
        added = client.post("/adapters", data={"name": "late"}, files={"file": ("late.zip", archive.getvalue())})
        assert added.status_code == 201, added.text
        for _ in range(12):
            assert ask(client, "late").json()["adapter"] == {"name": "late", "version": 1}
        assert client.post("/adapters/late/select").json() == {"active": "late"}
        everywhere(lambda: ask(client), lambda answer: answer.json()["adapter"]["name"] == "late")
        assert client.post("/unload").json()["unchanged"]
        everywhere(lambda: ask(client), lambda answer: answer.json()["adapter"]["name"] == "base")
        client.post("/unload")  # at the first, a replica that had not heard of it may have been answering with `late`
        eventually(lambda: all(client.get("/ready").json()["resident"] == 0 for _ in range(12)))
        replaced = client.post("/adapters", data={"name": "late", "replace": "true"}, files=files)
        assert replaced.json()["version"] == 2
        everywhere(lambda: ask(client, "late"), lambda answer: answer.json()["adapter"]["version"] == 2)
        client.post("/adapters/late/rollback")
        everywhere(lambda: ask(client, "late"), lambda answer: answer.json()["adapter"]["version"] == 1)
        assert client.delete("/adapters/late").status_code == 200
        everywhere(lambda: ask(client, "late"), lambda answer: answer.status_code == 404)
        again = client.post("/adapters", data={"name": "late"}, files=files)
        assert again.json()["version"] == 3
        client.delete("/adapters/late")


def test_a_replica_killed_under_load_loses_no_request_without_a_word(cluster: Cluster):
    outcomes: Counter[tuple[bool, str]] = Counter()
    stop = threading.Event()
    drawn = random.Random(1)

    def load(stream: bool) -> None:
        with cluster.client() as client:
            while not stop.is_set():
                fields = {"max_new_tokens": "60", "stream": str(stream).lower()}
                try:
                    outcome = _outcome(ask(client, drawn.choice(NAMES), **fields), stream)
                except httpx.TransportError as error:
                    outcome = repr(error)
                outcomes[stream, outcome] += 1

    threads = [threading.Thread(target=load, args=(index % 2 == 0,)) for index in range(12)]
    for thread in threads:
        thread.start()
    time.sleep(2)
    victim = cluster.replicas()[0]
    victim.kill()
    time.sleep(3)
    stop.set()
    for thread in threads:
        thread.join(PATIENT_S)
        assert not thread.is_alive(), "a request hangs"
    # none to retry where the victim was answering nobody at that moment
    assert {outcome for _, outcome in outcomes} <= {"whole", "asked to retry"}, outcomes
    assert min(outcomes[True, "whole"], outcomes[False, "whole"]) > 0
    eventually(lambda: len(cluster.replicas()) == REPLICAS)
    with cluster.client() as client:
        everywhere(lambda: ask(client, drawn.choice(NAMES)), lambda answer: answer.status_code == 200)


def _cancelled(metrics: str) -> set[str]:
    """The adapters of one replica's requests that ended because their clients left."""
    return set(re.findall(r'^overtone_requests_total\{adapter="(.*)",outcome="cancelled"\}', metrics, re.MULTILINE))


def _outcome(answer: httpx.Response, stream: bool) -> str:
    if answer.status_code == 503 and answer.headers.get("retry-after"):
        return "asked to retry"
    if answer.status_code != 200:
        return f"{answer.status_code}: {answer.text[:200]}"
    if not stream:
        return "whole" if answer.json()["finish_reason"] else "no answer"
    kind, data = events_of(answer.text)[-1]
    if kind == "error":
        return "asked to retry" if data["status"] == 503 and "again" in data["detail"] else json.dumps(data)
    return "whole" if kind == "done" else f"ends with {kind}"
