"""Locks: the lab skips what is finished, goes on with what is broken, keeps to its minutes, matches every arm to FST's
total rollouts, refuses runs of other settings; pages and the claims table can be written again from what is there."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace

import pytest
from lab_fakes import FakeTrainer, rises_to, trained

from fastslow import cli
from fastslow.config import config_dir
from fastslow.config_io import load_config
from fastslow.errors import FastslowError, RunError
from fastslow.fast.guards import refuse_leaks
from fastslow.lab.base import Job
from fastslow.lab.claims import write_claims
from fastslow.lab.experiments import EXPERIMENTS, find_experiment
from fastslow.lab.experiments.sweep import RATES, SWEEP, best_rates
from fastslow.lab.lab import run_lab
from fastslow.lab.mixed import mixed_rows
from fastslow.lab.planning import Choice, LabRun, Planned, config_of, plan, told_context, with_matched
from fastslow.lab.runner import Clock, _measure, drop_weights_except, left_by_others, run_experiment, run_planned
from fastslow.lab.studies import DEFAULT_LR, STUDIES, find_study
from fastslow.runs.directory import RunDirectory
from fastslow.tasks.registry import build_task

CURVES = {"fst": rises_to(0.6, soon=0.3), "rl": rises_to(0.5), "gepa": rises_to(0.2), "rl-told": rises_to(0.5)}


def silent(text: str) -> None:
    """Says nothing."""


def planned(seeds: int = 1, arms: tuple[str, ...] = ("fst", "rl")) -> list[Planned]:
    return with_matched(plan(["sums"], Choice(seeds, arms)))


def test_finished_runs_are_read_and_broken_ones_go_on(tmp_path):
    trainer = FakeTrainer(CURVES)
    trainer.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        run_planned(planned(), tmp_path, Clock(), silent, trainer)
    assert [r for _, r in trainer.calls] == [False, False]
    assert run_planned(planned(), tmp_path, Clock(), silent, trainer) == []
    assert trainer.calls[2:] == [("rl-lr1.5e-05-seed0", True)]  # fst was finished, rl broken
    assert run_planned(planned(), tmp_path, Clock(), silent, trainer) == []
    assert len(trainer.calls) == 3


def test_every_arm_spends_what_fst_spent(tmp_path):
    runs = trained(tmp_path, ["sums"], CURVES, seeds=1)
    by = {run.planned.arm: RunDirectory(run.path).load_config() for run in runs}
    assert by["fst"].max_rollouts is None
    assert {by[arm].max_rollouts for arm in ("rl", "gepa", "rl-told")} == {1000}
    assert by["rl"].task.seed_context.examples == "" and "### Answer" in by["rl-told"].task.seed_context.examples


def test_a_run_to_be_measured_whose_weights_are_gone_is_trained_again(tmp_path):
    drift, trainer = replace(find_experiment("drift"), jobs=lambda runs, folder: []), FakeTrainer(CURVES)
    choice = Choice(1, ("fst", "rl", "rl-told"))
    run_experiment(drift, choice, tmp_path, Clock(), silent, trainer)
    calls = len(trainer.calls)
    shutil.rmtree(tmp_path / "sums" / "rl-lr1.5e-05-seed0" / "checkpoints")
    run_experiment(replace(drift, jobs=None), choice, tmp_path, Clock(), silent, trainer)
    assert len(trainer.calls) == calls  # nothing is measured, so nothing is missing
    run_experiment(drift, choice, tmp_path, Clock(), silent, trainer)
    assert trainer.calls[calls:] == [("rl-lr1.5e-05-seed0", False)]


def test_an_arm_may_spend_a_multiple_and_be_tuned_as_another(tmp_path):
    choice = Choice(1, ("fst", "rl-long"), {"sums": {"rl": 7.5e-6, "rl-long": 1.0}})
    wanted = plan(["sums"], choice)
    run_planned(with_matched(wanted), tmp_path, Clock(), silent, FakeTrainer(CURVES))
    longer = RunDirectory(tmp_path / wanted[1].folder).load_config()
    assert (longer.max_rollouts, longer.slow.lr, longer.method) == (4000, 7.5e-6, "rl")
    with pytest.raises(FastslowError, match="stage by stage"):
        trained(tmp_path, ["switch-skill"], {"fst": rises_to(0.5), "rl-long": rises_to(0.5)}, seeds=1)


def test_in_a_schedule_every_stage_costs_what_it_cost_fst(tmp_path):
    if reason := EXPERIMENTS["continual"].missing():
        pytest.skip(reason)
    runs = trained(tmp_path, ["switch-convention"], {"fst": rises_to(0.5), "rl": rises_to(0.5)}, seeds=1)
    stages = {run.planned.arm: RunDirectory(run.path).load_config().schedule for run in runs}
    # FST: 1,000 rollouts a stage. RL: 64 a step; 1000 / 64 = 15.6, 2000 / 64 = 31.25, 3000 / 64 = 46.9.
    assert [s.steps for s in stages["fst"]] == [12, 12, 12]
    assert [s.steps for s in stages["rl"]] == [16, 15, 16]
    assert [s.task.convention.kind for s in stages["rl"]] == ["brackets", "prefix", "json"]
    with pytest.raises(FastslowError, match="stage by stage"):
        config_of(Planned("switch-convention", "gepa", 0), tmp_path)


def test_an_arm_alone_still_has_its_fst_run(tmp_path):
    wanted = with_matched([Planned("sums", "rl", 3)])
    assert [p.arm for p in wanted] == ["fst", "rl"] and wanted[0].seed == 3
    assert with_matched([*wanted, *wanted]) == wanted


def test_the_clock_stops_between_runs(tmp_path):
    now = [0.0]
    trainer = FakeTrainer(CURVES)

    def train(config, out, *, resume):
        now[0] += 60 * 2.8  # minutes that FST takes
        trainer(config, out, resume=resume)

    left = run_planned(planned(seeds=2), tmp_path, Clock(4.5, lambda: now[0]), silent, train)
    assert len(trainer.calls) == 2  # 2.8, then 1.5 still fits at 2.8; the next would not
    assert left == ["sums fst seed 1", "sums rl seed 1"]
    assert run_planned(planned(), tmp_path, Clock(0), silent, train) == []  # nothing to do takes no time


def test_a_finished_run_of_other_settings_is_refused(tmp_path):
    trained(tmp_path, ["sums"], {"fst": rises_to(0.5)}, seeds=1)
    path = tmp_path / Planned("sums", "fst", 0).folder / "config.yaml"
    path.write_text(path.read_text().replace("group_size: 8", "group_size: 16"))
    with pytest.raises(RunError, match="finished run of other settings"):
        run_planned(planned(arms=("fst",)), tmp_path, Clock(), silent, FakeTrainer(CURVES))


def test_a_budget_that_differs_by_less_than_a_step_is_the_same(tmp_path):
    trained(tmp_path, ["sums"], CURVES, seeds=1)
    path = tmp_path / Planned("sums", "gepa", 0).folder / "config.yaml"
    settled = path.read_text()
    wanted = planned(arms=("fst", "gepa"))
    path.write_text(settled.replace("max_rollouts: 1000", "max_rollouts: 1063"))
    assert run_planned(wanted, tmp_path, Clock(), silent, FakeTrainer(CURVES)) == []
    path.write_text(settled.replace("max_rollouts: 1000", "max_rollouts: 1064"))
    with pytest.raises(RunError, match="other settings"):
        run_planned(wanted, tmp_path, Clock(), silent, FakeTrainer(CURVES))


def test_weights_stay_where_they_will_be_measured(tmp_path):
    runs = trained(tmp_path, ["sums"], CURVES, seeds=1)
    kept = {run.planned.arm for run in runs if RunDirectory(run.path).checkpoints.exists()}
    assert kept == set(find_study("sums").keep)


def test_measurements_are_kept_until_their_runs_change(tmp_path):
    calls = []

    def job(paths) -> Job:
        return Job("one", paths, lambda: calls.append(1) or {"value": len(calls)})

    first, second = [tmp_path / "a"], [tmp_path / "a", tmp_path / "b"]
    for path in second:
        path.mkdir()
        (path / "summary.json").write_text("{}")

    def value(paths) -> int:
        found, left = _measure([job(paths)], tmp_path, Clock(), silent)
        assert not left
        return found["one"]["value"]

    assert [value(first), value(first), value(second)] == [1, 1, 2]
    (tmp_path / "b" / "summary.json").write_text("{ }")  # trained again, in the same folder
    assert [value(second), value(second)] == [3, 3]
    stored = json.loads((tmp_path / "one.json").read_text())
    del stored["stamps"]  # as an earlier version stored it
    (tmp_path / "one.json").write_text(json.dumps(stored))
    assert value(second) == 3
    assert _measure([Job("late", first, dict, minutes=5)], tmp_path, Clock(1), silent) == ({}, ["measuring late"])


def test_seeds_that_others_left_are_seen(tmp_path):
    trained(tmp_path, ["sums"], {"fst": rises_to(0.5)}, seeds=3)
    experiment = find_experiment("when-it-pays")
    found = left_by_others(experiment, Choice(1, ("fst",)), tmp_path)
    assert [(p.study, p.seed) for p in found] == [("sums", 0), ("sums", 1), ("sums", 2)]
    assert left_by_others(experiment, Choice(1, ("fst",), {"sums": {"fst": 3e-5}}), tmp_path) == []


def test_the_sweep_chooses_for_every_arm_and_study(tmp_path):
    def train(config, out, *, resume):
        end = {7.5e-6: 0.3, 1.5e-5: 0.5, 3e-5: 0.7}[config.slow.lr]
        if config.method == "fst" and config.task.convention is None and config.slow.lr == 3e-5:
            end = 0.2
        FakeTrainer({"fst": rises_to(end), "rl": rises_to(end)})(config, out, resume=resume)

    wanted = SWEEP.plan(Choice(1, ("fst", "rl")))
    run_planned(with_matched(wanted), tmp_path, Clock(), silent, train)
    runs = [LabRun(p, tmp_path / p.folder) for p in wanted]
    best = best_rates(runs)
    assert best == {"sums": {"fst": DEFAULT_LR, "rl": 3e-5}, "sums-brackets": {"fst": 3e-5, "rl": 3e-5}}
    assert best_rates([r for r in runs if r.planned.lr != RATES[0]]) == {"sums": {}, "sums-brackets": {}}
    by = {p.study: p for p in plan(["products", "isomorphic-brackets", "mixed", "path-star"], Choice(1, ("rl",), best))}
    assert {study: p.lr_of_fst for study, p in by.items()} == {
        "products": DEFAULT_LR, "isomorphic-brackets": 3e-5, "mixed": 3e-5, "path-star": DEFAULT_LR,
    }  # fmt: skip
    drop_weights_except(runs, best)
    kept = {(r.planned.study, r.planned.arm, r.planned.lr): RunDirectory(r.path).checkpoints for r in runs}
    kept = {what: list(folder.rglob("*.safetensors")) for what, folder in kept.items() if folder.exists()}
    assert set(kept) == {("sums", "fst", DEFAULT_LR), ("sums", "rl", 3e-5), ("sums-brackets", "fst", 3e-5)}
    assert [file.name for files in kept.values() for file in files] == ["weights.safetensors"] * 3


def test_a_whole_experiment_writes_page_data_figure_and_claims(tmp_path, monkeypatch):
    trainer, results, now = FakeTrainer(CURVES), tmp_path / "results", [0.0]
    monkeypatch.setattr("fastslow.lab.lab.Clock", lambda minutes: Clock(minutes, lambda: now[0]))

    def train(config, out, *, resume):
        now[0] += 60 * 2.8
        trainer(config, out, resume=resume)

    def go(minutes=None):
        return run_lab(
            find_experiment("efficiency"), tmp_path / "runs", results, silent, "fastslow lab efficiency", seeds=2,
            arms=["fst", "rl"], minutes=minutes, train=train,
        )  # fmt: skip

    planned = len(EXPERIMENTS["efficiency"].studies) * 2 * 2
    early = go(minutes=0.1)
    assert early.page is None and len(early.left) == planned
    part = go(minutes=12)
    assert len(part.left) == planned - 4 and "**Not complete:**" in part.page.read_text()
    assert "(not complete)" in (results / "README.md").read_text()
    whole = go()
    page = whole.page.read_text()
    assert not whole.left and "Not complete" not in page and "Made by `fastslow lab efficiency`." in page
    assert (results / "efficiency.png").stat().st_size > 10_000
    header, *rows = (results / "efficiency.csv").read_text().splitlines()
    assert header.startswith("study,arm,seed,lr,step") and len(rows) == planned * 9
    claims = (results / "README.md").read_text()
    assert "| efficiency | FST reaches the best of RL with fewer total rollouts | sums |" in claims
    assert "| drift |" in claims and "not run yet" in claims
    calls = len(trainer.calls)
    assert go().page.read_text() == page and len(trainer.calls) == calls


def test_the_claims_table_is_rebuilt_from_what_exists(tmp_path):
    text = write_claims(EXPERIMENTS, tmp_path).read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(EXPERIMENTS) and all("not run yet" in row for row in rows)
    finding = {"where": "sums", "claim": "C", "ours": "+0.1", "ci95": "[+0.0, +0.2]", "seeds": 3, "verdict": "holds"}
    record = {"claim": "", "paper": "P", "command": "fastslow lab drift", "complete": True, "findings": [finding],
              "data": {}}  # fmt: skip
    (tmp_path / "drift.json").write_text(json.dumps(record))
    text = write_claims(EXPERIMENTS, tmp_path).read_text()
    assert "| drift | C | sums | P | +0.1 | 3 | \\[+0.0, +0.2\\] | holds | fastslow lab drift |" in text
    assert text.count("not run yet") == len(EXPERIMENTS) - 1


def test_every_study_has_a_config_that_parses():
    for study in STUDIES.values():
        if "switch" in study.name and EXPERIMENTS["continual"].missing():
            continue
        config = load_config(study.path, study.settings)
        assert config.method == "fst" and config.evaluation.every
    used = {study.config for study in STUDIES.values()}
    assert used == {path.stem for path in (config_dir() / "lab").glob("*.yaml")}


@pytest.mark.parametrize("name", ["sums-brackets", "mixed", "sums"])
def test_a_person_who_knows_the_convention_tells_it_and_shows_no_held_out_problem(name, tmp_path):
    config = load_config(find_study(name).path, find_study(name).settings)
    told = told_context(config)
    wanted = {"sums-brackets": ["[7]"], "mixed": ["[7]", "'Result:'", "'points'"], "sums": ["the answer alone"]}[name]
    assert all(part in told["instructions"] for part in wanted)
    context = config.task.seed_context.model_copy(update=told)
    task = build_task(config.task.model_copy(update={"seed_context": context}))
    refuse_leaks(task.seed_context, task.val)
    assert told["examples"].count("### Answer") == 3


def test_the_mixed_task_is_the_one_that_the_code_writes():
    stored = (config_dir() / "lab" / "mixed.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in stored] == mixed_rows()


def test_what_is_asked_wrongly_is_one_line(tmp_path, monkeypatch, capfd):
    for args, part in (
        (["nothing"], "no such experiment; choose from sweep"),
        ([], "name an experiment"),
        (["efficiency", "--arms", "fst,dpo"], "dpo is not known"),
        (["efficiency", "--arms", "fst"], "can't do without rl"),
    ):
        folders = ["--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
        monkeypatch.setattr(sys, "argv", ["fastslow", "lab", *args, *folders])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        err = capfd.readouterr().err
        assert ended.value.code == 2 and part in err and len(err.splitlines()) == 1, err
    assert not list(tmp_path.iterdir())


def test_the_list_names_every_experiment(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["fastslow", "lab", "--list", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out = capfd.readouterr().out
    assert not ended.value.code and all(name in out for name in EXPERIMENTS)


def test_a_matched_config_needs_its_fst_run(tmp_path):
    with pytest.raises(FastslowError):
        config_of(Planned("sums", "rl", 0), tmp_path)
