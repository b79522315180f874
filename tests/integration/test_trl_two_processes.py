"""FSTTrainer on two processes, over gloo on the CPU.

Behaviours locked: after two cycles both processes hold equal weights, population and archive; a group that spans the
processes is one group; killed and resumed, a run ends in the same place; a failure on one process ends both with its
message, and none hangs; FSDP2 shards, samples and trains.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from trl_fakes import tiny_folder

WORKER = Path(__file__).with_name("trl_worker.py")
CPU = Path(__file__).resolve().parents[2] / "configs" / "accelerate" / "cpu.yaml"
WATCHDOG = 120  # seconds; a launch takes about 15


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("tiny"))


def launch(*arguments: object, config: Path = CPU) -> subprocess.CompletedProcess[str]:
    """``accelerate launch`` of two workers; what is left after the watchdog's time is killed and fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config),
        "--main_process_port", str(port), str(WORKER), *map(str, arguments),
    ]  # fmt: skip
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env={**os.environ, **offline}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=WATCHDOG)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(f"two processes hung for {WATCHDOG} s:\n{output[-3000:]}")
    return subprocess.CompletedProcess(command, process.returncode, output, "")


def ends(out: Path) -> tuple[dict, dict]:
    first, second = (json.loads((out / f"rank{r}.json").read_text()) for r in (0, 1))
    return first, second


def test_two_cycles_a_kill_and_a_resume(folder, tmp_path):
    done = launch(folder, tmp_path / "whole")
    assert done.returncode == 0, done.stdout[-3000:]
    first, second = ends(tmp_path / "whole")
    assert first == second
    assert first["cycles"] == [0, 1] and first["step"] == 4 and first["sharded"] == 0
    assert len(first["population"]["archive"]) > 1
    assert [len(set(group)) for group in first["groups"]] == [1] * 4 and all(len(g) == 8 for g in first["groups"])

    killed = launch(folder, tmp_path / "part", "--kill-at", 3)
    assert killed.returncode != 0 and (tmp_path / "part" / "checkpoint-2" / "fastslow.json").is_file()
    resumed = launch(folder, tmp_path / "part", "--resume")
    assert resumed.returncode == 0, resumed.stdout[-3000:]
    again, twin = ends(tmp_path / "part")
    assert again == twin
    for key in ("weights", "population", "rollouts", "step"):
        assert again[key] == first[key], key


def test_a_failure_on_one_ends_both_with_its_message(folder, tmp_path):
    done = launch(folder, tmp_path, "--fail")
    assert done.returncode != 0
    told = [line for line in done.stdout.splitlines() if "process 1: ValueError: the scorer broke" in line]
    assert {line.split("]")[0] for line in told} >= {"[rank0", "[rank1"}, done.stdout[-3000:]


def test_fsdp2_shards_samples_and_trains(folder, tmp_path):
    config = tmp_path / "fsdp2.yaml"
    text = (CPU.parent / "fsdp2.yaml").read_text()
    for old, new in [("bf16", "'no'"), ("num_processes: 8", "num_processes: 2"), ("use_cpu: false", "use_cpu: true"),
                     ("efficient_loading: true", "efficient_loading: false")]:  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    config.write_text(text)
    done = launch(folder, tmp_path / "out", "--fsdp2", config=config)
    assert done.returncode == 0, done.stdout[-3000:]
    first, second = ends(tmp_path / "out")
    assert first == second and first["sharded"] > 0 and first["cycles"] == [0, 1]
