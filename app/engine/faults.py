"""What a failure inside the engine means for the request that met it."""

import torch

from app.errors import EngineFault, OutOfMemory, OvertoneError

# torch tells of these as plain RuntimeError
_NO_MEMORY = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def fault_of(error: Exception, failed: str) -> OvertoneError:
    """The domain error for ``error``; ``failed``: the sentence for one that is neither ours nor about memory."""
    if isinstance(error, OvertoneError):
        return error
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(part in str(error) for part in _NO_MEMORY):
        return OutOfMemory()
    return EngineFault(failed)
