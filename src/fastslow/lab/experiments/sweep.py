"""The learning-rate sweep: FST and RL tuned alike, before anything is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from fastslow.lab.base import Experiment, Measurements, Result, Table
from fastslow.lab.figures import Dot, draw_dots
from fastslow.lab.planning import Choice, LabRun, Planned
from fastslow.lab.readings import CURVE_HEADER, curve_rows, final
from fastslow.lab.studies import ARMS, DEFAULT_LR, find_study
from fastslow.lab.verdicts import unsigned
from fastslow.runs.files import read_json

STUDIES = ("sums", "sums-brackets")
RATES = (7.5e-6, DEFAULT_LR, 3e-5)


def runs_of(choice: Choice) -> list[Planned]:
    return [
        Planned(study, arm, seed, rate, rate)
        for seed in range(choice.seeds)
        for study in STUDIES
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
         "chosen" if best.get(arm) == rate else ""]
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
        ["Chosen: the rate with the best mean accuracy over both studies, for every arm by the same rule; the other "
         "experiments train with it. Equal means go to the default rate, then to the lower one. The choice is made on "
         "validation problems, for all arms alike."],
        {"rates": best},
    )  # fmt: skip


def best_rates(runs: Sequence[LabRun]) -> dict[str, float]:
    """Arm -> learning rate, for arms with all rates in all studies."""
    scores: dict[str, dict[float, dict[str, list[LabRun]]]] = {}
    for run in runs:
        p = run.planned
        scores.setdefault(p.arm, {}).setdefault(p.lr, {}).setdefault(p.study, []).append(run)
    best = {}
    for arm, by_rate in scores.items():
        complete = {r: by_study for r, by_study in by_rate.items() if set(by_study) == set(STUDIES)}
        if set(complete) == set(RATES):
            means = {r: fmean(final(members).mean for members in s.values()) for r, s in complete.items()}
            best[arm] = max(means, key=lambda r: (round(means[r], 9), r == DEFAULT_LR, -r))
    return best


def chosen_rates(results: Path) -> Mapping[str, float]:
    """The rates that the last sweep chose; empty before there is one."""
    path = results / "sweep.json"
    return {arm: float(r) for arm, r in read_json(path)["data"]["rates"].items()} if path.exists() else {}


SWEEP = Experiment(
    name="sweep",
    claim="Not a claim: the learning rate of every arm, chosen by one rule before anything is compared.",
    paper="",
    studies=STUDIES,
    analyse=analyse,
    seeds=1,
    runs=runs_of,
)
