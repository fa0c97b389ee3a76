"""Who may do what: callers, their keys, their limits."""
