"""Which device, how many threads, and which dtype is faster here. Measured once, because it differs by machine:
bfloat16 wins with AVX-512/AMX or on a GPU and loses about sevenfold on a CPU that has only AVX2."""

from __future__ import annotations

import ctypes
import os
import time
from functools import cache

import torch

from fastslow.errors import ModelError

_PROBE_SHAPE = (64, 576, 1536)  # rows, in, out: a decoding step of a small model
_PROBE_TRIES = 30
_WORTH_IT = 1.2  # bfloat16 costs accuracy, so it has to be clearly faster
_AS_EXACT = 8.0  # times the default's largest error: another order of summation, and no narrower numbers


def pick_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"model.device: {name!r} can't be used here; use auto or cpu ({str(error).splitlines()[0]})"
        ) from None
    return device


def usable_cores() -> int:
    """Cores that this process may run on: with ``taskset`` or in a container fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def set_threads(threads: int | None) -> None:
    torch.set_num_threads(threads or usable_cores())


def keep_freed_memory() -> bool:
    """Ask glibc to keep freed memory for the next forward instead of giving it back to the system.

    A training step frees and takes gigabytes, and every page that comes back from the system is cleared and mapped
    anew: about a fifth of an update on a virtual machine. Peak memory stays the same. False where there is no glibc.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        mmap_max, trim_threshold = -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
        return bool(libc.mallopt(mmap_max, 0) and libc.mallopt(trim_threshold, 2**31 - 1))
    except (OSError, AttributeError):
        return False


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is bfloat16 where a matrix product of a decoding step is clearly faster in it."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if _bfloat16_speedup() > _WORTH_IT else torch.float32


def pick_matmul(name: str, device: torch.device) -> str:
    """``auto`` is ``onednn`` where its float32 products are clearly faster than the default library's, and as exact.

    MKL, which PyTorch takes by default, leaves AVX-512 unused on processors that are not Intel's: half the speed.
    """
    if name != "auto":
        return name
    if device.type != "cpu" or not _has_matmul_switch():
        return "default"
    seconds, errors = _matmuls()
    faster = seconds["default"] > _WORTH_IT * seconds["onednn"]
    return "onednn" if faster and errors["onednn"] <= _AS_EXACT * errors["default"] else "default"


def set_matmul(name: str) -> None:
    """Send this process's float32 matrix products on a CPU to ``onednn``, or back to the ``default`` library.

    PyTorch's switch allows oneDNN narrower numbers inside and so takes it. Whether the processor then has a way to use
    them, :func:`pick_matmul` has measured.
    """
    if _has_matmul_switch():
        torch.backends.mkldnn.matmul.fp32_precision = "bf16" if name == "onednn" else "none"


def _has_matmul_switch() -> bool:
    """PyTorch 2.9 and newer, built with oneDNN."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.backends.mkldnn, "matmul")


@cache
def _matmuls() -> tuple[dict[str, float], dict[str, float]]:
    """Seconds and largest error of one float32 product of a decoding step, by library; measured once, in turns."""
    rows, width, out = _PROBE_SHAPE
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(n, width, generator=generator) for n in (rows, out))
    exact = x.double() @ w.double().t()
    seconds = {"default": float("inf"), "onednn": float("inf")}
    errors = dict.fromkeys(seconds, 0.0)
    before = torch.backends.mkldnn.matmul.fp32_precision
    for _ in range(_PROBE_TRIES):
        for name in seconds:
            set_matmul(name)
            start = time.perf_counter()
            product = torch.nn.functional.linear(x, w)
            seconds[name] = min(seconds[name], time.perf_counter() - start)
            errors[name] = float((product - exact).abs().max())
    torch.backends.mkldnn.matmul.fp32_precision = before
    return seconds, errors


def _bfloat16_speedup() -> float:
    seconds = decoding_seconds()
    return seconds[torch.float32] / seconds[torch.bfloat16]


@cache
def decoding_seconds() -> dict[torch.dtype, float]:
    """Seconds of one matrix product of a decoding step on this CPU, by dtype; measured once.

    The best of many tries, in turns: on a busy machine a few tries may all be slow, and of one dtype only.
    """
    rows, width, out = _PROBE_SHAPE
    dtypes = (torch.float32, torch.bfloat16)
    inputs = {d: (torch.ones(rows, width, dtype=d), torch.ones(out, width, dtype=d)) for d in dtypes}
    seconds = dict.fromkeys(dtypes, float("inf"))
    for _ in range(_PROBE_TRIES):
        for dtype, (x, w) in inputs.items():
            start = time.perf_counter()
            torch.nn.functional.linear(x, w)
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - start)
    return seconds
