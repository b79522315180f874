"""Every experiment gives the verdict that its planted data have: holds, doesn't, can't tell."""

from __future__ import annotations

import pytest
from lab_fakes import measured_estimate, rises_to, trained

from fastslow.evaluation.efficiency import Bounded
from fastslow.evaluation.intervals import Estimate
from fastslow.lab.base import Result
from fastslow.lab.experiments import (
    EXPERIMENTS,
    asymptote,
    continual,
    drift,
    efficiency,
    plasticity,
    retention,
    when_it_pays,
)
from fastslow.lab.experiments import attribution as attribution_module
from fastslow.lab.experiments import distill as distill_module
from fastslow.lab.experiments import zero_reward as zero
from fastslow.lab.experiments.weighed import PAIRS, plan_pairs
from fastslow.lab.verdicts import bounds, judge, judge_all, minus
from fastslow.lab.writer import page_text


def jumps_at(share: float):
    return lambda spent: 0.9 if spent >= share else 0.0


LOW, MIDDLE, HIGH = rises_to(0.3), rises_to(0.5), rises_to(0.9)
SOON, LATE = rises_to(0.8, soon=0.25), rises_to(0.6)


def verdicts(result: Result) -> list[str]:
    return [f.verdict for f in result.findings]


def drawn(result: Result, name: str, tmp_path) -> str:
    """The page, and the figure drawn: both must come out of the same data."""
    assert result.figure is not None and result.figure(tmp_path / f"{name}.png").stat().st_size > 5_000
    return page_text(EXPERIMENTS[name], result, f"fastslow lab {name}", [])


def test_intervals_alone_decide():
    assert judge((0.01, 0.5)) == "holds" and judge((-0.5, -0.01)) == "doesn't"
    assert judge((-0.4, 0.9)) == "can't tell" and judge((0.0, 1.0)) == "can't tell"
    assert judge((-0.01, 0.1), above=-0.02) == "holds" and judge((-0.5, -0.03), above=-0.02) == "doesn't"
    assert judge_all(["holds", "holds"]) == "holds" and judge_all(["holds", "doesn't"]) == "doesn't"


def test_a_difference_of_two_estimates_is_as_wide_as_both():
    # By hand: sqrt(0.3^2 + 0.4^2) = 0.5 to each side.
    found = minus(Estimate(1.0, (0.7, 1.3)), Estimate(0.2, (-0.2, 0.6)))
    assert (found.mean, *found.ci95) == pytest.approx((0.8, 0.3, 1.3))
    lopsided = minus(Estimate(0.5, (0.5, 0.8)), Estimate(0.0, (0.0, 0.0)))
    assert lopsided.ci95 == pytest.approx((0.5, 0.8))


def test_bounds_are_numbers_on_their_own_side():
    assert bounds((Bounded(1.2), Bounded(2.0))) == (1.2, 2.0)
    assert bounds((Bounded(0.7, "<"), Bounded(0.9, "<"))) == (0.0, 0.9)
    assert bounds((Bounded(1.5, ">"), Bounded(3.0, ">"))) == (1.5, float("inf"))


@pytest.mark.parametrize(
    ("fst", "rl", "expected"), [(SOON, LATE, "holds"), (LATE, SOON, "doesn't"), (MIDDLE, MIDDLE, "can't tell")]
)
def test_efficiency(tmp_path, fst, rl, expected):
    runs = trained(tmp_path, ["sums"], {"fst": fst, "rl": rl})
    result = efficiency.analyse(runs, {})
    assert verdicts(result) == [expected]
    assert expected in drawn(result, "efficiency", tmp_path)


def test_efficiency_has_no_goal_where_rl_never_rises(tmp_path):
    flat = rises_to(0.0, start=0.0)
    result = efficiency.analyse(trained(tmp_path, ["sums"], {"fst": HIGH, "rl": flat}), {})
    (found,) = result.findings
    assert found.verdict == "can't tell" and "never rose" in found.why and "at the end: +0." in found.why


