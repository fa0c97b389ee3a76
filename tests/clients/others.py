"""Ask a running server through one of several other clients; prints what came back as one line of JSON.

Arguments: the client's name, base URL, path of a recording.
"""

import asyncio
import base64
import json
import os
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

name, url, recording = sys.argv[1], sys.argv[2], Path(sys.argv[3])
DATA = base64.b64encode(recording.read_bytes()).decode()
ASKED = "Transcribe the audio."
PARTS: list[dict[str, Any]] = [
    {"type": "input_audio", "input_audio": {"data": DATA, "format": "flac"}},
    {"type": "text", "text": ASKED},
]
MESSAGES: Any = [{"role": "user", "content": PARTS}]


class Move(BaseModel):
    """Go somewhere."""

    direction: str = Field(max_length=8)
    steps: int = Field(ge=1, le=9)


def litellm() -> dict[str, Any]:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it fetches a list of prices
    import litellm as client

    beside: dict[str, Any] = {"model": "openai/base", "api_base": url, "api_key": "unused"}
    tool = {"type": "function", "function": {"name": "move", "parameters": Move.model_json_schema()}}
    whole = client.completion(messages=MESSAGES, **beside)
    chunks = client.completion(messages=MESSAGES, stream=True, **beside)
    called = client.completion(messages=MESSAGES, tools=[tool], tool_choice="required", **beside)
    with recording.open("rb") as file:
        transcribed = client.transcription(file=file, **beside)
    answered = client.responses(input="hello", max_output_tokens=4, **beside)
    return {
        "text": whole.choices[0].message.content,
        "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks),
        "transcribed": transcribed.text,
        "move": json.loads(called.choices[0].message.tool_calls[0].function.arguments),
        "response": answered.status,
    }


def langchain() -> dict[str, Any]:
    from langchain_openai import ChatOpenAI

    def model(**options: Any) -> Any:
        return ChatOpenAI(model="base", base_url=url, api_key="unused", max_retries=0, **options)

    audio = [("user", PARTS)]
    called = model().bind_tools([Move], tool_choice="Move").invoke(audio)
    # of its own accord it leaves `input_audio` out of responses
    file = {"type": "input_file", "filename": recording.name, "file_data": f"data:audio/flac;base64,{DATA}"}
    newer = [("user", [file, {"type": "input_text", "text": ASKED}])]
    return {
        "text": model().invoke(audio).content,
        "streamed": "".join(chunk.content for chunk in model().stream(audio)),
        "move": called.tool_calls[0]["args"],
        "structured": model().with_structured_output(Move).invoke(audio).model_dump(),
        "functions": model().with_structured_output(Move, method="function_calling").invoke(audio).model_dump(),
        "response": model(use_responses_api=True).invoke(newer).text,
    }


def instructor() -> dict[str, Any]:
    import instructor as client
    from openai import OpenAI

    plain = OpenAI(base_url=url, api_key="unused", max_retries=0)
    modes = {"move": client.Mode.TOOLS, "structured": client.Mode.JSON_SCHEMA}
    return {
        key: client.from_openai(plain, mode=mode)
        .chat.completions.create(model="base", messages=MESSAGES, response_model=Move, max_retries=0)
        .model_dump()
        for key, mode in modes.items()
    }


def pydantic_ai() -> dict[str, Any]:
    from openai import AsyncOpenAI
    from pydantic_ai import Agent, BinaryContent, NativeOutput
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(openai_client=AsyncOpenAI(base_url=url, api_key="unused", max_retries=0))
    chat = OpenAIChatModel("base", provider=provider)
    responses = OpenAIResponsesModel("base", provider=provider)
    clip = BinaryContent(data=recording.read_bytes(), media_type="audio/wav")  # it knows wav and mp3; the bytes decide

    async def ask() -> dict[str, Any]:
        async with Agent(chat).run_stream([clip, ASKED]) as stream:
            streamed = await stream.get_output()
        return {
            "text": (await Agent(chat).run([clip, ASKED])).output,
            "streamed": streamed,
            "move": (await Agent(chat, output_type=Move).run([clip, ASKED])).output.model_dump(),
            "structured": (await Agent(chat, output_type=NativeOutput(Move)).run([clip, ASKED])).output.model_dump(),
            "response": (await Agent(responses, output_type=NativeOutput(Move)).run("hello")).output.model_dump(),
            "tool": (await Agent(responses, output_type=Move).run("hello")).output.model_dump(),
        }

    return asyncio.run(ask())


def openai_agents() -> dict[str, Any]:
    import agents
    from openai import AsyncOpenAI

    agents.set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=url, api_key="unused", max_retries=0)
    responses = agents.OpenAIResponsesModel(model="base", openai_client=client)
    chat = agents.OpenAIChatCompletionsModel(model="base", openai_client=client)
    asked: Any = [{"role": "user", "content": [PARTS[0], {"type": "input_text", "text": ASKED}]}]
    moved: list[dict[str, Any]] = []

    @agents.function_tool
    def move(direction: Literal["forward", "back"], steps: Literal[1, 2]) -> str:
        """Go somewhere."""
        moved.append({"direction": direction, "steps": steps})
        return "moved"

    def agent(model: Any, **options: Any) -> Any:
        return agents.Agent(name="a", model=model, **options)

    forced = {
        "tools": [move],
        "model_settings": agents.ModelSettings(tool_choice="required", max_tokens=300),
        "tool_use_behavior": "stop_on_first_tool",
    }

    async def ask() -> dict[str, Any]:
        stream = agents.Runner.run_streamed(agent(responses), asked)
        streamed = ""
        async for event in stream.stream_events():
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                streamed += event.data.delta
        first = (await agents.Runner.run(agent(responses, **forced), "hello")).final_output
        second = (await agents.Runner.run(agent(chat, **forced), "hello")).final_output
        return {
            "text": (await agents.Runner.run(agent(responses), asked)).final_output,
            "streamed": streamed,
            "structured": (
                await agents.Runner.run(agent(responses, output_type=Move), asked)
            ).final_output.model_dump(),
            "results": [first, second],
            "calls": len(moved),
        }

    return asyncio.run(ask())


print(json.dumps(globals()[name]()))
