"""Bodies that are not what they seem: the error names what came, where it is wrong, and the way on."""

import gzip
import json
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api.bodies.json import MOST_VALUES, parse_json
from app.errors import OvertoneError
from tests.api.conftest import audio, wav

ASK: dict[str, Any] = {"model": "base", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
TEXT = json.dumps(ASK)
CHAT, FORM = "/v1/chat/completions", "/generate"
JSON = {"content-type": "application/json"}
BROKEN: dict[str, tuple[bytes, dict[str, str], list[str]]] = {
    "gzip": (gzip.compress(TEXT.encode()), JSON | {"content-encoding": "gzip"}, ["Content-Encoding", "gzip"]),
    "br": (TEXT.encode(), JSON | {"content-encoding": "br"}, ["Content-Encoding", "'br'"]),
    "gzip without its header": (gzip.compress(TEXT.encode()), JSON, ["compressed by gzip"]),
    "text/plain": (TEXT.encode(), {"content-type": "text/plain"}, ["Content-Type says 'text/plain'", "is JSON"]),
    "curl -d": (
        TEXT.encode(), {"content-type": "application/x-www-form-urlencoded"},
        ["Content-Type says 'application/x-www-form-urlencoded'", "is JSON", "curl --json"],
    ),
    "no type": (TEXT.encode(), {}, ["no Content-Type", "is JSON"]),
    "a form": (b"model=base&x=1", {"content-type": "application/x-www-form-urlencoded"}, ["is a form", "takes JSON"]),
    "a multipart form": (
        b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nbase\r\n--x--\r\n',
        {"content-type": "multipart/form-data; boundary=x"}, ["not a form"],
    ),
    "a recording": (wav(), {"content-type": "audio/wav"}, ["a recording (WAV)", "base64 in JSON"]),
    "a recording as JSON": (wav(kind="FLAC"), JSON, ["a recording (FLAC)"]),
    "latin-1": (TEXT.replace("hi", "\xe9t\xe9").encode("latin-1"), JSON, ["not UTF-8", "byte"]),
    "charset": (TEXT.encode("latin-1"), {"content-type": "application/json; charset=latin-1"}, ["charset=latin-1"]),
    "empty": (b"", JSON, ["body is empty"]),
    "blank": (b" \n ", JSON, ["body is empty"]),
    "null": (b"null", JSON, ["body is empty"]),
    "a list": (b"[1]", JSON, ["a list", "send a JSON object"]),
    "a string": (b'"hi"', JSON, ["a string"]),
    "a number": (b"17", JSON, ["a number"]),
    "trailing comma": (b'{"model": "base",\n}', JSON, ["comma", "line 2"]),
    "trailing comma in a list": (b'{"stop": ["a", ]}', JSON, ["comma"]),
    "single quotes": (b"{'model': 'base'}", JSON, ["double quotes"]),
    "Python": (b'{"stream": True}', JSON, ["True is not JSON's word"]),
    "NaN": (b'{"temperature": NaN}', JSON, ["NaN"]),
    "infinity": (b'{"temperature": -Infinity}', JSON, ["-Infinity"]),
    "comment": (b'{"model": "base" // mine\n}', JSON, ["comments"]),
    "cut off": (TEXT.encode()[:-3], JSON, ["cut off"]),
    "cut off in a string": (b'{"model": "ba', JSON, ["cut off"]),
    "raw line break": (b'{"model": "a\nb"}', JSON, ["control character"]),
    "backslash": (b'{"model": "C:\\models"}', JSON, ["backslash"]),
    "two objects": (TEXT.encode() * 2, JSON, ["more follows"]),
    "deep": (b'{"a":' * 50_000, JSON, ["deep"]),
    "digits": (b'{"seed": ' + b"9" * 5000 + b"}", JSON, ["digits"]),
    "many values": (b'{"a": [' + b"1," * (MOST_VALUES + 1) + b"1]}", JSON, ["1,000,000 values"]),
    "half a character in a name": (b'{"\\udfff": 1}', JSON, ["half of a character"]),
    "half a character": (TEXT.replace("hi", "\\ud83d").encode(), JSON, ["half of a character"]),
    "half a character in a list": (b'{"stop": ["\\uDC00"]}', JSON, ["half of a character"]),
}  # fmt: skip


def told(response: httpx.Response) -> str:
    """The words of an error, in whatever shape."""
    body = response.json()
    return str(body["error"]["message"] if "error" in body else body["detail"])


@pytest.mark.parametrize("name", BROKEN)
async def test_json_that_cannot_be_read(client: httpx.AsyncClient, name: str) -> None:
    body, headers, words = BROKEN[name]
    response = await client.post(CHAT, content=body, headers=headers)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["code"] == "malformed_body"
    for word in words:
        assert word in told(response), told(response)


@pytest.mark.parametrize("path", ["/unload", "/adapters/alpha/pin", "/adapters/alpha/rollback", "/adapters"])
async def test_every_json_route_reads_alike(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, content=b'{"a": 1,}', headers=JSON)
    assert (response.status_code, response.json()["code"]) == (400, "malformed_body")
    assert "comma" in told(response)
    response = await client.post(path, content=b'{"name": "x", "name": "y"}', headers=JSON)
    assert response.status_code == 422
    assert "'name' stands 2 times" in told(response)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "application/vnd.api+json"])
