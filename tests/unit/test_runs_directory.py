"""Locks: no run overwritten, no run resumed under another config, one process a run, files whole or absent."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fastslow.config_io import parse_config
from fastslow.errors import RunError
from fastslow.runs import files
from fastslow.runs.directory import RunDirectory
from fastslow.runs.files import human_size, json_text, read_json, write_json


def config(**changes):
    return parse_config({"task": "chain_sum", "steps": 4, **changes})


def one_line(caught) -> str:
    text = str(caught.value)
    assert "\n" not in text and len(text) > 20
    return text


def test_a_new_run_has_its_layout_and_reads_its_config_back(tmp_path):
    with RunDirectory.create(tmp_path / "a" / "b", config(seed=7)) as run:
        assert run.load_config() == config(seed=7)
        assert {p.name for p in run.path.iterdir()} == {"config.yaml", "contexts", "checkpoints", "plots", ".lock"}
        run.write_summary({"steps": 4})
        assert run.read_summary() == {"steps": 4}


def test_a_discarded_new_run_leaves_nothing_behind(tmp_path):
    with RunDirectory.create(tmp_path / "a" / "b", config()) as run:
        run.discard()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with RunDirectory.create(tmp_path / "mine", config()) as run:
        run.discard()
    assert list((tmp_path / "mine").iterdir()) == []  # a folder that was there before stays


def test_a_run_with_anything_computed_in_it_is_not_discarded(tmp_path):
    with RunDirectory.create(tmp_path / "r", config()) as run:
        run.close()
    with RunDirectory.create(tmp_path / "r", config(), resume=True) as run:
        run.discard()
        assert run.load_config() == config()


def test_an_existing_run_is_refused_unless_resumed_and_nothing_is_resumed_from_nothing(tmp_path):
    RunDirectory.create(tmp_path / "r", config()).close()
    with pytest.raises(RunError) as caught:
        RunDirectory.create(tmp_path / "r", config())
    assert "use --resume to go on, or another --out" in one_line(caught)
    RunDirectory.create(tmp_path / "r", config(), resume=True).close()
    with pytest.raises(RunError) as caught:
        RunDirectory.create(tmp_path / "none", config(), resume=True)
    assert "leave out --resume" in one_line(caught)
    assert not (tmp_path / "none").exists()


def test_a_folder_with_other_files_or_a_file_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    for path in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(RunError) as caught:
            RunDirectory.create(path, config())
        assert "another --out" in one_line(caught)
    with pytest.raises(RunError) as caught:
        RunDirectory.create(tmp_path / "thesis.tex" / "run", config())
    one_line(caught)


def test_resume_names_the_first_key_that_differs(tmp_path):
    RunDirectory.create(tmp_path / "r", config()).close()
    with pytest.raises(RunError) as caught:
        RunDirectory.create(tmp_path / "r", config(slow={"lr": 3e-5}, keep_checkpoints=5), resume=True)
    assert "slow.lr was 1e-05, now 3e-05" in one_line(caught)
    with pytest.raises(RunError) as caught:
        RunDirectory.create(tmp_path / "r", config(task="gcd"), resume=True)
    assert "task.name was 'chain_sum', now 'gcd'" in one_line(caught)


def test_steps_and_max_rollouts_may_grow_but_not_shrink(tmp_path):
    RunDirectory.create(tmp_path / "r", config(max_rollouts=100)).close()
    RunDirectory.create(tmp_path / "r", config(steps=8, max_rollouts=200), resume=True).close()
    assert RunDirectory(tmp_path / "r").load_config() == config(steps=8, max_rollouts=200)
    for smaller in (config(steps=4, max_rollouts=200), config(steps=8, max_rollouts=150)):
        with pytest.raises(RunError, match="can only grow"):
            RunDirectory.create(tmp_path / "r", smaller, resume=True)
    RunDirectory.create(tmp_path / "r", config(steps=8), resume=True).close()  # no limit is the largest limit
    with pytest.raises(RunError, match="max_rollouts was None and can only grow"):
        RunDirectory.create(tmp_path / "r", config(steps=8, max_rollouts=10**9), resume=True)


def test_two_runs_in_one_directory_are_refused_and_a_failed_opening_lets_go(tmp_path):
    first = RunDirectory.create(tmp_path / "r", config())
    with pytest.raises(RunError) as caught:
        RunDirectory.create(tmp_path / "r", config(), resume=True)
    assert f"another run (process {os.getpid()}) is at work here" in one_line(caught)
    first.close()
    with pytest.raises(RunError, match="seed was 0"):
        RunDirectory.create(tmp_path / "r", config(seed=1), resume=True)
    RunDirectory.create(tmp_path / "r", config(), resume=True).close()


def test_the_lock_dies_with_its_process_even_while_a_forked_worker_lives_on(tmp_path):
    code = """
