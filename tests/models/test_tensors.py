"""Tensors read by us are those that the safetensors package reads, and others go on meanwhile."""

import itertools
import threading
import time

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from app.models.weights.tensors import read_tensors

DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2,
)  # fmt: skip


def test_every_dtype_and_shape_is_as_the_package_reads_it(tmp_path):
    shapes = [(), (0,), (3,), (2, 5), (2, 0, 4), (1, 2, 3, 4)]
    tensors = {
        f"{dtype}-{shape}": (10 * torch.randn(shape)).to(dtype) for dtype in DTYPES for shape in shapes
    }  # of odd numbers of bytes, so that many begin where their dtype is not aligned
    save_file(tensors, tmp_path / "all.safetensors", {"format": "pt"})
    found, reference = read_tensors(tmp_path / "all.safetensors"), load_file(tmp_path / "all.safetensors")
    assert found.keys() == reference.keys()
    for name, tensor in reference.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name].flatten().view(torch.uint8), tensor.flatten().view(torch.uint8)), name


@pytest.mark.parametrize("kept", [0, 7, 30, -1])
def test_what_is_cut_off_is_refused_by_name(tmp_path, kept):
    file = tmp_path / "cut.safetensors"
    save_file({"weight": torch.ones(100)}, file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(SafetensorError, match=r"cut\.safetensors"):
        read_tensors(file)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises((OSError, SafetensorError)):
        read_tensors(tmp_path / "absent.safetensors")


def test_other_threads_run_while_a_large_file_is_read(tmp_path):
    """Whoever copies tensors with the interpreter's lock held stops every stream for as long."""
    file = tmp_path / "large.safetensors"
    save_file({str(index): torch.ones(1 << 22) for index in range(16)}, file)  # 256 MiB
    read_tensors(file)  # it lies in the page cache from now on
    ticks, done = [], threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0005)

    ticker = threading.Thread(target=tick)
    ticker.start()
    begun = time.perf_counter()
    read_tensors(file)
    ended = time.perf_counter()
    done.set()
    ticker.join()
    inside = [begun, *(moment for moment in ticks if begun < moment < ended), ended]
    longest = max(later - earlier for earlier, later in itertools.pairwise(inside))
    assert longest < (ended - begun) / 4
