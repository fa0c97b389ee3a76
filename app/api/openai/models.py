"""`/v1/models`, and vLLM's `/v1/load_lora_adapter` and `/v1/unload_lora_adapter`."""

from typing import Any, ClassVar, Literal

from anyio import to_thread
from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

from app import __version__
from app.api.dependencies import Ready, State
from app.api.openai.errors import documented
from app.api.schemas.fields import example
from app.api.schemas.openai.fields import Neutral, OpenAIFields
from app.api.strict_route import StrictRoute
from app.api.uploads import Workspace, bring
from app.engine.request import LoRAWeight
from app.errors import AdapterNotFound, Conflict
from app.service import Service
from app.service.adapters import BASE

router = APIRouter(route_class=StrictRoute, tags=["openai"])
SENTENCE: dict[int | str, dict[str, Any]] = {
    200: {"description": "A sentence, as vLLM sends it", "content": {"text/plain": {"schema": {"type": "string"}}}}
}


class ModelCard(BaseModel):
    """Something that `model` may name."""

    id: str = Field(examples=["nato"])
    object: Literal["model"] = "model"
    created: int = Field(description="seconds since 1970; of the base model: when it was loaded")
    owned_by: Literal["overtone"] = "overtone"
    parent: str | None = Field(description="the base model, for an adapter", examples=["overtone-tiny"])
    max_model_len: int = Field(description="tokens of prompt and answer together", examples=[8192])


class ModelList(BaseModel):
    """The base model, then its adapters."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class LoadAdapter(OpenAIFields):
    """vLLM's request; `lora_path` is what `source` is in `POST /adapters`."""

    model_config = example({"lora_name": "nato", "lora_path": "my-org/nato-calls"})

    unsupported: ClassVar[Neutral] = {"base_model_name": (), "is_3d_lora_weight": (False,)}

    lora_name: str = Field(examples=["nato"])
    lora_path: str = Field(
        min_length=1,
        description="a folder under OVERTONE_ADAPTER_ROOTS, a Hub id, or a URL that this server may fetch",
        examples=["my-org/nato-calls"],
    )
    load_inplace: bool = Field(False, description="make it the next version if the name is taken")


class UnloadAdapter(OpenAIFields):
    """vLLM's request."""

    model_config = example({"lora_name": "nato"})

    unsupported: ClassVar[Neutral] = {"lora_int_id": ()}

    lora_name: str = Field(examples=["nato"])


def resolve_model(service: Service, model: str) -> tuple[LoRAWeight, ...]:
    """The LoRA weights behind `model`: none for the base model, by its own name or as `base`. Reads the registry.

    The active adapter is not considered. Raises AdapterNotFound, AdapterRejected or BadRequest.
    """
    if model in (BASE, service.loaded.spec.name):
        return ()
    try:
        return service.adapters.resolve(model)
    except AdapterNotFound as error:
        if set(model) & set(",:@"):
            raise
        known = [adapter.name for adapter in service.adapters.generative()]
        raise AdapterNotFound(model, [service.loaded.spec.name, *known]) from error


class Root(BaseModel):
    """The API behind the base URL."""

    object: Literal["api"] = "api"
    name: Literal["overtone"] = "overtone"
    version: str = __version__
    routes: list[str] = Field(description="that OpenAI's clients use")


@router.get("/v1", responses=documented(401))
def describe_api() -> Root:
    """Is this OpenAI's API? For clients that ask their base URL: `curl localhost:8000/v1`."""
    names = ("models", "chat/completions", "responses", "audio/transcriptions", "audio/translations")
    return Root(routes=[f"/v1/{name}" for name in names])


@router.get("/v1/models", responses=documented(401, 503))
def list_models(state: State, service: Ready) -> ModelList:
    """The base model and every adapter that generates text: `curl localhost:8000/v1/models`."""
    return ModelList(data=_cards(state.started, service))


@router.get("/v1/models/{model:path}", responses=documented(401, 404, 503))
def retrieve_model(model: str, state: State, service: Ready) -> ModelCard:
    """One of them: `curl localhost:8000/v1/models/nato`."""
    cards = {card.id: card for card in _cards(state.started, service)}
    if model not in cards:
        raise AdapterNotFound(model, cards)
    return cards[model]


@router.post(
    "/v1/load_lora_adapter",
    response_class=Response,
    responses=SENTENCE | documented(400, 401, 403, 408, 409, 413, 503),
)
async def load_lora_adapter(body: LoadAdapter, folder: Workspace, state: State, service: Ready) -> PlainTextResponse:
    """Add an adapter as vLLM does: validated as in `POST /adapters`, served from then on.

    ```sh
    curl localhost:8000/v1/load_lora_adapter --json '{"lora_name": "nato", "lora_path": "/data/nato"}'
    ```
    """
    if body.lora_name == service.loaded.spec.name:
        raise Conflict(f"{body.lora_name!r} is the base model's name; choose another.")

    def publish() -> None:
        bring(body.lora_path, folder, state.settings)
        service.adapters.publish(folder, body.lora_name, replace=body.load_inplace)

    await to_thread.run_sync(publish, limiter=state.file_limiters.of(service.registry.caller))
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")


@router.post(
    "/v1/unload_lora_adapter", response_class=Response, responses=SENTENCE | documented(400, 401, 403, 404, 503)
)
def unload_lora_adapter(body: UnloadAdapter, service: Ready) -> PlainTextResponse:
    """Take an adapter out of service as vLLM does: the same as `DELETE /adapters/{name}`.

    ```sh
    curl localhost:8000/v1/unload_lora_adapter --json '{"lora_name": "nato"}'
    ```
    """
    service.adapters.remove(body.lora_name)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


def _cards(started: float, service: Service) -> list[ModelCard]:
    base, room = service.loaded.spec.name, service.engine.max_tokens_per_request
    return [
        ModelCard(id=base, created=int(started), parent=None, max_model_len=room),
        *(
            ModelCard(
                id=adapter.name,
                created=int(adapter.manifest.created.timestamp()),
                parent=base,
                max_model_len=room,
            )
            for adapter in service.adapters.generative()
            if adapter.name != base
        ),
    ]
