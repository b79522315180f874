"""The machine: processor and what it is fast in, memory, disk, load, GPU."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import psutil

from fastslow.doctor.findings import Finding, gb, ok, problem, warning
from fastslow.policy.embedded import CACHE_VARIABLE, cache_dir

INSTRUCTIONS = {
    "avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX-512 bf16", "amx_tile": "AMX", "amx_bf16": "AMX bf16",
}  # fmt: skip
LITTLE_MEMORY = 5.5e9
"""Bytes that the demo takes at most, with some room for the system."""
LITTLE_DISK = 2.5e9
"""Bytes: one checkpoint of the embedded model (1.6 GB) and a little more; the unpacked model takes 0.6 GB."""
_CGROUP = Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 60


def examine_machine(out: Path, threads: int | None = None, device: str = "auto") -> list[Finding]:
    """Findings about this machine; ``out`` is where runs go. Takes a second or two."""
    return [
        _processor(threads),
        _load(),
        _memory(),
        *_disks(out),
        *_graphics(device),
        *_dtype(device),
    ]


def _processor(threads: int | None) -> Finding:
    from fastslow.policy import compute

    cores = usable_cores()
    wanted = threads or compute.usable_cores()
    found = f"{psutil.cpu_count(logical=False) or '?'} cores, {os.cpu_count()} threads, {_instructions()}"
    if wanted > cores:
        return warning("processor", f"{found}; {wanted} torch threads on {cores:g} usable",
                       f"set model.threads: {max(1, int(cores))}, so that they don't wait for each other")  # fmt: skip
    return ok("processor", f"{found}; {wanted} torch threads")


def usable_cores() -> float:
    """Cores this process may use: its affinity, and the container's quota."""
    from fastslow.policy import compute

    affinity = compute.usable_cores()
    quota = _read(_CGROUP / "cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        return min(affinity, int(quota[0]) / int(quota[1]))
    return affinity


def _instructions() -> str:
    flags = set(re.findall(r"\w+", _read(Path("/proc/cpuinfo")).partition("flags")[2].partition("\n")[0]))
    return ", ".join(name for flag, name in INSTRUCTIONS.items() if flag in flags) or "instruction sets unknown"


def _load() -> Finding:
    """Two busy processes on the same cores slow each other down far more than by half."""
    busy, cores = os.getloadavg()[0], usable_cores()
    if busy > 0.5 * cores:
        return warning("load", f"{busy:.1f} on {cores:g} cores in the last minute",
                       "another busy process at least halves torch's speed here: stop it, or wait for it")  # fmt: skip
    return ok("load", f"{busy:.1f} on {cores:g} cores in the last minute")


def available_memory() -> int:
    """Bytes that a new process may take: free and reclaimable memory, or what the container's limit leaves."""
    limit = _cgroup_limit()
    free = psutil.virtual_memory().available
    return free if limit is None else min(free, max(0, limit - _cgroup_used()))


def _memory() -> Finding:
    total, limit, free = psutil.virtual_memory().total, _cgroup_limit(), available_memory()
    found = f"{gb(free)} available of {gb(total)}"
    if limit is not None and limit < total:
        found += f"; this container may use {gb(limit)}"
    if free < LITTLE_MEMORY:
        return warning("memory", found, f"the demo takes up to {gb(LITTLE_MEMORY)}: close something, or see "
                       "slow.token_budget, which bounds what training holds")  # fmt: skip
    return ok("memory", found)


def _cgroup_limit() -> int | None:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        text = _read(_CGROUP / name).strip()
        if text.isdigit() and int(text) < _NO_LIMIT:
            return int(text)
    return None


def _cgroup_used() -> int:
    for name in ("memory.current", "memory/memory.usage_in_bytes"):
        text = _read(_CGROUP / name).strip()
        if text.isdigit():
            return int(text)
    return 0


def free_disk(folder: Path) -> int:
    """Bytes free where ``folder`` is or would be made."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free


def _disks(out: Path) -> list[Finding]:
    found = []
    for name, folder, mend in (
        ("disk for runs", out, "make room, or choose another folder with --out"),
        ("disk for models", cache_dir(), f"make room, or set {CACHE_VARIABLE} to another folder"),
    ):
        there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
        free = free_disk(folder)
        text = f"{gb(free)} free at {there}"
        if not os.access(there, os.W_OK):
            found.append(problem(name, f"{there} can't be written to", mend))
        else:
            found.append(ok(name, text) if free > LITTLE_DISK else warning(name, text, mend))
    return found


def _graphics(device: str) -> list[Finding]:
    import torch

    if torch.cuda.is_available():
        found = []
        for i in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(i)
            bf16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
            found.append(ok("GPU", f"{torch.cuda.get_device_name(i)}, {gb(free)} free of {gb(total)}, {bf16}"))
        return found
    driver = _read(Path("/proc/driver/nvidia/version"))
    if driver or shutil.which("nvidia-smi"):
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        return [warning("GPU", f"a driver is here, but torch {torch.__version__} ({built}) can't use it",
                        "install the torch build that suits the driver, or update the driver")]  # fmt: skip
    if device.startswith("cuda"):
        return [problem("GPU", f"none, and model.device is {device}", "set model.device: auto")]
    return [ok("GPU", "none; the CPU is used")]


def _dtype(device: str) -> list[Finding]:
    """What ``auto`` picks, and the measured reason."""
    import torch

    from fastslow.errors import ModelError
    from fastslow.policy import compute

    try:
        chosen = compute.pick_device(device)
    except ModelError as error:
        return [problem("dtype", str(error), "set model.device: auto")]
    products = compute.pick_matmul("auto", chosen)
    compute.set_matmul(products)
    picked = str(compute.pick_dtype("auto", chosen)).removeprefix("torch.")
    if chosen.type == "cuda":
        return [ok("dtype", f"auto is {picked} on {chosen}")]
    seconds = compute.decoding_seconds()
    times = [f"{str(d).removeprefix('torch.')} {1e6 * seconds[d]:,.0f} µs" for d in (torch.float32, torch.bfloat16)]
    library = "oneDNN" if products == "onednn" else "PyTorch's default library"
    measured = f"a decoding step's product takes {', '.join(times)} (measured; float32 by {library})"
    return [ok("dtype", f"auto is {picked}: {measured}")]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
