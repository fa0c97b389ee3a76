"""`/v1/…`: the shapes of OpenAI's API, and of vLLM's for adapters, so that their clients work unchanged."""
