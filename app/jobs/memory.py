"""Memory for training on the device that serves."""

import torch


def shortage(free_bytes: int, needed: int) -> str | None:
    """A sentence why training that takes ``needed`` bytes does not fit, with a way on; None when it fits."""
    if free_bytes >= needed:
        return None
    return (
        f"Training needs about {needed / 1e9:.1f} GB on this GPU and {free_bytes / 1e9:.1f} GB are free: start the "
        "service with OVERTONE_GPU_GB lower by what is missing, or train on another machine and upload the adapter."
    )


def shortage_on(device: torch.device, needed: int) -> str | None:
    """The same for a device as it is now. On a CPU there is no shortage: main memory is not divided beforehand."""
    if device.type != "cuda":
        return None
    return shortage(torch.cuda.mem_get_info(device)[0], needed)
