"""Kill a run anywhere, resume it, and compare what it leaves with an unbroken run, bit for bit.

    python benchmarks/kill.py --kills 50 --seed 0
    python benchmarks/kill.py --kills 50 --seed 0 --report docs/reliability.md

A whole run of the real engine on a random two-layer model takes well under a second here; it has two fast phases, four
slow steps, an evaluation and a checkpoint at every step. Each of the runs is killed by SIGKILL at a random moment of a
random place (``strikes.py``), resumed, some of them killed again, and at last run to its end. Every process is a new
one, forked from a server that has the libraries loaded.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT / "tests" / "unit", ROOT / "benchmarks"):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

from end_state import differences, everything, ledger_rows  # noqa: E402, F401
from page import markdown_table, rewrite_section  # noqa: E402
from strikes import OUTSIDE, PLACES, Moment, Strike, Trail, run_child  # noqa: E402
from tiny_models import save_tiny  # noqa: E402

MOMENTS: tuple[Moment, ...] = ("before", "inside", "after")
OUTSIDE_CHOSEN = 5
KILLED_AGAIN = 1 / 3  # of the killed runs, while they go on
PRELOAD = ["torch", "fastslow.engines.local", "transformers.models.llama.modeling_llama", "gepa", "peft"]
SCORER = """
import random

def score(question, answer, completion, metadata):
    '''Graded, so that groups are not flat; it draws, so that the global streams matter.'''
    draw = random.random()
    return sum(c in "aeiou0123" for c in completion) / 10, "Advice: Say %s." % answer if draw < 0.5 else ""
"""


def make_home(folder: Path) -> Path:
    """Model, data and scorer of the runs."""
    save_tiny(folder / "model")
    rows = [{"question": f"Which word is number {i} of them all?", "answer": f"word{i}"} for i in range(16)]
    (folder / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "kill_scorer.py").write_text(SCORER)
    return folder


def settings(home: Path, steps: int = 4) -> dict[str, Any]:
    """Method fst: ``steps`` / 2 cycles with checkpoints at every step; half of a rollout's tokens end it."""
    return {
        "steps": steps,
        "model": {"name": str(home / "model"), "threads": 1, "sampling_dtype": "float32", "train_dtype": "float32",
                  "float32_matmul": "default"},
        "task": {
            "path": str(home / "data.jsonl"), "scorer": "kill_scorer:score", "check_gold": False,
            "train_size": 12, "val_size": 4,
        },
        "sampling": {"max_new_tokens": 6, "stop": list("tnshrdl")},
        "fast": {"population": 2, "every": 2, "budget": 24, "proposals": 1},
        "slow": {"group_size": 4, "problems_per_step": 2, "lr": 1e-2, "warmup": 2, "truncated": "mask"},
        "evaluation": {"every": 1},
        "checkpoint_every": 1,
        "keep_checkpoints": 2,
    }  # fmt: skip


class Runner:
    """Starts the processes of runs, each forked anew from one server."""

    def __init__(self, home: Path, steps: int = 4) -> None:
        self.home, self.settings = home, settings(home, steps)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)

    def process(self, folder: Path, strike: Strike | None = None, after: float | None = None) -> int:
        """Start the run in ``folder``, or go on with it; killed at ``strike`` or ``after`` seconds. The exit code."""
        resume = (folder / "config.yaml").exists()
        arguments = (self.settings, str(folder), resume, strike, str(folder) + "-notes")
        process = self._context.Process(target=run_child, args=arguments)
        process.start()
        process.join(after)
        if process.is_alive():
            process.kill()
            process.join()
        assert process.exitcode is not None
        return process.exitcode

    def notes(self, folder: Path, kind: str) -> Path:
        return Path(f"{folder}-notes.{kind}")


@dataclass(frozen=True, slots=True)
class Survey:
    """What the unbroken run leaves, and for each place how often it was called and how long a call took.

    ``seconds``: from the start of its process to the end.
    """

    expected: dict[str, Any]
    calls: dict[str, int]
    usual: dict[str, float]
    seconds: float


@dataclass(slots=True)
class KilledRun:
    """``deaths``: the places where it died and the moment asked for; ``unlike``: what differs at its end."""

    deaths: list[tuple[str, str]] = field(default_factory=list)
    unlike: list[str] = field(default_factory=list)


def survey(runner: Runner) -> Survey:
    """The unbroken run, twice: the first also loads what the server hasn't; both must leave the same."""
    found = []
    for name in ("unbroken-0", "unbroken-1"):
        folder = runner.home / name
        start = time.perf_counter()
        if runner.process(folder) != 0:
            raise SystemExit(runner.notes(folder, "log").read_text())
        seconds = time.perf_counter() - start
        found.append(everything(folder))
    if differences(*found):
        raise SystemExit(f"two unbroken runs differ: {differences(*found)}")
    times: dict[str, list[float]] = json.loads(runner.notes(folder, "times").read_text())
    check_learnt(found[0], runner.home)
    usual = {place: sum(t) / len(t) for place, t in times.items() if t}
    return Survey(found[0], {place: len(t) for place, t in times.items()}, usual, seconds)


def check_learnt(found: dict[str, Any], home: Path) -> None:
    """The run is worth repeating: weights moved at every step, contexts were accepted, each rollout stands once."""
    from safetensors.torch import load_file

    steps, start = found["state"]["state"]["step"], load_file(home / "model" / "model.safetensors")
    moved = [n for n, t in start.items() if (found["tensors"][f"weights/{n}"] != t).any()]
    assert found["state"]["learner"]["updates"] == steps, "a step moved no weights"
    assert len(moved) == len(start), f"only {len(moved)} of {len(start)} tensors moved"
    assert sum(m.get("accepted", 0) for m in found["metrics"]) >= 2, "no contexts were accepted"
    assert len(found["state"]["state"]["population"]["contexts"]) == 2, "the population did not grow"
    assert found["state"]["state"]["scorer_errors"] == 0
    keys = [(r["phase"], r["step"], r["idx"]) for r in found["ledger"]["rollouts"]]
    assert len(keys) == len(set(keys)) == sum(found["state"]["state"]["rollouts"].values())
    there = set(keys)
    assert all(index == 0 or (phase, step, index - 1) in there for phase, step, index in keys), "a rollout is missing"


