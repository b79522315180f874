"""The learning-rate sweep: every arm tuned alike before anything is compared, on a task and under a convention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fastslow.lab.base import Experiment, Measurements, Result, Table
from fastslow.lab.figures import Dot, draw_dots
from fastslow.lab.planning import Choice, LabRun, Planned
from fastslow.lab.readings import CURVE_HEADER, curve_rows, final
from fastslow.lab.studies import ARMS, DEFAULT_LR, TUNED_ON, find_study
from fastslow.lab.verdicts import unsigned
from fastslow.runs.files import read_json

RATES = (7.5e-6, DEFAULT_LR, 3e-5)


def runs_of(choice: Choice) -> list[Planned]:
    return [
        Planned(study, arm, seed, rate, rate)
        for seed in range(choice.seeds)
        for study in TUNED_ON
        for rate in RATES
        for arm in choice.arms
        if arm != "gepa"  # has no learning rate
    ]


def analyse(runs: Sequence[LabRun], measured: Measurements) -> Result:
    cells: dict[tuple[str, str, float], list[LabRun]] = {}
    for run in runs:
        cells.setdefault((run.planned.study, run.planned.arm, run.planned.lr), []).append(run)
    best = best_rates(runs)
    rows = [
        [find_study(study).title, ARMS[arm].title, f"{rate:g}", str(len(members)), unsigned(final(members)),
         "chosen" if best[study].get(arm) == rate else ""]
        for (study, arm, rate), members in cells.items()
    ]  # fmt: skip
    dots = [
        Dot(find_study(study).title, arm, f"{ARMS[arm].title}, {rate:g}", final(members))
        for (study, arm, rate), members in cells.items()
    ]
    header = ["study", "arm", "learning rate", "seeds", "accuracy [95%]", ""]
    return Result(
        [],
        [Table("Accuracy at equal total rollouts, by learning rate", header, rows)],
        (CURVE_HEADER, curve_rows(runs)),
        (lambda out: draw_dots(dots, out, "Learning rates", "accuracy at the end")) if dots else None,
        ["Chosen: the rate with the best mean accuracy at the end, for every arm and study by the same rule. The other "
         "experiments train with it: tasks as they are with the rates of the sums, tasks under a convention with those "
         "of the sums in brackets. Equal means go to the default rate, then to the lower one. The choice is made on "
         "validation problems, for all arms alike."],
        {"rates": best},
    )  # fmt: skip


def best_rates(runs: Sequence[LabRun]) -> dict[str, dict[str, float]]:
    """Swept study -> arm -> learning rate, for arms that were tried at every rate."""
    scores: dict[tuple[str, str], dict[float, list[LabRun]]] = {}
    for run in runs:
        p = run.planned
        scores.setdefault((p.study, p.arm), {}).setdefault(p.lr, []).append(run)
    best: dict[str, dict[str, float]] = {study: {} for study in TUNED_ON}
    for (study, arm), by_rate in scores.items():
        if set(by_rate) == set(RATES):
            means = {rate: final(members).mean for rate, members in by_rate.items()}
            best[study][arm] = max(means, key=lambda r: (round(means[r], 9), r == DEFAULT_LR, -r))
    return best


def chosen_rates(results: Path) -> Mapping[str, Mapping[str, float]]:
    """The rates that the last sweep chose, swept study -> arm -> rate; empty before there is one.

    Those of one that chose a single rate for all studies are not looked at: it has to be run again.
    """
    path = results / "sweep.json"
    rates = read_json(path)["data"]["rates"] if path.exists() else {}
    return {study: {arm: float(r) for arm, r in rates[study].items()} for study in TUNED_ON if study in rates}


SWEEP = Experiment(
    name="sweep",
    claim="Not a claim: the learning rate of every arm, chosen by one rule before anything is compared.",
    paper="",
    studies=TUNED_ON,
    analyse=analyse,
    arms=("fst", "rl", "rl-told", "fst-distill"),
    runs=runs_of,
)
