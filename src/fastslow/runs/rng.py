"""Every random generator's state, as tensors and JSON: a checkpoint puts the streams back where they were."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def rng_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """States of ``random``, numpy's legacy generator and torch (CPU and every CUDA device).

    Returns (tensors, json): both go into a checkpoint; :func:`set_rng_state` takes them back.
    """
    import numpy
    import torch

    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = numpy.random.get_state()
    tensors = {"torch_cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"torch_cuda_{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    state = {
        "python": [version, list(words), gauss],
        "numpy": [name, keys.tolist(), int(position), int(has_gauss), float(cached)],
    }
    return tensors, state


def set_rng_state(tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Put back what :func:`rng_state` gave; states of CUDA devices that this machine lacks are left out."""
    import numpy
    import torch

    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    numpy.random.set_state((name, numpy.array(keys, dtype=numpy.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["torch_cpu"])
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if f"torch_cuda_{index}" in tensors:
            torch.cuda.set_rng_state(tensors[f"torch_cuda_{index}"], index)
