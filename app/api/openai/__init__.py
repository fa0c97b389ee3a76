"""OpenAI's HTTP shapes over the same service: `/v1/…`."""
