"""Settings that say how the tokens of an answer are chosen. No torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SamplingParams:
    """Settings of one request. ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 are off.

    ``logprobs``: None is off; k returns each token's log probability and those of the k most likely tokens.
    ``stop``: strings that end the answer and are not part of it.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0
