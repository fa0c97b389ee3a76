"""Sampling fields that native and OpenAI-shaped requests share."""

import secrets


def seed_or_random(seed: int | None) -> int:
    """The request's seed, or one drawn at random; the answer reports it."""
    return secrets.randbits(31) if seed is None else seed