def deck(rng: random.Random) -> Iterator[str]:
    """Places without end; each round has every place as often as it is to be chosen, shuffled."""
    names = [p.name for p in PLACES for _ in range(p.chosen)] + [OUTSIDE] * OUTSIDE_CHOSEN
    while True:
        rng.shuffle(names)
        yield from list(names)


def draw(place: str, seen: Survey, rng: random.Random, most: int | None = None) -> Strike:
    calls = max(1, seen.calls.get(place, 1))  # the unbroken run resumes nothing
    return Strike(
        place, rng.randint(1, min(calls, most or calls)), rng.choice(MOMENTS), rng.random(), seen.usual.get(place, 0.0)
    )


def kill_and_resume(runner: Runner, folder: Path, seen: Survey, place: str, rng: random.Random) -> KilledRun:
    """One run: killed in ``place``, perhaps again while it goes on, then run to its end and compared."""
    run, strike = KilledRun(), draw(place, seen, rng)
    while strike.place == OUTSIDE and not run.deaths:
        code = runner.process(folder, after=rng.uniform(0.0, seen.seconds))
        note_death(run, runner, folder, OUTSIDE, code)
    while strike.place != OUTSIDE:
        code = runner.process(folder, strike)
        if not note_death(run, runner, folder, strike.moment, code):
            break
        if rng.random() >= KILLED_AGAIN:
            break
        again = rng.choice([*(p.name for p in PLACES if p.chosen), "resuming", "resuming"])
        strike = replace(draw(again, seen, rng, most=3), seconds=seen.usual.get(again, 0.02))
    assert run.deaths, f"{strike} was never reached"
    if runner.process(folder) != 0:
        run.unlike = [runner.notes(folder, "log").read_text().strip().splitlines()[-1]]
    else:
        run.unlike = differences(everything(folder), seen.expected)
    return run


def note_death(run: KilledRun, runner: Runner, folder: Path, moment: str, code: int) -> bool:
    """Whether the process was killed; a process that failed by itself is a failure of the whole test."""
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(runner.notes(folder, "log").read_text())
    if code != 0:
        run.deaths.append((Trail.last(runner.notes(folder, "trail")), moment))
    return code != 0


def kill_runs(runner: Runner, seen: Survey, kills: int, seed: int) -> list[KilledRun]:
    runs, places = [], deck(random.Random(f"deck/{seed}"))
    for number in range(kills):
        rng = random.Random(f"kill/{seed}/{number}")
        runs.append(kill_and_resume(runner, runner.home / f"killed-{number:03d}", seen, next(places), rng))
        if runs[-1].unlike:
            print(
                f"run {number}, killed in {runs[-1].deaths}: differs in {', '.join(runs[-1].unlike[:5])}",
                file=sys.stderr,
            )
    return runs


def rows(runs: Sequence[KilledRun]) -> list[list[str]]:
    """place, kills, before, inside, after, by the clock, equal: one row a place, and the sum."""
    kills = [(place, moment, not run.unlike) for run in runs for place, moment in run.deaths]
    order = [p.name for p in PLACES]
    table = []
    for place in sorted({k[0] for k in kills}, key=lambda n: order.index(n) if n in order else len(order)):
        table.append([place, *_row([k for k in kills if k[0] == place])])
    return [*table, ["all", *_row(kills)]]


def _row(kills: Sequence[tuple[str, str, bool]]) -> list[str]:
    moments = Counter(moment for _, moment, _ in kills)
    return [str(n) for n in (len(kills), *(moments[m] for m in (*MOMENTS, OUTSIDE)), sum(k[2] for k in kills))]


COLUMNS = ("killed in", "kills", "before the call", "inside it", "after it", "by the clock", "ended equal")


def report(runs: Sequence[KilledRun]) -> str:
    equal, kills = sum(not r.unlike for r in runs), sum(len(r.deaths) for r in runs)
    return (
        f"**{equal} of {len(runs)}** killed runs ended equal to the unbroken one, bit for bit: weights, optimizer "
        "moments,\nrandom streams, state, contexts, metrics, every row of the ledger (each rollout once) and the "
        "evaluations.\n"
        f"{kills} kills by SIGKILL in all: {kills - len(runs)} of them struck a run that had been killed and resumed "
        f"before.\n\n{markdown_table(COLUMNS, rows(runs))}\n\n"
        "A kill *inside* a call is a file half-written, a transaction between two statements, or a random share of the "
        "time\nthat the call takes. *By the clock* is a kill from another process, wherever the run was then."
    )


def main() -> None:
    import stop  # it imports from here

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="runs to kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, help="a page whose section between the kill markers is rewritten")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(make_home(Path(folder)))
        runs = kill_runs(runner, survey(runner), options.kills, options.seed)
        left = stop.stop_runs(runner.home)
    command = f"python benchmarks/kill.py --kills {options.kills} --seed {options.seed}"
    if options.report:
        command += f" --report {options.report}"
    text = f"{report(runs)}\n\n### Or ask it to stop\n\n{stop.report(left)}\n\nMeasured by `{command}`."
    print(text)
    if options.report:
        rewrite_section(options.report, "kill", text)
    sys.exit(any(run.unlike for run in [*runs, *left]))


if __name__ == "__main__":
    main()
