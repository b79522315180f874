"""The map: on which tasks FST ends above RL at equal total rollouts, and on which it does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastslow.config_io import load_config
from fastslow.lab.base import Experiment, Measurements, Result, Table
from fastslow.lab.experiments import continual
from fastslow.lab.experiments.efficiency import shares_table
from fastslow.lab.figures import Dot, draw_against
from fastslow.lab.planning import LabRun, by_arm
from fastslow.lab.readings import (
    CURVE_HEADER,
    curve_rows,
    curves,
    difference,
    estimate,
    final,
    final_difference,
    last,
)
from fastslow.lab.studies import ARMS, find_study
from fastslow.lab.tables import arms_table
from fastslow.lab.verdicts import Finding, judge, signed, unsigned
from fastslow.tasks.conventions import make_convention

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
        [Table("The map", header, rows), channels_table(runs), shares_table(runs, STUDIES, ("rl",)),
         arms_table(runs, STUDIES)],
        (CURVE_HEADER, curve_rows(runs)),
        (lambda out: draw_against(dots, out, "When it pays", "where RL alone ends, at equal total rollouts",
                                  "FST minus RL")) if dots else None,
        ["Pays: the whole interval lies above 0. Costs: it lies below. Schedules, where they were run, are "
         "compared on the mean over their stages.",
         "Channels: what FST's weights reach with the seed context is theirs alone; what the evolved context adds to "
         "that is the context's part, which it may have only because the weights learnt to follow it (see the "
         "attribution page for the fourth cell). How discoverable a convention is stands in its definition: by chance "
         "now and then (likely), rarely (unlikely), in no realistic number of rollouts (undiscoverable).",
         "Sooner: RL's total rollouts to a share of RL's best over FST's to the same accuracy, above 1 where FST "
         "is there first."],
    )  # fmt: skip


def channels_table(runs: Sequence[LabRun]) -> Table:
    """Which channel earned what, from what reward alone can find to what it can't."""
    rows = []
    for study in sorted(STUDIES, key=lambda name: _ORDER.index(discoverable(name))):
        arms = by_arm(runs, study)
        if "fst" in arms:
            seed, evolved = (curves(arms["fst"], which) for which in ("seed_context", "evolved_context"))
            part = difference(last(evolved), last(seed))
            rl = unsigned(final(arms["rl"])) if "rl" in arms else ""
            start = float(np.mean([values[0].mean() for values in seed.values]))
            rows.append([find_study(study).title, discoverable(study), f"{start:.2f}", unsigned(estimate(last(seed))),
                         " ".join(signed(part)), unsigned(estimate(last(evolved))), rl])  # fmt: skip
    header = ["study", "convention", "before training", "FST's weights alone [95%]", "the context's part [95%]",
              "both [95%]", "RL [95%]"]  # fmt: skip
    return Table("Which channel earned what", header, rows)


_ORDER = ("none", "likely", "unlikely", "undiscoverable", "three at once")


def discoverable(study: str) -> str:
    """How likely reward alone finds the form of the study's answers."""
    found = find_study(study)
    convention = load_config(found.path, found.settings).task.convention
    if convention is not None:
        return make_convention(convention).discoverability
    return "three at once" if found.config == "mixed" else "none"


WHEN_IT_PAYS = Experiment(
    name="when-it-pays",
    claim="FST ends above RL at equal total rollouts; on which tasks, the map shows.",
    paper="above RL on CodeIO, HoVer-hard and Math",
    studies=STUDIES,
    analyse=analyse,
    also=continual.STUDIES,
)
