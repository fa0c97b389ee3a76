"""Requests and answers of the native API; those in OpenAI's shape are in `openai`."""
