"""Classification of errors: the domain error that a request receives, and whether the device still works."""

import logging
from typing import Protocol

from app.errors import DeviceLost, EngineFault, OutOfMemory, OvertoneError
from app.models.device_memory import is_out_of_memory

log = logging.getLogger(__name__)
REQUEST_FAILED = "This request failed inside the model; others go on."


class Device(Protocol):
    """The part of `Runner` that recovery needs."""

    def alive(self) -> bool:
        """True while the device still computes."""

    def free_memory(self) -> None:
        """Free memory that can be rebuilt."""


def classify_error(error: Exception, message: str) -> OvertoneError:
    """The domain error for ``error``; ``message`` is its text unless it is one already, or about memory."""
    if isinstance(error, OvertoneError):
        return error
    return OutOfMemory() if is_out_of_memory(error) else EngineFault(message)


class FaultHandler:
    """Classifies the errors of the engine's thread and remembers their effect on the device.

    ``lost``: the device failed for good, and only a new process helps.
    """

    def __init__(self, device: Device) -> None:
        self.lost = False
        self._device = device
        self._short_of_memory = False

    def classify(self, error: Exception, message: str = REQUEST_FAILED) -> OvertoneError:
        """As `classify_error`; logs unexpected errors and sets ``lost`` when the device no longer computes."""
        fault = classify_error(error, message)
        if fault is not error:
            log.error("%s", message, exc_info=error)
        self._short_of_memory |= isinstance(fault, OutOfMemory)
        if isinstance(fault, DeviceLost):
            self.lost = True
        elif isinstance(fault, EngineFault | OutOfMemory) and not self._device.alive():
            log.critical("the device is lost; nothing is answered until the process is restarted")
            self.lost, fault = True, DeviceLost()
        return fault

    def recover_memory(self) -> None:
        """Free memory after a failed allocation. Not while its exception is handled: that still holds tensors."""
        if self._short_of_memory and not self.lost:
            self._short_of_memory = False
            self._device.free_memory()
