"""What counts as a lack of memory, by the words that torch, CUDA's libraries and Triton have for it."""

from types import SimpleNamespace

import pytest
import torch

from app.models.device_memory import cap_allocator, is_out_of_memory

SAID = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: 1 bytes"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
]
OTHERS = [
    RuntimeError("self and mat2 must have the same dtype, but got Float and BFloat16"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    ValueError("the words out of memory in a value"),
    OSError(28, "No space left on device"),
]


@pytest.mark.parametrize("error", SAID, ids=str)
def test_these_are(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_these_are_not(error):
    assert not is_out_of_memory(error)


def test_tritons_own():
    errors = pytest.importorskip("triton.runtime.errors")
    assert is_out_of_memory(errors.OutOfResources(1 << 18, 1 << 16, "shared memory"))
    assert not is_out_of_memory(errors.PTXASError("syntax"))


def test_a_host_that_has_none():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 46, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_the_allocator_is_capped_by_a_device_with_an_index(monkeypatch, name):
    """24 GB of 80, less what CUDA itself takes; PyTorch refuses a device without an index here."""
    asked = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=80 * 10**9))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: asked.append(given))
    cap_allocator(torch.device(name), None)
    assert not asked, "without a cap PyTorch is left as it is"
    cap_allocator(torch.device(name), 24.0)
    assert asked == [(pytest.approx(23.4 / 80), int(name == "cuda:1"))]
