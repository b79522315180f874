"""The map: on which tasks FST ends above RL at equal total rollouts, and on which it does not."""

from __future__ import annotations

from collections.abc import Sequence

from fastslow.lab.base import Experiment, Measurements, Result, Table
from fastslow.lab.experiments import continual
from fastslow.lab.figures import Dot, draw_against
from fastslow.lab.planning import LabRun, by_arm
from fastslow.lab.readings import CURVE_HEADER, curve_rows, final, final_difference
from fastslow.lab.studies import ARMS, find_study
from fastslow.lab.tables import arms_table
from fastslow.lab.verdicts import Finding, judge, signed, unsigned

STUDIES = (
    "sums", "sums-period", "sums-prefix", "sums-brackets", "sums-json", "products", "gcd", "letters", "isomorphic",
    "isomorphic-brackets", "ransom-note", "mixed",
)  # fmt: skip
RIVALS = ("rl", "rl-told", "gepa")
VERBS = {"holds": "pays", "doesn't": "costs", "can't tell": "can't tell"}


def analyse(runs: Sequence[LabRun], measured: Measurements) -> Result:
    findings, rows, dots = [], [], []
    for study in STUDIES:
        arms, title = by_arm(runs, study), find_study(study).title
        if "fst" not in arms:
            continue
        row = [title, unsigned(final(arms["fst"]))]
        for rival in RIVALS:
            if rival not in arms:
                row += ["", "", ""]
                continue
            gap = final_difference(arms["fst"], arms[rival])
            seeds = min(len(arms["fst"]), len(arms[rival]))
            claim = f"FST ends above {ARMS[rival].title} at equal total rollouts"
            findings.append(Finding(title, claim, *signed(gap), seeds, judge(gap.ci95)))
            row += [f"{final(arms[rival]).mean:.2f}", " ".join(signed(gap)), VERBS[judge(gap.ci95)]]
            if rival == "rl":
                dots.append((Dot("", "fst", title, final(arms["rl"])), gap))
        rows.append(row)
    findings += [f for study in continual.STUDIES for f in continual.findings_of(runs, study)[-1:]]
    header = ["study", "FST [95%]"]
    header += [cell for r in RIVALS for cell in (ARMS[r].title, f"FST minus {r} [95%]", "verdict")]
    return Result(
        findings,
        [Table("The map", header, rows), arms_table(runs, STUDIES)],
        (CURVE_HEADER, curve_rows(runs)),
        (lambda out: draw_against(dots, out, "When it pays", "where RL alone ends, at equal total rollouts",
                                  "FST minus RL")) if dots else None,
        ["Pays: the whole interval lies above 0. Costs: it lies below. Schedules, where they were run, are "
         "compared on the mean over their stages."],
    )  # fmt: skip


WHEN_IT_PAYS = Experiment(
    name="when-it-pays",
    claim="FST ends above RL at equal total rollouts; on which tasks, the map shows.",
    paper="above RL on CodeIO, HoVer-hard and Math",
    studies=STUDIES,
    analyse=analyse,
    seeds=1,
    also=continual.STUDIES,
)