@pytest.mark.parametrize(
    ("fst", "rl", "expected"), [(HIGH, LOW, "holds"), (LOW, HIGH, "doesn't"), (MIDDLE, MIDDLE, "can't tell")]
)
def test_asymptote(tmp_path, fst, rl, expected):
    runs = trained(tmp_path, ["sums-long"], {"fst": fst, "rl": rl}, seeds=2)
    result = asymptote.analyse(runs, {})
    assert verdicts(result) == [expected]
    assert "Asymptotes" in drawn(result, "asymptote", tmp_path)


@pytest.mark.parametrize(
    ("fst", "rl", "expected"),
    [
        (jumps_at(0.1), jumps_at(2.0), ["holds", "holds"]),
        (jumps_at(0.1), jumps_at(0.7), ["holds", "holds"]),
        (jumps_at(0.1), jumps_at(0.3), ["holds", "doesn't"]),
        (jumps_at(0.5), jumps_at(2.0), ["holds", "can't tell"]),  # RL's is not known to five times FST's
        (LOW, SOON, ["doesn't", "doesn't"]),
        (LOW, LOW, ["can't tell", "doesn't"]),
    ],
)
def test_zero_reward(tmp_path, fst, rl, expected):
    from_zero = {
        arm: lambda share, c=curve: c(share) if share else 0.0 for arm, curve in {"fst": fst, "rl": rl}.items()
    }
    result = zero.analyse(trained(tmp_path, ["brackets-long"], from_zero), {})
    assert verdicts(result) == expected
    assert "Who moves first" in drawn(result, "zero-reward", tmp_path)


def test_of_two_rl_arms_the_longer_says_what_a_fifth_is(tmp_path):
    curves = {"fst": jumps_at(0.2), "rl": jumps_at(2.0), "rl-long": jumps_at(2.0)}
    result = zero.analyse(trained(tmp_path, ["brackets-long"], curves), {})
    assert [(f.claim, f.verdict) for f in result.findings] == [
        ("FST leaves zero reward before RL", "holds"), ("FST leaves zero reward in 1/5 of RL's rollouts", "holds"),
    ]  # fmt: skip


def test_a_start_above_zero_is_no_escape(tmp_path):
    curves = {"fst": rises_to(0.9, start=0.3), "rl": rises_to(0.4, start=0.3)}
    for found in zero.analyse(trained(tmp_path, ["brackets-long"], curves), {}).findings:
        assert found.verdict == "can't tell" and "no zero" in found.why


@pytest.mark.parametrize(
    ("fst", "rl", "expected"), [(HIGH, LOW, "holds"), (LOW, HIGH, "doesn't"), (MIDDLE, MIDDLE, "can't tell")]
)
def test_when_it_pays(tmp_path, fst, rl, expected):
    runs = trained(tmp_path, ["gcd"], {"fst": fst, "rl": rl}, seeds=2)
    result = when_it_pays.analyse(runs, {})
    assert verdicts(result) == [expected]
    word = {"holds": "pays", "doesn't": "costs"}.get(expected, expected)
    assert f"| {word} |" in drawn(result, "when-it-pays", tmp_path)


def test_the_map_says_which_channel_earned_what_by_how_discoverable_its_form_is(tmp_path):
    runs = trained(tmp_path, ["sums-json", "sums-period", "gcd"], {"fst": HIGH, "rl": LOW}, seeds=2)
    table = when_it_pays.channels_table(runs)
    assert [(row[0], row[1]) for row in table.rows] == [
        ("greatest common divisors", "none"),
        ("sums, a full stop behind", "likely"),
        ("sums as JSON", "undiscoverable"),
    ]  # fmt: skip
    assert all(row[4].startswith("+0.00") for row in table.rows)  # the fake's contexts are worth nothing
    assert when_it_pays.discoverable("mixed") == "three at once"


@pytest.mark.parametrize(
    ("fst", "distilled", "expected"), [(HIGH, LOW, "holds"), (LOW, HIGH, "doesn't"), (MIDDLE, MIDDLE, "can't tell")]
)
def test_distill(tmp_path, fst, distilled, expected):
    if (reason := EXPERIMENTS["distill"].missing()) is not None:
        pytest.skip(reason)
    runs = trained(tmp_path, ["sums"], {"fst": fst, "fst-distill": distilled})
    result = distill_module.analyse(runs, {})
    assert verdicts(result) == [expected]
    assert "FST-distill" in drawn(result, "distill", tmp_path)


