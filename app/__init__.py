"""Overtone: one resident base audio-language model, many LoRA adapters over it."""

__version__ = "0.1.0"
