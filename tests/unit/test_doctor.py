"""Locks: whatever would stop a run or leave it at zero is one line with its mend; a problem makes the exit status 1;
no key is ever shown; nothing is trained."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest
import yaml
from tiny_models import save_tiny

from fastslow import doctor
from fastslow.cli import main
from fastslow.costs import Speed
from fastslow.doctor import machine, run, software
from fastslow.report.doctor import doctor_json, doctor_table, summary
from fastslow.runs.versions import tested_versions as pinned

SECRET = "sk-very-secret"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("doctor") / "model"))


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """Plenty of everything, and no probes; a test takes away what it is about."""
    speed = Speed({1: 1e-10, 512: 1e-8})
    monkeypatch.setattr(run, "measure_speed", lambda config: (speed, speed))
    monkeypatch.setattr(run, "available_memory", lambda: 10**12)
    monkeypatch.setattr(run, "free_disk", lambda folder: 10**12)
    monkeypatch.chdir(tmp_path)


def write(model: str, /, **changes) -> Path:
    rows = [{"question": f"Which word is number {i}?", "answer": f"word{i}"} for i in range(8)]
    Path("data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    data = {
        "steps": 2,
        "model": {"name": model, "threads": 1, "device": "cpu"},
        "task": {"path": "data.jsonl", "train_size": 6, "val_size": 2},
        "sampling": {"max_new_tokens": 16},
        "fast": {"population": 2, "every": 1, "budget": 6, "max_context_tokens": 64},
        "slow": {"group_size": 2, "problems_per_step": 2},
    }
    for key, value in changes.items():
        data[key] = {**data[key], **value} if isinstance(value, dict) and key in data else value
    path = Path("config.yaml")
    path.write_text(yaml.safe_dump(data))
    return path


def examine(model: str, /, **changes) -> dict[str, doctor.Finding]:
    from fastslow.config_io import load_config

    return {f.name: f for f in run.examine_run(load_config(write(model, **changes)), Path("runs"))}


def test_a_good_config_has_no_problem(model):
    found = examine(model)
    assert {f.status for f in found.values()} == {"ok"}, found
    assert {"model", "groups", "task", "prompts", "replies", "memory needed", "disk needed", "time"} <= found.keys()


with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    CLOSED = f"http://user:{SECRET}@127.0.0.1:{probe.getsockname()[1]}/v1"

BAD = {
    "missing folder": ({"model": {"name": "./nowhere"}}, "model", "problem", "no such folder"),
    "hub id": ({"model": {"name": "no-such-owner/no-such-8B"}}, "model", "warning", "read from the name"),
    "missing file": ({"task": {"path": "nowhere.jsonl"}}, "task", "problem", "nowhere.jsonl"),
    "hub dataset": ({"task": {"path": "hub:a/b"}}, "task", "warning", "hub dataset"),
    "too long": ({"sampling": {"max_new_tokens": 500}}, "prompts", "problem", "the model holds 512"),
    "contexts too long": ({"fast": {"max_context_tokens": 600}}, "prompts", "warning", "more than the model's 512"),
    "replies cut off": ({"sampling": {"max_new_tokens": 2}}, "replies", "problem", "every gold answer"),
    "no such adapter": ({"model": {"lora": {"targets": ["nowhere"]}}}, "adapters", "problem", "no module nowhere"),
    "chat without template": ({"model": {"prompt": {"style": "chat"}}}, "prompts", "problem", "chat template"),
    "server away": (
        {"fast": {"reflector": {"type": "endpoint", "model": "m", "base_url": CLOSED}}},
        "reflector", "problem", "can't be reached",
    ),
    "key away": (
        {"fast": {"reflector": {"type": "endpoint", "model": "m", "api_key_env": "NO_SUCH_KEY"}}},
        "reflector's key", "problem", "NO_SUCH_KEY is not set",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_one_line_with_a_mend(model, monkeypatch, name):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    changes, line, status, part = BAD[name]
    finding = examine(model, **changes)[line]
    assert finding.status == status and part in finding.found, finding
    assert "\n" not in finding.found + finding.mend
    assert finding.mend or finding.found.count(";") or "use" in finding.found, finding
    assert SECRET not in finding.found + finding.mend


def test_adapters_that_exist_are_found(model):
    assert examine(model, model={"lora": {"targets": ["q_proj", "v_proj"]}})["adapters"].status == "ok"


def test_a_server_that_listens_can_be_reached(model):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        found = examine(model, fast={"reflector": {"type": "endpoint", "model": "m", "base_url": url}})
    assert found["reflector"].status == "ok"


@pytest.mark.parametrize("free, status", [(1, "problem"), (10**12, "ok")])
def test_memory_and_disk_are_held_against_what_is_free(model, monkeypatch, free, status):
    monkeypatch.setattr(run, "available_memory", lambda: free)
    monkeypatch.setattr(run, "free_disk", lambda folder: free)
    found = examine(model)
    assert (found["memory needed"].status, found["disk needed"].status) == (status, status)


def test_versions_are_held_against_the_tested_ones(monkeypatch):
    here = {**pinned(), "torch": pinned()["torch"] + "+cpu", "gepa": "9.9"}

    def version(name: str) -> str:
        if name in ("openai", "trl"):
            raise software.importlib.metadata.PackageNotFoundError(name)
        return here[name]

    monkeypatch.setattr(software.importlib.metadata, "version", version)
    found = list(software._versions())
    assert [(f.status, f.found) for f in found[:-1]] == [
        ("warning", f"gepa 9.9, tested with {pinned()['gepa']}"),
        ("problem", "openai is not installed"),  # trl is optional
    ]
    assert found[-1].status == "ok" and "+cpu" in found[-1].found


def test_every_package_that_is_looked_at_is_pinned():
    assert {*software.PACKAGES, *software.OPTIONAL} <= pinned().keys()


def test_keys_are_named_and_never_shown(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    findings = software.examine_software()
    text = doctor_json(findings)
    assert "OPENAI_API_KEY" in text and SECRET not in text


def test_the_embedded_model_may_be_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTSLOW_CACHE", str(tmp_path / "empty"))
    finding = software._embedded()
    assert finding.status == "warning" and "FASTSLOW_WHEELS" in finding.mend


def test_a_container_s_limits_count(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("3000000000\n")
    (tmp_path / "memory.current").write_text("1000000000\n")
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert machine.available_memory() <= 2_000_000_000
    assert machine.usable_cores() == 0.5
    assert machine._memory().status == "warning" and "this container may use 3.0 GB" in machine._memory().found
    assert machine._processor(2).status == "warning"
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine._cgroup_limit() is None and machine.usable_cores() >= 1


def test_another_busy_process_is_told(monkeypatch):
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (100.0, 0.0, 0.0))
    assert machine._load().status == "warning"
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    assert machine._load().status == "ok"


def test_a_terminal_without_unicode_is_told(monkeypatch):
    class Old:
        encoding = "latin-1"

    monkeypatch.setattr(software.sys, "stdout", Old())
    assert software._terminal().status == "warning"


def call(monkeypatch, capfd, *args: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["fastslow", "doctor", *args])
    with pytest.raises(SystemExit) as ended:
        main()
        raise SystemExit(0)
    return int(ended.value.code or 0), capfd.readouterr().out


def test_the_exit_status_says_whether_there_is_a_problem(monkeypatch, capfd, model):
    good = doctor.Finding("ok", "a", "b"), doctor.Finding("warning", "c", "d", "e")
    monkeypatch.setattr(doctor, "examine_machine", lambda *_: list(good))
    monkeypatch.setattr(doctor, "examine_software", lambda *_: [])
    code, out = call(monkeypatch, capfd)
    assert code == 0 and "1 warning" in out
    code, out = call(monkeypatch, capfd, str(write(model)), "--set", "sampling.max_new_tokens=2", "--format", "json")
    data = json.loads(out)
    assert code == 1 and data["problems"] == 1 and data["warnings"] == 1
    assert {"status", "name", "found", "mend"} == data["findings"][0].keys()
    code, out = call(monkeypatch, capfd, "nowhere.yaml", "--format", "json")
    (bad,) = [f for f in json.loads(out)["findings"] if f["status"] == "problem"]
    assert code == 1 and "config nowhere.yaml: no such file" in bad["found"]


def test_a_table_shows_text_as_it_is():
    findings = [doctor.Finding("problem", "x", "[red]model[/red]", "mend")]
    from rich.console import Console

    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(doctor_table(findings))
    text = console.export_text()
    assert "[red]model[/red]" in text and "→ mend" in text
    assert summary(findings) == "1 problem" and summary([]) == "all is well"


def test_this_machine_can_be_examined(tmp_path):
    findings = machine.examine_machine(tmp_path / "runs" / "deep")
    assert {"processor", "load", "memory", "disk for runs", "disk for models", "GPU", "dtype"} == {
        f.name for f in findings
    }
    assert all(f.found and (f.status == "ok" or f.mend) for f in findings)
