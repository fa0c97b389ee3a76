"""Models, and adapters loaded and unloaded as vLLM's users do."""

from typing import Any

import httpx
import openai as sdk
import pytest
from openai import OpenAI

from tests.api.conftest import Running
from tests.api.openai.conftest import BASE, Live, heard


def test_models(openai: OpenAI, live: Live) -> None:
    listed = {card.id: card for card in openai.models.list()}
    assert list(listed) == [BASE, "command-json", "nato"]
    assert listed[BASE].model_extra["parent"] is None
    assert listed["nato"].model_extra["parent"] == BASE
    assert all(card.object == "model" and card.created > 1.7e9 for card in listed.values())
    assert listed["nato"].model_extra["max_model_len"] == live.service.engine.max_tokens_per_request
    assert openai.models.retrieve("nato") == listed["nato"]
    with pytest.raises(sdk.NotFoundError, match="did you mean nato") as error:
        openai.models.retrieve("natto")
    assert error.value.code == "model_not_found"


async def test_a_head_is_no_model(running: Running, tmp_path: Any) -> None:
    from tests.support import make_head

    async with running() as client:
        client.app.state.overtone.service.registry.publish(make_head(tmp_path / "head"), "sounds")
        listed = [card["id"] for card in (await client.get("/v1/models")).json()["data"]]
        assert listed == ["random-tiny", "alpha", "beta"]
        body = {"model": "sounds", "messages": [{"role": "user", "content": "hi"}]}
        answer = await client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 400
        assert "classification head" in answer.json()["error"]["message"]


def test_load_and_unload(openai: OpenAI, plain: httpx.Client, live: Live) -> None:
    def post(route: str, **body: Any) -> httpx.Response:
        return plain.post(f"/v1/{route}_lora_adapter", json=body)

    path = str(live.source / "spelling")
    loaded = post("load", lora_name="spelling", lora_path=path)
    assert (loaded.status_code, loaded.text) == (200, "Success: LoRA adapter 'spelling' added successfully.")
    assert openai.models.retrieve("spelling").model_extra["parent"] == BASE
    said = openai.chat.completions.create(model="spelling", messages=heard()).choices[0].message.content
    assert said == openai.chat.completions.create(model="nato", messages=heard()).choices[0].message.content
    taken = post("load", lora_name="spelling", lora_path=path)
    assert (taken.status_code, taken.json()["error"]["code"]) == (409, "conflict")
    assert post("load", lora_name="spelling", lora_path=path, load_inplace=True).status_code == 200
    assert plain.get("/adapters/spelling").json()["version"] == 2
    gone = post("unload", lora_name="spelling")
    assert (gone.status_code, gone.text) == (200, "Success: LoRA adapter 'spelling' removed successfully.")
    with pytest.raises(sdk.NotFoundError):
        openai.chat.completions.create(model="spelling", messages=heard())
    again = post("unload", lora_name="spelling")
    assert (again.status_code, again.json()["error"]["code"]) == (404, "model_not_found")
    assert post("load", lora_name="spelling", lora_path=path).status_code == 200
    assert post("unload", lora_name="spelling").status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"lora_name": "x", "lora_path": "/etc"}, 403, "forbidden", None),
        ({"lora_name": "x", "lora_path": "some-org/some-repository"}, 403, "forbidden", None),
        ({"lora_name": BASE, "lora_path": "{source}/spelling"}, 409, "conflict", None),
        ({"lora_name": "../x", "lora_path": "{source}/spelling"}, 400, "bad_request", None),
        ({"lora_name": "x", "lora_path": "{source}"}, 400, "bad_request", None),
        ({"lora_name": "x"}, 400, "bad_request", "lora_path"),
        ({"lora_name": "x", "lora_path": "/x", "lora_weight": 1}, 400, "bad_request", "lora_weight"),
        (
            {"lora_name": "x", "lora_path": "/x", "base_model_name": "y"},
            400,
            "unsupported_parameter",
            "base_model_name",
        ),
    ],
)
def test_what_cannot_be_loaded(
    plain: httpx.Client, live: Live, body: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    filled = {
        name: value.format(source=live.source) if isinstance(value, str) else value for name, value in body.items()
    }
    response = plain.post("/v1/load_lora_adapter", json=filled)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert error["message"]
