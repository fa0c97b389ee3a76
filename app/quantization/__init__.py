"""Weights at rest: formats of the language model's matrices, the layer that computes with them, and their files."""
