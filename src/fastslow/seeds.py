"""One seed tree: every random stream of a run is a named descendant of the run's one seed."""

from __future__ import annotations

import hashlib


def derive_seed(root: int, *path: str | int) -> int:
    """A 63-bit seed for the stream named by ``path`` under ``root``; the same on every machine and process.

    >>> derive_seed(0, "slow", 3) == derive_seed(0, "slow", 3)
    True
    """
    text = "/".join([str(root), *(f"{type(p).__name__}:{p}" for p in path)])
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> 1
