"""Whether an error means that a device, or the host, has run out of memory."""

import torch

# The libraries below torch report it as a plain RuntimeError. They make their handles on first use, which is the usual
# cause of NOT_INITIALIZED: there was no memory for one.
_SAYINGS = (
    "out of memory",  # CUDA, HIP, the CUDA driver, Triton's launcher
    "out of resource",  # Triton's compiler
    "DefaultCPUAllocator",
    "cudaErrorMemoryAllocation",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUSPARSE_STATUS_ALLOC_FAILED",
    "CUFFT_ALLOC_FAILED",
    "NVRTC_ERROR_OUT_OF_MEMORY",
)


def is_out_of_memory(error: BaseException) -> bool:
    """True for torch's own error, Python's, and what CUDA's libraries and Triton raise for want of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    kinds = {kind.__name__ for kind in type(error).__mro__}
    known = isinstance(error, RuntimeError) or "TritonError" in kinds or "OutOfResources" in kinds
    return known and any(saying in str(error) for saying in _SAYINGS)
