"""What a failure inside the engine means for the request that met it."""

from app.errors import EngineFault, OutOfMemory, OvertoneError
from app.model.device_memory import is_out_of_memory


def fault_of(error: Exception, failed: str) -> OvertoneError:
    """The domain error for ``error``; ``failed``: the sentence for one that is neither ours nor about memory."""
    if isinstance(error, OvertoneError):
        return error
    return OutOfMemory() if is_out_of_memory(error) else EngineFault(failed)
