"""Synthetic speech: voices, accents, sounds and rooms, down to log-mel shards."""