@pytest.mark.parametrize(
    ("fst", "rl", "expected"), [(HIGH, LOW, "holds"), (LOW, HIGH, "doesn't"), (MIDDLE, MIDDLE, "can't tell")]
)
def test_continual(tmp_path, fst, rl, expected):
    if (reason := EXPERIMENTS["continual"].missing()) is not None:
        pytest.skip(reason)
    runs = trained(tmp_path, ["switch-skill"], {"fst": fst, "rl": rl}, seeds=2)
    result = continual.analyse(runs, {})
    assert verdicts(result) == [expected] * 4  # three stages, and their mean
    assert "At the end of every stage" in drawn(result, "continual", tmp_path)


@pytest.mark.parametrize(("in_a_row", "expected"), [(0.9, "holds"), (0.3, "doesn't"), (0.5, "can't tell")])
def test_a_stage_is_near_its_peak_where_the_task_alone_ends_little_higher(tmp_path, in_a_row, expected):
    runs = trained(tmp_path / "row", ["switch-skill"], {"fst": lambda share: in_a_row, "rl": rises_to(0.9)}, seeds=2)
    alone = {"fst": rises_to(0.5 / 0.9), "rl": lambda share: 0.0}
    runs += trained(tmp_path / "alone", ["sums", "products"], alone, seeds=2)
    found = [f for f in continual.analyse(runs, {}).findings if "peak" in f.claim]
    # Isomorphic strings were not trained alone, and RL reaches nothing alone.
    assert [f.claim for f in found] == ["FST's stage 1 ends near its peak", "FST's stage 3 ends near its peak"]
    assert [f.verdict for f in found] == [expected] * 2


def pairs(tmp_path, fst=MIDDLE, rl=MIDDLE):
    curves = {"fst": fst, "rl": rl, "rl-told": rl}
    return trained(tmp_path, (), curves, seeds=2, plan_of=plan_pairs)


def drift_job(context: str, kl: float) -> dict:
    row = {
        "context": context,
        "problems": 48,
        "n": 2,
        "seeds": 2,
        "tokens": 9,
        "kl": kl,
        "ci95": [kl - 0.01, kl + 0.01],
    }
    return {"drift": [{**row, "context": "none", "kl": 9.0}, row]}


def drift_of(fst: float, rl: float) -> dict:
    return {
        f"{study}-{arm}": drift_job("evolved" if arm == "fst" else "seed", fst if arm == "fst" else rl)
        for study, pair in PAIRS.items()
        for arm in pair
    }


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"), [(0.1, 0.3, "holds"), (0.3, 0.1, "doesn't"), (0.2, 0.205, "can't tell")]
)
def test_drift(tmp_path, ours, theirs, expected):
    result = drift.analyse(pairs(tmp_path), drift_of(ours, theirs))
    assert verdicts(result) == [expected] * len(PAIRS)
    assert "0.3000" in drawn(result, "drift", tmp_path) or expected == "can't tell"


def test_drift_is_compared_at_matched_accuracy_only(tmp_path):
    """Less drift with a lower accuracy proves nothing, and neither does more drift with a higher one."""
    less = drift.analyse(pairs(tmp_path / "a", fst=LOW, rl=HIGH), drift_of(0.1, 0.3))
    more = drift.analyse(pairs(tmp_path / "b", fst=HIGH, rl=LOW), drift_of(0.3, 0.1))
    better = drift.analyse(pairs(tmp_path / "c", fst=HIGH, rl=LOW), drift_of(0.1, 0.3))
    assert verdicts(less) == verdicts(more) == ["can't tell"] * len(PAIRS)
    assert verdicts(better) == ["holds"] * len(PAIRS)
    assert "not at matched accuracy" in less.findings[0].why


def retention_of(fst: float, rl: float, half: float = 0.01) -> dict:
    def job(change: float) -> dict:
        rows = [
            {"task": task, "measure": measure, "n": 32, "seeds": 2, "before": 0.5, "after": 0.5 + change,
             "difference": measured_estimate(change, half)}
            for task, measure in retention.MARGINS
        ]  # fmt: skip
        return {"retention": rows}

    return {f"{s}-{arm}": job(fst if arm == "fst" else rl) for s, pair in PAIRS.items() for arm in pair}


