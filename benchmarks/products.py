"""What the machine's matrix products do, by dtype and library, and a context's causal attention to itself, two ways.

python benchmarks/products.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from common import median, write_section
from torch.nn import functional as F

from fastslow.policy import compute
from fastslow.policy.blocked_attention import BlockedCausalAttention

ROWS, WIDTH, OUT = 1536, 576, 1536  # an MLP of SmolLM2-135M over a micro-batch
HEADS, KEY_HEADS, HEAD_WIDTH = 9, 3, 64
TRIES = 15


def seconds(call: Callable[[], object]) -> float:
    """Median of several calls after two that warm up."""
    taken = []
    for _ in range(TRIES + 2):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return median(taken[2:])


def product_row(name: str, dtype: torch.dtype, library: str) -> list[str]:
    compute.set_matmul(library)
    x, w = torch.randn(ROWS, WIDTH, dtype=dtype), torch.randn(OUT, WIDTH, dtype=dtype)
    rate = 2 * ROWS * WIDTH * OUT / seconds(lambda: F.linear(x, w)) / 1e9
    compute.set_matmul("default")
    return [f"product, {name}", f"{rate:.0f} GFLOP/s"]


def attention_row(name: str, tokens: int, attend: Callable[..., torch.Tensor]) -> list[str]:
    heads = (HEADS, KEY_HEADS, KEY_HEADS)
    q, k, v = (torch.randn(h, tokens, HEAD_WIDTH, dtype=torch.bfloat16).requires_grad_() for h in heads)
    taken = seconds(lambda: attend(q, k, v).sum().backward())
    return [f"attention of {tokens:,} tokens, forward and backward, {name}", f"{1e3 * taken:.1f} ms"]


def fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, enable_gqa=True)


def blocked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return BlockedCausalAttention.apply(q, k, v, HEAD_WIDTH**-0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    args = parser.parse_args()
    compute.set_threads(None)
    rows = [
        product_row("bfloat16", torch.bfloat16, "default"),
        product_row("float32, PyTorch's default library", torch.float32, "default"),
        product_row("float32, oneDNN", torch.float32, "onednn"),
        *(
            attention_row(name, tokens, attend)
            for tokens in (256, 1024)
            for name, attend in (("PyTorch's fused kernel", fused), ("in blocks", blocked))
        ),
    ]
    title = f"{ROWS} x {WIDTH} by {WIDTH} x {OUT}; {HEADS} heads over {KEY_HEADS}, bfloat16; median of {TRIES}"
    write_section("products", title, ["what", "measured"], rows, write=args.write)


if __name__ == "__main__":
    main()
