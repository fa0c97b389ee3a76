"""Adapters in the engine: layers, stacked weights, slots, the host cache, and the manager of residency."""