@pytest.mark.parametrize(
    ("ours", "theirs", "half", "expected"),
    [
        (0.0, -0.2, 0.01, "holds"),
        (0.0, 0.0, 0.005, "holds"),
        (-0.3, 0.0, 0.01, "doesn't"),
        (0.0, 0.0, 0.2, "can't tell"),
    ],
)
def test_retention_within_its_margins(tmp_path, ours, theirs, half, expected):
    result = retention.analyse(pairs(tmp_path), retention_of(ours, theirs, half))
    assert verdicts(result) == [expected] * 6 * len(PAIRS)
    assert "Before and after" in drawn(result, "retention", tmp_path)


def probes_of(fst: float, rl: float, half: float = 0.02) -> dict:
    def probe(label: str, over: float | None) -> dict:
        value = measured_estimate(0.5 + (over or 0.0), half)
        curve = {"steps": [0, 6, 12], "rollouts": [[0, 384, 768]], "accuracy": [[0.0, 0.3, 0.6]]}
        return {"label": label, "seeds": 2, "problems": 48, "initial": value, "final": value, "area": value,
                "final_minus_base": None if over is None else measured_estimate(-over, half), "curves": curve,
                "area_minus_base": None if over is None else measured_estimate(over, half)}  # fmt: skip

    probes = {"probes": [probe("base", None), probe("FST", fst), probe("RL", rl)]}
    return {plasticity.job_name(study): probes for study in plasticity.STUDIES}


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        # as much area as the base; an end as high (the fake's ends are the other way round); more area than RL
        (0.0, -0.3, ["holds", "holds", "holds"]),
        (-0.3, 0.0, ["doesn't", "holds", "doesn't"]),
        (0.3, 0.0, ["holds", "doesn't", "holds"]),
        (-0.05, -0.05, ["can't tell", "holds", "can't tell"]),
    ],
)
def test_plasticity(tmp_path, ours, theirs, expected):
    runs = trained(tmp_path, list(plasticity.STUDIES), {"fst": MIDDLE, "rl": MIDDLE}, seeds=2)
    result = plasticity.analyse(runs, probes_of(ours, theirs))
    assert verdicts(result) == expected * len(plasticity.STUDIES)
    assert "Fresh RL on products" in drawn(result, "plasticity", tmp_path)


@pytest.mark.parametrize(("mean", "expected"), [(0.3, "holds"), (-0.3, "doesn't"), (0.01, "can't tell")])
def test_attribution(tmp_path, mean, expected):
    effect, cell = measured_estimate(mean, 0.05), measured_estimate(0.4, 0.05)
    names = ("weights alone", "context alone", "both", "weights effect", "context effect", "interaction")
    found = {
        "arm": "FST",
        "cells": dict.fromkeys(attribution_module.CELLS, cell),
        "effects": dict.fromkeys(names, effect),
    }
    runs = trained(tmp_path, list(PAIRS), {"fst": MIDDLE}, seeds=2)
    result = attribution_module.analyse(runs, {f"{s}-fst": {"attribution": [found]} for s in PAIRS})
    assert verdicts(result) == [expected] * 2 * len(PAIRS)
    assert "Four cells" in drawn(result, "attribution", tmp_path)


def test_without_measurements_nothing_is_claimed(tmp_path):
    runs = pairs(tmp_path)
    for module in (drift, retention, plasticity, attribution_module):
        assert module.analyse(runs, {}).findings == []


def test_measurements_ask_for_the_runs_whose_weights_are_kept(tmp_path):
    runs = pairs(tmp_path)
    names = {job.name for job in drift.jobs(runs, tmp_path)}
    assert names == {f"{study}-{arm}" for study, pair in PAIRS.items() for arm in pair}
    assert [job.name for job in attribution_module.jobs(runs, tmp_path)] == [f"{study}-fst" for study in PAIRS]
    probes = plasticity.jobs(runs, tmp_path)
    assert [job.name for job in probes] == [plasticity.job_name(study) for study in plasticity.STUDIES]
    assert all(len(job.paths) == 4 for job in probes)
