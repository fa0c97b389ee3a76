"""Answers of the model being trained, by transformers' own `generate`: greedy, rows of like length together."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from app.models.prompt import PromptRenderer
from training.examples import Example
from training.memory import batches_that_fit
from training.methods.forward import Forward

BATCH = 8


class Answerer:
    """Answers the prompts of rows with whatever adapter is on at the moment."""

    def __init__(self, forward: Forward, renderer: PromptRenderer, max_new_tokens: int) -> None:
        self._forward = forward
        self._renderer = renderer
        self._max_new_tokens = max_new_tokens

    def answer(
        self, examples: Sequence[Example], *, silent: bool = False, answered: Callable[[int], object] | None = None
    ) -> list[str]:
        """One answer per row; ``silent``: every recording is replaced by silence of its length.

        ``answered``: called with the number of rows of each batch once it is done.
        """
        order = sorted(range(len(examples)), key=lambda place: len(examples[place].prompt))
        answers: dict[int, str] = {}
        model: Any = self._forward.model
        trained = model.training
        model.eval()

        def batch(places: Sequence[int]) -> list[str]:
            return self._batch([examples[place] for place in places], silent)

        for places, found in batches_that_fit(order, BATCH, batch):
            answers.update(zip(places, found, strict=True))
            if answered:
                answered(len(places))
        model.train(trained)
        return [answers[place] for place in range(len(examples))]

    @torch.no_grad()
    def _batch(self, examples: Sequence[Example], silent: bool) -> list[str]:
        """Left-padded embeddings in, text out."""
        longest = max(len(example.prompt) for example in examples)
        ids = torch.zeros(len(examples), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, example in enumerate(examples):
            ids[row, longest - len(example.prompt) :] = torch.tensor(example.prompt)
            mask[row, longest - len(example.prompt) :] = 1
        device = self._forward.device
        eos = sorted(self._renderer.eos_ids)
        with self._forward.precision():
            written = self._forward.model.generate(
                inputs_embeds=self._forward.embed(ids.to(device), examples, silent=silent),
                attention_mask=mask.to(device),
                max_new_tokens=self._max_new_tokens,
                do_sample=False,
                eos_token_id=eos,
                pad_token_id=eos[0],
            )
        return [self._renderer.decode(row).strip() for row in written.tolist()]
