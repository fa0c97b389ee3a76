"""The base model, and the one place where a conversation becomes model inputs."""
