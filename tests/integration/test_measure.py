"""`fastslow measure` and `fastslow eval` on runs of a random model of two layers: every table, every JSON file."""

from __future__ import annotations

import json
import sys

import pytest
from report_fakes import make_run
from rich.console import Console
from tiny_models import save_tiny

from fastslow import cli, cli_measure
from fastslow.config_io import parse_config
from fastslow.engines.local import train
from fastslow.errors import ConfigError, RunError, TaskError
from fastslow.evaluate import evaluate_source
from fastslow.evaluation.accuracy import measure_accuracy
from fastslow.measure.curves import efficiency_of_runs, fit_of_runs
from fastslow.measure.plasticity import plasticity_of_runs
from fastslow.measure.sources import open_run, sample_problems
from fastslow.measure.weights import attribution_of_runs, retention_of_runs
from fastslow.report.tables import compare_markdown
from fastslow.runs.directory import RunDirectory
from fastslow.tasks.registry import build_task

SCORER = "def score(question, answer, completion, metadata):\n    return 1.0 if len(completion) % 2 else 0.0\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("measure")
    save_tiny(home / "model")
    (home / "odd_scorer.py").write_text(SCORER)
    rows = [{"question": f"Which is number {i}?", "answer": "x"} for i in range(12)]
    (home / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    for method in ("fst", "rl"):
        for seed in (0, 1) if method == "fst" else (0,):
            train(settings(home, method, seed), home / f"{method}{seed}")
    return home


def settings(home, method="fst", seed=0):
    return parse_config({
        "method": method,
        "seed": seed,
        "steps": 2,
        "model": {"name": str(home / "model"), "device": "cpu", "threads": 1, "sampling_dtype": "float32",
                  "train_dtype": "float32", "float32_matmul": "default"},
        "task": {"path": str(home / "data.jsonl"), "train_size": 8, "val_size": 4, "scorer": "odd_scorer:score",
                 "check_gold": False, "name": "odd"},
        "sampling": {"max_new_tokens": 6, "stop": list("etaoinshrdluABC ")},
        "fast": {"population": 2, "every": 1, "budget": 12},
        "slow": {"group_size": 4, "problems_per_step": 2, "lr": 1e-2, "warmup": 0},
        "evaluation": {"every": 1},
    })  # fmt: skip


@pytest.fixture
def measure(home, monkeypatch, capfd):
    """Run a measure command in ``home``; returns (its output, the JSON it wrote)."""
    monkeypatch.chdir(home)
    monkeypatch.setattr(cli_measure, "console", Console(width=250))

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["fastslow", "measure", *args, "--json", "found.json"])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        assert not ended.value.code, err
        return out, json.loads((home / "found.json").read_text())

    return call


def test_drift_of_two_arms(measure):
    out, found = measure("drift", "fst0", "fst1", "rl0", "-n", "2")
    assert "FST" in out and "KL, nats a token" in out
    rows = {(r["arm"], r["context"]): r for r in found["drift"]}
    assert set(rows) == {("FST", "seed"), ("FST", "evolved"), ("RL", "seed"), ("RL", "evolved")}
    assert rows["FST", "seed"]["seeds"] == 2 and rows["FST", "seed"]["problems"] == 4 and rows["FST", "seed"]["n"] == 2
    for row in rows.values():
        assert row["ci95"][0] <= row["kl"] <= row["ci95"][1] and row["kl"] >= 0
    assert rows["RL", "seed"]["kl"] > 0


def test_attribution_reads_four_cells_and_the_ledger(measure):
    out, found = measure("attribution", "fst0", "fst1", "-n", "2")
    (arm,) = found["attribution"]
    assert set(arm["cells"]) == {"base/seed", "base/evolved", "trained/seed", "trained/evolved"}
    assert all(0 <= c["mean"] <= 1 for c in arm["cells"].values())
    whole = arm["effects"]["weights effect"]["mean"] + arm["effects"]["context effect"]["mean"]
    assert whole == pytest.approx(arm["effects"]["both"]["mean"])
    assert arm["variance"]["groups"] == 2 * 2 * 2  # two runs of two steps of two problems
    assert "rescued groups" in out and "95% interval" in out