async def test_json_in_unicode_is_read(client: httpx.AsyncClient, encoding: str, kind: str) -> None:
    plain = await client.post(CHAT, json=ASK)
    response = await client.post(CHAT, content=TEXT.encode(encoding), headers={"content-type": kind})
    assert response.status_code == 200, response.text
    assert response.json()["choices"] == plain.json()["choices"]


async def test_a_whole_character_of_two_escapes_is_read(client: httpx.AsyncClient) -> None:
    body = TEXT.replace("hi", "\\ud83d\\ude00").encode()
    assert (await client.post(CHAT, content=body, headers=JSON)).status_code == 200


@pytest.mark.parametrize("place", ["", "messages.0", "messages.0.content.0", "response_format", "metadata"])
async def test_a_name_twice_in_an_object_is_refused(client: httpx.AsyncClient, place: str) -> None:
    inner = '{"type": "text", "type": "text"}'
    bodies = {
        "": '{"model": "base", "messages": [], "model": "alpha"}',
        "messages.0": '{"model": "base", "messages": [{"role": "user", "content": "a", "content": "b"}]}',
        "messages.0.content.0": f'{{"model": "base", "messages": [{{"role": "user", "content": [{inner}]}}]}}',
        "response_format": f'{{"model": "base", "response_format": {inner}}}',
        "metadata": f'{{"model": "base", "metadata": {inner}}}',
    }
    response = await client.post(CHAT, content=bodies[place], headers=JSON)
    assert response.status_code == 400
    assert "stands 2 times in one object" in told(response)
    assert response.json()["error"]["param"] in ("model", "content", "type")


WHOLE = st.text(st.characters(exclude_categories=["Cs"]))
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WHOLE


@settings(max_examples=300, deadline=None)
@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(WHOLE, inner)))
def test_any_json_is_read_as_the_standard_library_reads_it(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.text("{}[]\",:1.eE+-NaInfity tru\\u\ud800'", max_size=40))
def test_whatever_comes_is_read_or_refused_in_words(body: bytes | str) -> None:
    try:
        parse_json(body)
    except OvertoneError as error:
        said, status = str(error), error.status
    else:
        return
    assert said.encode()
    assert status in (400, 422)