import os, sys, time
from fastslow.config_io import parse_config
from fastslow.runs.directory import RunDirectory
run = RunDirectory.create(sys.argv[1], parse_config({"task": "chain_sum", "steps": 4}))
worker = os.fork()
if worker == 0:
    time.sleep(60)
    os._exit(0)
print(worker, flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "r")], stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    try:
        with pytest.raises(RunError, match=f"process {process.pid}"):
            RunDirectory.create(tmp_path / "r", config(), resume=True)
        process.kill()
        process.wait()
        os.kill(worker, 0)  # still alive
        RunDirectory.create(tmp_path / "r", config(), resume=True).close()
    finally:
        os.kill(worker, signal.SIGKILL)
        process.stdout.close()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_read_only_disk_is_one_line_before_any_compute(tmp_path, monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(RunError) as caught:
        RunDirectory.create(tmp_path / "r", config())
    assert "not writable" in one_line(caught)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write")
def test_a_folder_that_nobody_can_write_is_one_line():
    with pytest.raises(RunError) as caught:
        RunDirectory.create("/proc/fastslow-run", config())
    one_line(caught)


def test_populations_are_snapshots_that_can_be_rewound(tmp_path):
    with RunDirectory.create(tmp_path / "r", config()) as run:
        with pytest.raises(RunError, match="no fast phase yet"):
            run.read_population()
        for cycle in range(3):
            run.write_population(cycle, {"cycle": cycle, "text": "naïve \ud800 日本"})
        assert (run.contexts / "cycle-0002.json").exists()
        assert run.read_population() == {"cycle": 2, "text": "naïve \ud800 日本"}
        assert run.read_population(1)["cycle"] == 1
        run.rewind_populations(0)
        assert run.population_cycles() == [0]
        with pytest.raises(RunError, match="no population of cycle 2"):
            run.read_population(2)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_json(path, {"version": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(files.os, step, full)
            with pytest.raises(RunError) as caught:
                write_json(path, {"version": 2})
        assert "the disk is full" in one_line(caught) and "free" in str(caught.value)
        assert read_json(path) == {"version": 1}
        assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_json_keeps_every_text_and_stays_readable_where_it_can():
    assert "日本" in json_text({"a": "日本"})
    assert json.loads(json_text({"a": "日本\ud800\x00"})) == {"a": "日本\ud800\x00"}
    with pytest.raises(TypeError, match="set cannot be written"):
        json_text({"a": {1}})


def test_damaged_files_are_one_line(tmp_path):
    (tmp_path / "summary.json").write_text("{")
    (tmp_path / "config.yaml").write_text("slow: {lr: [")
    run = RunDirectory(tmp_path)
    for read in (run.read_summary, run.load_config):
        with pytest.raises(RunError) as caught:
            read()
        assert str(tmp_path) in one_line(caught)
    (tmp_path / "config.yaml").write_text("task: chain_sum\nfrom_the_future: 1\n")
    with pytest.raises(RunError, match=r"from_the_future: unknown key.*another version"):
        run.load_config()


def test_sizes_read_well():
    assert [human_size(n) for n in (0, 1023, 1024, 1 << 30)] == ["0 B", "1023 B", "1.0 KiB", "1.0 GiB"]
