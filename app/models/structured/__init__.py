"""Answers by a schema: JSON schemas, the grammar that holds them, and calls of tools."""