def test_a_cell_is_what_eval_measures_with_the_same_weights(home, monkeypatch):
    monkeypatch.chdir(home)
    found = attribution_of_runs(["fst0"], n=3).data["attribution"][0]
    # Another random stream, so alike but not equal; the seed cell of the base weights is the untrained model's.
    trained = evaluate_source("fst0", None, "seed", 64, None, [])
    assert abs(found["cells"]["trained/seed"]["mean"] - trained.accuracy.mean) < 0.5
    again = attribution_of_runs(["fst0"], n=3).data["attribution"][0]
    assert again == found


def test_retention_on_tasks_never_trained(measure):
    out, found = measure("retention", "fst0", "rl0", "--tasks", "gcd,number_sorting", "-n", "1", "--problems", "3")
    rows = {(r["arm"], r["task"], r["measure"]): r for r in found["retention"]}
    assert len(rows) == 2 * (2 * 2 + 1 + 2)  # two arms: two tasks twice, plain English, and both tasks together twice
    for row in rows.values():
        assert row["difference"]["mean"] == pytest.approx(row["after"] - row["before"])
    assert rows["RL", "plain English", "log-likelihood"]["n"] == 30
    assert rows["FST", "gcd", "accuracy"]["before"] == rows["RL", "gcd", "accuracy"]["before"]  # the same base
    assert "plain English" in out


def test_retention_refuses_a_trained_task(tmp_path, home, monkeypatch):
    monkeypatch.chdir(home)
    with pytest.raises(RunError, match="--tasks: odd was trained on"):
        retention_of_runs(["fst0"], ["odd"])


def test_plasticity_trains_a_probe_from_each_start(measure, home):
    args = ("plasticity", "fst0", "fst1", "rl0", "--task", "gcd", "--steps", "1", "--out", "probes")
    small = ["task.train_size=4", "task.val_size=3", "evaluation.every=1"]
    sets = [part for s in small for part in ("--set", s)]
    _, found = measure(*args, *sets)
    probes = {p["label"]: p for p in found["probes"]}
    assert set(probes) == {"base", "FST", "RL"} and probes["FST"]["seeds"] == probes["base"]["seeds"] == 2
    assert probes["base"]["final_minus_base"] is None and "mean" in probes["RL"]["final_minus_base"]
    assert probes["RL"]["curves"]["steps"] == [0, 1]
    configs = {p.name: RunDirectory(p).load_config() for p in (home / "probes").iterdir()}
    assert set(configs) == {"base-seed0", "base-seed1", "fst-run0-seed0", "fst-run1-seed1", "rl-seed0"}
    assert all(c.method == "rl" and c.steps == 1 and c.task.name == "gcd" for c in configs.values())
    assert all(c.seed == int(name[-1]) for name, c in configs.items())
    assert configs["base-seed0"].model.init_from is None
    assert configs["fst-run1-seed1"].model.init_from.endswith("fst1/checkpoints/step-000002")
    assert configs["rl-seed0"].model.init_from.endswith("rl0/checkpoints/step-000002")
    _, same = measure(*args, *sets)  # finished probes are read
    assert same == found
    with pytest.raises(RunError, match="a probe of another config is here"):
        plasticity_of_runs([home / "fst0"], "gcd", home / "probes", steps=2)


def test_a_probe_needs_a_new_task_and_stays_plain_rl(home):
    with pytest.raises(TaskError, match="gcdd"):
        plasticity_of_runs([home / "fst0"], "gcdd", home / "none", steps=1)
    assert not (home / "none").exists()
    with pytest.raises(ConfigError, match="method and model"):
        plasticity_of_runs([home / "fst0"], "gcd", home / "none", overrides=["method=fst"])


