"""Access control: callers, their keys, their limits."""
