"""All of Triton and CUDA graphs: kernels, the fused language model, its decoder, the encoder's graphs."""
