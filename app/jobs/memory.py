"""May a model be trained on the device that serves? Decided from numbers alone."""

import torch

_FIXED = 2 << 30  # bytes: CUDA context, kernels, allocator
_SHARE = 1.5  # of the weights: the trainer's own copy, and activations, gradients and optimizer of an adapter


def needed(weight_bytes: int) -> int:
    """What training beside the service takes, bytes. An estimate on the high side."""
    return int(weight_bytes * _SHARE) + _FIXED


def shortage(free_bytes: int, weight_bytes: int) -> str | None:
    """Why training does not fit into ``free_bytes``, with what to do; None when it does."""
    if free_bytes >= needed(weight_bytes):
        return None
    return (
        f"Training needs about {needed(weight_bytes) / 1e9:.1f} GB on this GPU and {free_bytes / 1e9:.1f} GB are free: "
        "start the service with a smaller OVERTONE_KV_GB, or train on another machine and upload the adapter."
    )


def shortage_on(device: torch.device, weight_bytes: int) -> str | None:
    """The same for a device as it is now. On a CPU there is no shortage: main memory is not divided beforehand."""
    if device.type != "cuda":
        return None
    return shortage(torch.cuda.mem_get_info(device)[0], weight_bytes)
