"""Ask a running server through the client that openapi-python-client made; prints what came back as a line of JSON.

Arguments: the folder that holds the package, base URL, path of a recording.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])

from overtone_client import AuthenticatedClient
from overtone_client.api.adapters import download_adapter, list_adapters
from overtone_client.api.generate import compare, generate
from overtone_client.api.openai import create_chat_completion, create_transcription
from overtone_client.models import (
    ChatMessage,
    ChatRequest,
    CompareForm,
    GenerateForm,
    TranscriptionForm,
)
from overtone_client.types import File

client = AuthenticatedClient(base_url=sys.argv[2], token="unused", raise_on_unexpected_status=True)
recording = Path(sys.argv[3])


def clip() -> File:
    return File(payload=recording.open("rb"), file_name=recording.name)


adapters = list_adapters.sync(client=client)
answer = generate.sync(client=client, body=GenerateForm(audio=[clip()], prompt="Transcribe the audio.", adapter="base"))
both = compare.sync(client=client, body=CompareForm(adapters=["base", "nato"], audio=[clip(), clip()], stop=["x", "y"]))
transcribed = create_transcription.sync(client=client, body=TranscriptionForm(file=clip(), model="base"))
message = ChatMessage(role="user", content="Say hello.")
chat = create_chat_completion.sync(client=client, body=ChatRequest(model="base", messages=[message], max_tokens=4))
refused = generate.sync_detailed(client=client, body=GenerateForm(audio=[clip()], adapter="natto"))
print(
    json.dumps(
        {
            "adapters": [adapter.name for adapter in adapters.adapters],
            "text": answer.text,
            "container": answer.audio[0].container,
            "compared": [one.adapter.name for one in both.answers],
            "transcribed": transcribed.text,
            "completion_tokens": chat.usage.completion_tokens,
            "refused": [int(refused.status_code), refused.parsed.code],
            "zip": download_adapter.sync_detailed("nato", client=client).content[:2].decode(),
        }
    )
)
