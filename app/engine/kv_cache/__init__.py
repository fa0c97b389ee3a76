"""The paged KV cache: the pool of blocks and the tensors behind it."""
