"""How much of a device a process may take, and the errors that mean that a device or the host has no memory left."""

import torch

CONTEXT = 600 * 10**6  # bytes of CUDA itself, taken when a process first uses the device
LIBRARIES = 300 * 10**6  # bytes of code and handles of cuBLAS, cuDNN and Triton, loaded as they are needed
MARGIN = 300 * 10**6  # bytes of PyTorch's reserve in pieces that nothing fits into
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


def device_cap(device: torch.device, gpu_gb: float | None, held: int = 0) -> int | None:
    """Bytes that a process may take of a CUDA device, CUDA's own included; None on a CPU.

    That is what is free, and ``held``: bytes of its tensors that are to be counted, such as the weights. ``gpu_gb``: an
    upper limit in 10^9 bytes, or None.
    """
    if device.type != "cuda":
        return None
    free = torch.cuda.mem_get_info(device)[0]  # first: this starts CUDA where nothing has
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    there = free + held + CONTEXT
    return there if gpu_gb is None else min(there, int(gpu_gb * 1e9))


def left_bytes(device: torch.device, gpu_gb: float | None) -> int | None:
    """Bytes of a CUDA device that this process may still allocate, less what libraries and fragments take.

    ``gpu_gb``: as for `device_cap`. None on a CPU.
    """
    if device.type != "cuda":
        return None
    held = torch.cuda.memory_allocated(device)
    cap = device_cap(device, gpu_gb, held)
    assert cap is not None
    return cap - CONTEXT - LIBRARIES - MARGIN - held


def cap_allocator(device: torch.device, gpu_gb: float | None) -> None:
    """Have PyTorch allocate no more than the cap of a CUDA device, so that nothing exceeds it, planned or not."""
    if gpu_gb is not None:
        total = torch.cuda.get_device_properties(device).total_memory
        allowed = max(1, int(gpu_gb * 1e9) - CONTEXT)
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total), index)


def gb(size: int, digits: int = 1, down: bool = False) -> str:
    """Bytes in 10^9, rounded up or ``down``, so that a figure never promises what does not fit."""
    unit: int = 10 ** (9 - digits)
    return f"{(size // unit if down else -(-size // unit)) / 10**digits:.{digits}f}"
