"""Requests and answers in the shapes of OpenAI's API, and of vLLM's for adapters."""