def test_efficiency_fit_and_collapse_read_curves_alone(tmp_path, measure):
    runs = [str(make_run(tmp_path / f"{m}{s}", m, s)) for m in ("fst", "rl") for s in (0, 1)]
    out, found = measure("efficiency", *runs)
    rows = {(e["arm"], e["by"]): e for e in found["efficiency"]}
    assert len(rows) == 4 and rows["RL", "rollouts"]["cost"]["side"] == ">"
    assert rows["FST", "rollouts"]["seeds"] == [2, 2] and "> 2,304" in out  # 36 steps of 64 rollouts
    out, found = measure("fit", *runs)
    fits = {f["label"]: f for f in found["fits"]}
    assert fits["RL"]["values"] is None and "no fit" in out and fits["RL"]["reason"]
    out, found = measure("fit", "--by", "problems", runs[0])
    assert found["fits"][0]["by"] == "problems"
    out, found = measure("collapse", *runs[:1])
    assert found["collapse"][0]["collapsed"] is False and found["collapse"][0]["constant_share"] > 0


def test_a_comparison_warns_of_a_collapse(tmp_path):
    collapsed_run, other = make_run(tmp_path / "c", "rl", 0, steps=6), make_run(tmp_path / "f", "fst", 0, steps=6)
    path = collapsed_run / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line |= {"majority_answer_share": 0.9, "constant_answer_share": 0.1} if line["kind"] == "evaluation" else {}
        line |= {"entropy": 0.01} if line["kind"] == "slow" else {}
    assert "Collapsed" not in compare_markdown([collapsed_run, other])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = compare_markdown([collapsed_run, other])
    assert "Collapsed onto one reply: RL (collapsed: one reply is 90% of all" in said and "FST (collapsed" not in said


def test_curves_of_one_arm_are_no_comparison(tmp_path):
    runs = [make_run(tmp_path / str(s), "fst", s) for s in (0, 1)]
    with pytest.raises(RunError, match="two arms"):
        efficiency_of_runs(runs)
    assert len(fit_of_runs(runs).rows) == 1


def test_eval_takes_the_population_as_a_mixture(home, monkeypatch):
    monkeypatch.chdir(home)
    run = open_run("fst0")
    contexts = run.mixture()
    assert len(contexts) == 2
    found = evaluate_source("fst0", None, "population", 3, None, [], drift=True)
    assert (found.n, found.contexts) == (4, 2) and "2 contexts" in found.context  # 3 samples, rounded up to 2 x 2
    assert len(found.accuracy.per_problem) == 4 and found.drift.mean > 0
    for name in ("seed", "none", "evolved"):
        assert evaluate_source("fst0", None, name, 1, 2, []).n == 1
    checkpoint = evaluate_source("fst0/checkpoints/step-000002", None, "evolved", 1, None, [])
    assert checkpoint.accuracy == evaluate_source("fst0", None, "evolved", 1, None, []).accuracy


def test_a_mixture_is_the_mean_over_contexts(home, monkeypatch):
    """Each context gets the same share of every problem's samples, and the mean is over all of them."""
    monkeypatch.chdir(home)
    run = open_run("fst0")
    task, policy = build_task(run.config.task), run.trained_policy()
    rollouts = sample_problems(policy, run.config, task, task.val, run.mixture(), 3, 0)
    shares = {c.id: [r for r in rollouts if r.context_id == c.id] for c in run.mixture()}
    means = [measure_accuracy(part).mean * len(part) for part in shares.values()]
    assert sum(map(len, shares.values())) == 2 * 4 * 3
    assert measure_accuracy(rollouts).mean == pytest.approx(sum(means) / len(rollouts))
    assert len({r.seed for r in rollouts}) == len(rollouts)  # no context sees another's random stream


@pytest.mark.parametrize(
    "command", ["drift", "retention", "plasticity", "attribution", "fit", "efficiency", "collapse", ""]
)
def test_help_shows_an_example(monkeypatch, capfd, command):
    monkeypatch.setattr(sys, "argv", ["fastslow", "measure", *([command] if command else []), "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code and "Example: fastslow measure" in " ".join(capfd.readouterr().out.split())
