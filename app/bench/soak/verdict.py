"""Comparison of each answer with that of plain PEFT for the version it names."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.bench.soak.clients import CompletedRequest
from app.bench.soak.operator import Operator
from app.bench.soak.oracle import ExpectedTexts
from app.bench.soak.workload import Parts
from app.service.adapters import BASE, names_of


@dataclass
class Verdict:
    """``refused``: answers that were right to refuse, by code. ``mismatches``, ``failures``: with request ids."""

    finished: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    mismatches: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def judge(everything: Iterable[CompletedRequest], texts: ExpectedTexts, operator: Operator) -> Verdict:
    """Judge every request that ended by itself."""
    verdict = Verdict()
    for asked in everything:
        reply = asked.reply
        if reply.kind == "done":
            verdict.finished += 1
            if wrong := _wrong(asked, texts, operator.weights):
                verdict.mismatches.append(f"{asked.request_id}: {wrong}")
        elif _rightly_refused(asked, operator):
            code = reply.body["code"]
            verdict.refused[code] = verdict.refused.get(code, 0) + 1
        else:
            verdict.failures.append(
                f"{asked.request_id} ({asked.adapter}): {reply.status} {reply.kind or 'without an end'} {reply.body}"
            )
    return verdict


def _wrong(asked: CompletedRequest, texts: ExpectedTexts, weights: Mapping[str, str]) -> str:
    """The fault of an answer; empty where it is right."""
    body = asked.reply.body
    named = body["adapter"]["name"]
    if asked.adapter is not None and named != asked.adapter:
        return f"asked {asked.adapter}, answered by {named}"
    uids = [f"{name}@{version}" for name, version, _ in _parts(body["adapter"])]
    if unknown := [uid for uid in uids if uid not in weights]:
        return f"names versions that were never published: {unknown}"
    parts: Parts = tuple((weights[f"{name}@{version}"], share) for name, version, share in _parts(body["adapter"]))
    right = texts[parts, asked.sound, asked.prompt]
    if body["text"] != right:
        return f"{uids or BASE}, sound {asked.sound}, prompt {asked.prompt}: {body['text']!r}, PEFT says {right!r}"
    if asked.reply.said != body["text"]:
        return f"the streamed tokens say {asked.reply.said!r}, the end says {body['text']!r}"
    return ""


def _parts(adapter: Mapping[str, Any]) -> list[tuple[str, int, float]]:
    """(name, version, share) of each adapter of an answer."""
    if "mix" in adapter:
        return [(part["name"], part["version"], part["weight"]) for part in adapter["mix"]]
    return [] if adapter["name"] == BASE else [(adapter["name"], adapter["version"], 1.0)]


def _rightly_refused(asked: CompletedRequest, operator: Operator) -> bool:
    """A full line, or an adapter that was deleted meanwhile."""
    code = asked.reply.body.get("code")
    if code == "adapter_not_found" and asked.adapter not in (None, BASE):
        return any(operator.was_gone(name, asked.begun, asked.ended) for name in names_of(str(asked.adapter)))
    return code == "queue_full"
