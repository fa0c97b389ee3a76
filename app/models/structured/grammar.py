"""Constrained decoding: which tokens keep an answer within a JSON schema, by llguidance."""

import json
import threading
from collections.abc import Collection, Mapping
from functools import cached_property, lru_cache
from typing import Any

import llguidance
import numpy as np
import numpy.typing as npt

from app.errors import BadRequest, OvertoneError
from app.models.structured.schema import MAX_BYTES, grammar_of, matcher_of, reason, refuse_hostile

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
KEPT = 32  # compiled schemas; those of one service's clients are few


class JsonGrammar:
    """One answer on its way through a schema; what the engine calls a `Grammar`."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher

    @property
    def finished(self) -> bool:
        return self._matcher.is_stopped() and not self._matcher.is_error()

    @property
    def error(self) -> OvertoneError | None:
        if not self._matcher.is_error():
            return None
        return BadRequest(
            f"The JSON schema became too complex while it was followed: {reason(self._matcher.get_error())}. "
            "Use fewer and simpler patterns and alternatives."
        )

    def fill(self, mask: npt.NDArray[np.int32]) -> None:
        if not self._matcher.is_error():
            self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if self._matcher.is_error():
            mask[:] = 0

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)


class Grammars:
    """Schemas compiled for one model. Methods block, and may be called from any thread.

    ``vocabulary``: width of the logits; ``eos_ids``: what may end an answer.
    """

    def __init__(self, processor: Any, vocabulary: int, eos_ids: Collection[int]) -> None:
        self._hub_tokenizer = processor.tokenizer
        self._vocabulary = vocabulary
        self._eos_ids = sorted(eos_ids)
        self._lock = threading.Lock()
        self._compiled = lru_cache(KEPT)(self._compile)

    def of(self, schema: Mapping[str, Any]) -> JsonGrammar:
        """A grammar at its beginning. Raises BadRequest for a schema that this server cannot follow."""
        text = json.dumps(schema)
        if len(text) > MAX_BYTES:
            raise BadRequest(f"The JSON schema takes {len(text)} bytes; {MAX_BYTES} are allowed.")
        return JsonGrammar(self._compiled(text).deep_copy())

    def _compile(self, schema: str) -> llguidance.LLMatcher:
        refuse_hostile(schema)
        with self._lock:
            tokenizer = self._tokenizer
        matcher = matcher_of(tokenizer, grammar_of(schema))
        matcher.compute_bitmask()  # warm, and proof that the answer can begin
        if matcher.is_error():
            raise BadRequest(f"This server cannot follow the JSON schema: {reason(matcher.get_error())}")
        return matcher

    @cached_property
    def _tokenizer(self) -> llguidance.LLTokenizer:
        """Made at first use: for a large vocabulary it takes a second."""
        from llguidance.hf import from_tokenizer

        return from_tokenizer(self._hub_tokenizer, n_vocab=self._vocabulary, eos_token=self._eos_ids)