FORMS: dict[str, tuple[dict[str, Any], int, list[str]]] = {
    "raw audio": ({"content": wav(), "headers": {"content-type": "audio/wav"}}, 422, ["recording (WAV)", "curl -F"]),
    "raw audio without a type": ({"content": wav()}, 422, ["recording (WAV)", "no Content-Type"]),
    "--data-binary": (
        {"content": wav(kind="FLAC"), "headers": {"content-type": "application/x-www-form-urlencoded"}},
        422, ["recording (FLAC)", "curl -F"],
    ),
    "octets": (
        {"content": wav(kind="OGG"), "headers": {"content-type": "application/octet-stream"}}, 422, ["recording (Ogg)"],
    ),
    "JSON": ({"json": {"prompt": "x"}}, 422, ["application/json", "is JSON", "curl -F"]),
    "curl -d with JSON": (
        {"content": b'{"prompt": "x"}', "headers": {"content-type": "application/x-www-form-urlencoded"}},
        422, ["is JSON", "curl -F"],
    ),
    "no boundary": (
        {"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data"}}, 400, ["boundary", "Content-Type"],
    ),
    "another boundary": (
        {"content": b"--y\r\n\r\n--y--", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400, ["form"],
    ),
    "gzip": (
        {"content": gzip.compress(b"prompt=x"), "headers": {
            "content-type": "application/x-www-form-urlencoded", "content-encoding": "gzip"}},
        400, ["Content-Encoding"],
    ),
    "charset": (
        {"content": b"--x--", "headers": {"content-type": "multipart/form-data; boundary=x; charset=unicode_escape"}},
        400, ["charset=unicode_escape"],
    ),
    "text as a file": ({"files": [("prompt", ("p.txt", b"hello"))]}, 422, ["prompt came as a file", "<file.txt"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("path", [FORM, "/compare", "/v1/audio/transcriptions"])
async def test_forms_that_cannot_be_read(client: httpx.AsyncClient, name: str, path: str) -> None:
    sent, status, words = FORMS[name]
    response = await client.post(path, **sent)
    assert response.status_code == (400 if path.startswith("/v1") else status), response.text
    for word in words:
        assert word in told(response), told(response)


async def test_a_form_that_ends_too_early_is_refused(client: httpx.AsyncClient) -> None:
    whole = httpx.Request("POST", "http://t", data={"prompt": "say hello", "seed": "1"}, files=audio())
    body, headers = whole.read(), {"content-type": whole.headers["content-type"]}
    assert (await client.post(FORM, content=body, headers=headers)).status_code == 200
    for kept in (len(body) - 6, len(body) - 500, body.index(b"say hello") + 3, body.index(b"RIFF")):
        response = await client.post(FORM, content=body[:kept], headers=headers)
        assert (response.status_code, response.json()["code"]) == (400, "malformed_body"), kept
        assert "ends" in told(response)


SCALARS = {
    FORM: [
        "prompt",
        "system",
        "adapter",
        "max_new_tokens",
        "temperature",
        "top_p",
        "top_k",
        "seed",
        "stream",
        "messages",
    ],
    "/compare": ["prompt", "seed", "n"],
    "/classify": ["adapter"],
    "/v1/audio/transcriptions": ["model", "prompt", "language", "response_format", "temperature", "seed", "stream"],
    "/training/jobs": ["name", "method", "prompt", "task", "epochs", "check"],
    "/adapters": ["name", "replace"],
}


@pytest.mark.parametrize(("path", "name"), [(path, name) for path, names in SCALARS.items() for name in names])
async def test_a_field_that_is_sent_twice_is_refused(client: httpx.AsyncClient, path: str, name: str) -> None:
    fields = [(name, (None, b"1")), (name, (None, b"2")), (name, (None, b"1"))]
    response = await client.post(path, files=fields)
    assert response.status_code == (400 if path.startswith("/v1") else 422)
    assert f"{name} was sent 3 times" in told(response)


async def test_a_file_that_is_sent_twice_is_refused(client: httpx.AsyncClient) -> None:
    two = [("file", ("a.wav", wav())), ("file", ("b.wav", wav()))]
    response = await client.post("/v1/audio/transcriptions", data={"model": "base"}, files=two)
    assert response.status_code == 400
    assert response.json()["error"] | {"message": ""} == {
        "message": "", "type": "invalid_request_error", "param": "file", "code": "bad_request",
    }  # fmt: skip
    assert "file was sent 2 times" in told(response)
    response = await client.post("/training/jobs", data={"name": "x"}, files=[("file", ("a.zip", b"x"))] * 2)
    assert "file was sent 2 times" in told(response)
    same = [("file", ("adapter_config.json", b"{}"))] * 2 + [("file", ("adapter_model.safetensors", b"x"))]
    response = await client.post("/adapters", data={"name": "x"}, files=same)
    assert "adapter_config.json is there twice" in told(response)


async def test_a_list_may_be_repeated_in_all_spellings(client: httpx.AsyncClient) -> None:
    base = {"max_new_tokens": "4", "prompt": "x"}
    for name in ("audio", "audio[]", "audio[0]"):
        two = [(name, ("a.wav", wav())), (name.replace("0", "1"), ("b.wav", wav()))]
        response = await client.post(FORM, data=base, files=two)
        assert len(response.json()["audio"]) == 2, response.text
    names = await client.post("/compare", data={**base, "adapters[]": ["base", "alpha"]})
    assert [one["adapter"]["name"] for one in names.json()["answers"]] == ["base", "alpha"]


async def test_a_query_is_read_once(client: httpx.AsyncClient) -> None:
    response = await client.get("/status?after=1&after=2")
    assert response.status_code == 422
    assert response.json()["fields"] == ["after"]
    assert "after stands 2 times in the query" in told(response)
    for path in (FORM, "/compare", "/classify", "/v1/audio/transcriptions", CHAT):
        name = "model" if path.startswith("/v1") else "adapters" if path == "/compare" else "adapter"
        response = await client.post(f"{path}?{name}=alpha", json=ASK if path == CHAT else None)
        assert response.status_code == (400 if path.startswith("/v1") else 422)
        assert f"{name}: in the query this is not read" in told(response)
    assert (await client.get("/status?after=")).json().keys() == (await client.get("/status")).json().keys()
    assert (await client.get("/v1/models?client_version=1")).status_code == 200


@pytest.mark.parametrize(
    "name", ["Authorization", "X-API-Key", "Content-Type", "Content-Encoding", "Last-Event-ID", "Host"]
)
async def test_a_header_is_read_once(client: httpx.AsyncClient, name: str) -> None:
    response = await client.get("/v1/models", headers=[(name, "a"), (name.lower(), "b")])
    assert response.status_code == 400
    assert f"The header {name.title()} was sent 2 times" in told(response)
    assert response.headers["x-request-id"]
