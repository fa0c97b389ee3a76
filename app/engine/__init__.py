"""Batching, KV cache, multi-LoRA and decode: what Overtone exists for."""
