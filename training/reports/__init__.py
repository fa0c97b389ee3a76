"""A run as people see it: console, curves, metrics, comparisons."""
