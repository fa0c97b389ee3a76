"""The audio encoder in the engine: embeddings with their cache, pooled vectors, classifiers."""
