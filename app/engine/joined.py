"""Matrices that read the same input, joined into one without holding them twice."""

import torch


def joined(parameters: list[torch.nn.Parameter]) -> torch.Tensor:
    """The parameters [outputs, inputs] below one another; each becomes a view of its part."""
    whole = torch.cat([parameter.data for parameter in parameters])
    parts = torch.split(whole, [parameter.shape[0] for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.data = part
    return whole
