"""Locks: a checkpoint is whole or absent at every kill and full disk; damage is named, never loaded, never skipped."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch

from fastslow.errors import RunError
from fastslow.runs import checkpoint as module
from fastslow.runs.checkpoint import (
    keep_last_weights,
    latest_checkpoint,
    load_checkpoint,
    load_latest,
    remove_strays,
    save_checkpoint,
    verify_checkpoint,
)
from fastslow.runs.rng import rng_state, set_rng_state

torch.set_num_threads(1)


def contents(step: int):
    weights = {"a": torch.arange(6, dtype=torch.float32).reshape(2, 3) + step, "b": torch.ones(3, dtype=torch.bfloat16)}
    optimizer = {"a.exp_avg": torch.full((2, 3), step / 7), "step": torch.tensor(step)}
    return {"weights": weights, "optimizer": optimizer}, {"step": step, "text": "\ud800日", "x": 0.1, "none": None}


def save(folder, step: int, keep: int = 9):
    return save_checkpoint(folder, step, *contents(step), keep)


def assert_holds(loaded, step: int) -> None:
    tensors, state = loaded
    expected_tensors, expected_state = contents(step)
    assert state == expected_state
    assert tensors.keys() == expected_tensors.keys()
    for name, group in expected_tensors.items():
        assert tensors[name].keys() == group.keys()
        for key, tensor in group.items():
            assert tensors[name][key].dtype == tensor.dtype and torch.equal(tensors[name][key], tensor)


def one_line(caught) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_saved_is_loaded_to_the_bit(tmp_path):
    assert load_latest(tmp_path / "none") is None and latest_checkpoint(tmp_path / "none") is None
    path = save(tmp_path / "c", 12)
    assert path.name == "step-000012"
    assert {p.name for p in path.iterdir()} == {
        "weights.safetensors",
        "optimizer.safetensors",
        "state.json",
        "manifest.json",
    }
    assert_holds(load_checkpoint(path), 12)
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["step"] == 12 and manifest["versions"]["torch"] and manifest["versions"]["python"]
    assert manifest["files"]["state.json"]["size"] == (path / "state.json").stat().st_size


def test_only_the_newest_are_kept_and_steps_sort_as_numbers(tmp_path):
    for step in (2, 999_999, 1_000_000):
        save(tmp_path, step, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-1000000", "step-999999"]
    assert latest_checkpoint(tmp_path).name == "step-1000000"
    (tmp_path / "step-1000000" / "state.json").unlink()
    with pytest.raises(RunError, match="the previous one is step-999999"):
        load_latest(tmp_path)
    save(tmp_path, 1_000_001, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-1000001"]


def test_of_a_finished_run_the_last_weights_can_be_kept_alone(tmp_path):
    keep_last_weights(tmp_path / "none")
    save(tmp_path, 11), save(tmp_path, 12)
    keep_last_weights(tmp_path)
    path, tensors, state = load_latest(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [
        "manifest.json", "state.json", "weights.safetensors",
    ]  # fmt: skip
    assert path.name == "step-000012" and state == contents(12)[1]
    assert torch.equal(tensors["weights"]["a"], contents(12)[0]["weights"]["a"]) and set(tensors) == {"weights"}
    verify_checkpoint(path)
    keep_last_weights(tmp_path)
    verify_checkpoint(path)


def test_the_same_step_may_be_saved_again(tmp_path):
    save(tmp_path, 3)
    tensors, state = contents(3)
    save_checkpoint(tmp_path, 3, tensors, {**state, "x": 0.2}, keep=1)
    assert load_latest(tmp_path)[2]["x"] == 0.2
    assert [p.name for p in tmp_path.iterdir()] == ["step-000003"]


FILES = ("weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "empty"])
def test_any_damage_is_named_with_the_previous_good_one(tmp_path, name, damage):
    for step in (1, 2, 3):
        save(tmp_path, step)
    (tmp_path / "step-000002" / "weights.safetensors").unlink()  # not good either, so step 1 is the one to go back to
    file = tmp_path / "step-000003" / name
    data = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(data[:-1])
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        data[len(data) * 2 // 3] ^= 1
        file.write_bytes(data)
    with pytest.raises(RunError) as caught:
        load_latest(tmp_path)
    line = one_line(caught)
    assert f"step-000003: damaged checkpoint: {name}" in line
    assert "delete this folder; the previous one is step-000001" in line
    if damage != "flipped" or name == "manifest.json":  # what can be seen without reading every byte
        assert latest_checkpoint(tmp_path).name == "step-000001"


def test_every_flipped_bit_of_a_manifest_is_noticed(tmp_path):
    file = save(tmp_path, 1) / "manifest.json"
    data = file.read_bytes()
    for position in range(len(data)):
        file.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        if json_equal(file.read_bytes(), data):
            continue  # white space: another text of the same manifest
        with pytest.raises(RunError):
            load_checkpoint(file.parent)


def json_equal(a: bytes, b: bytes) -> bool:
    try:
        return json.loads(a) == json.loads(b)
    except ValueError:
        return False


def test_a_renamed_or_swapped_checkpoint_is_refused(tmp_path):
    save(tmp_path, 1).rename(tmp_path / "step-000005")
    with pytest.raises(RunError, match="belongs to step 1; delete this folder; there is no earlier one"):
        load_latest(tmp_path)


def test_a_manifest_cannot_point_outside(tmp_path):
    path = save(tmp_path, 1)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest.pop("digest")
    manifest["files"]["../secret.json"] = {"sha256": "", "size": 0}
    (path / "manifest.json").write_text(json.dumps({**manifest, "digest": module._digest(manifest)}))
    with pytest.raises(RunError, match="lists files of no checkpoint"):
        load_checkpoint(path)


def test_tied_tensors_and_odd_names_are_refused_and_views_are_not(tmp_path):
    shared = torch.zeros(8)
    with pytest.raises(ValueError, match="'embed' and 'head' share memory; pass tied tensors once"):
        save_checkpoint(tmp_path, 1, {"weights": {"head": shared, "embed": shared}}, {}, 1)
    with pytest.raises(ValueError, match="share memory"):
        save_checkpoint(tmp_path, 1, {"weights": {"a": shared[:5], "b": shared[4:]}}, {}, 1)
    with pytest.raises(ValueError, match="lower-case"):
        save_checkpoint(tmp_path, 1, {"../w": {"a": shared}}, {}, 1)
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path, 1, {}, {"no": {1}}, 1)
    assert list(tmp_path.iterdir()) == []
    parts = torch.arange(8.0)
    path = save_checkpoint(
        tmp_path, 1, {"w": {"a": parts[:4], "b": parts[4:], "t": torch.arange(6.0).reshape(2, 3).T}}, {}, 1
    )
    loaded = load_checkpoint(path)[0]["w"]
    assert torch.equal(loaded["b"], parts[4:]) and torch.equal(loaded["t"], torch.arange(6.0).reshape(2, 3).T)


CALLS = ("mkdir", "fsync", "rename", "rmdir", "unlink")


@pytest.mark.parametrize("again", [False, True], ids=["next step", "same step again"])
def test_a_kill_at_any_moment_leaves_a_good_checkpoint_and_the_next_save_cleans_up(tmp_path, again):
    kills = 0
    for name in CALLS:
        for count in range(1, 40):
            folder = tmp_path / f"{name}-{count}"
            save(folder, 1)
            save(folder, 2)
            step = 2 if again else 3
            child = os.fork()
            if child == 0:
                die_at(name, count)
                save(folder, step, keep=1)
                os._exit(7)
            if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7:
                break
            kills += 1
            remove_strays(folder)  # as a resumed run does
            for left in folder.iterdir():  # nothing but whole checkpoints
                assert left.name.startswith("step-") and verify_checkpoint(left)
            path, *loaded = load_latest(folder)
            assert_holds(loaded, int(path.name[-1]))
            assert path.name in ("step-000002", f"step-{step:06d}")
    assert kills > 10


def die_at(name: str, count: int) -> None:
    """Kill this process just before the ``count``-th call of ``os.<name>``."""
    real, calls = getattr(os, name), [0]

    def call(*args, **kwargs):
        calls[0] += 1
        if calls[0] == count:
            os._exit(9)
        return real(*args, **kwargs)

    setattr(os, name, call)


@pytest.mark.parametrize("again", [False, True], ids=["next step", "same step again"])
@pytest.mark.parametrize("name", ["mkdir", "fsync", "rename"])
def test_a_full_disk_at_any_moment_is_one_line_and_keeps_the_last_good_one(tmp_path, monkeypatch, name, again):
    real, failures = getattr(os, name), 0
    for count in range(1, 40):
        folder = tmp_path / str(count)
        save(folder, 1)
        calls = [0]

        def full(*args, calls=calls, count=count, **kwargs):
            calls[0] += 1
            if calls[0] == count:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            try:
                save(folder, 1 if again else 2)
                if calls[0] < count:
                    break
                continue  # making a folder that is there already
            except RunError as error:
                line = str(error)
        failures += 1
        assert "the disk is full" in line and "needed" in line and "free" in line and "\n" not in line
        path, *loaded = load_latest(folder)
        assert_holds(loaded, int(path.name[-1]))
        assert not list(folder.glob(".tmp-*"))
    assert failures


def test_too_little_room_is_told_before_a_byte_is_written(tmp_path, monkeypatch):
    save(tmp_path, 1)
    monkeypatch.setattr(module, "free_bytes", lambda _: 10)
    with pytest.raises(RunError, match="the disk is full"):
        save(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]


def test_a_disk_that_refuses_the_tensors_themselves_is_one_line(tmp_path):
    save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(RunError) as caught:
            save_checkpoint(tmp_path, 2, {"weights": {"a": torch.zeros(100_000)}}, {}, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in one_line(caught)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]


def test_a_disk_that_is_really_full(tmp_path, monkeypatch):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a small disk here")
    try:
        monkeypatch.setattr(module, "_HEADER_BYTES", 0)
        save(tmp_path, 1)
        for reckoned in (True, False):
            if not reckoned:
                monkeypatch.setattr(module, "free_bytes", lambda _: 1 << 40)
            with pytest.raises(RunError) as caught:
                save_checkpoint(tmp_path, 2, {"weights": {"a": torch.zeros(250_000)}}, {}, 1)
            assert "the disk is full (976.6 KiB needed" in one_line(caught)
            assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]
            assert_holds(load_latest(tmp_path)[1:], 1)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_random_streams_go_on_where_they_were(tmp_path):
    def draw():
        return random.gauss(0, 1), random.random(), np.random.standard_normal(3).tolist(), torch.rand(3).tolist()

    random.gauss(0, 1), np.random.standard_normal()  # both keep a second normal draw in hand
    tensors, state = rng_state()
    path = save_checkpoint(tmp_path, 1, {"rng": tensors}, {"rng": state}, 1)
    expected = [draw(), draw()]
    loaded, read = load_checkpoint(path)
    set_rng_state(loaded["rng"], read["rng"])
    assert [draw(), draw()] == expected


def test_importing_runs_does_not_import_torch():
    code = (
        "import sys, fastslow.runs.directory, fastslow.runs.metrics, fastslow.runs.ledger, fastslow.runs.checkpoint, "
        "fastslow.runs.rng; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
