"""The parts of a loop, small enough to reason about: every call is kept, and nothing is random but by seed."""

from __future__ import annotations

from collections.abc import Sequence

from fastslow.fast.base import FastReport
from fastslow.fast.population import Population
from fastslow.runs.recorder import Recorder
from fastslow.seeds import derive_seed
from fastslow.types import Completion, Context, Problem, Request, Score


class FakeTask:
    """Problem i asks for the reply ``i``; train and validation are disjoint."""

    name = "fake"
    seed_context = Context({"instructions": "", "examples": ""})

    def __init__(self, train: int = 12, val: int = 5) -> None:
        self.train = tuple(self._problem("train", i) for i in range(train))
        self.val = tuple(self._problem("val", i) for i in range(val))

    @staticmethod
    def _problem(split: str, i: int) -> Problem:
        return Problem(f"{split}-{i}", f"Question number {i} of {split}: how many?", str(i), {}, "fake")

    def score(self, problem: Problem, completion: str) -> Score:
        solved = completion == problem.answer
        return Score(float(solved), "Correct." if solved else f"Wrong.\nAdvice: Say {problem.answer}.")


class FakeLearner:
    """Counts updates; flat batches move nothing."""

    def __init__(self) -> None:
        self.calls: list[list] = []
        self.weights_step = 0

    def update(self, groups) -> dict[str, float]:
        self.calls.append(list(groups))
        flat = sum(g.is_flat for g in groups)
        self.weights_step += flat < len(groups)
        return {"flat_groups": float(flat), "rescued_groups": 1.0, "groups": float(len(groups)), "loss": 0.5}

    def state(self):
        return {}, {}

    def load_state(self, tensors, state) -> None:
        raise AssertionError("nothing to load in these tests")


class ScriptedSampler:
    """Gives the gold answer to every ``period``-th sample, by its seed; ``cut`` of them are cut off."""

    def __init__(self, learner: FakeLearner, period: int = 2, cut_period: int = 0) -> None:
        self.learner, self.period, self.cut_period = learner, period, cut_period
        self.calls: list[list[Request]] = []

    @property
    def weights_step(self) -> int:
        return self.learner.weights_step

    @property
    def requests(self) -> list[Request]:
        return [r for call in self.calls for r in call]

    def sample(self, requests: Sequence[Request]) -> list[list[Completion]]:
        self.calls.append(list(requests))
        return [[self._complete(r, i) for i in range(r.n)] for r in requests]

    def _complete(self, request: Request, sample: int) -> Completion:
        draw = derive_seed(request.seed, sample)
        context = tuple(request.context.id.encode())
        text = request.problem.answer if draw % self.period == 0 else "?"
        cut = bool(self.cut_period) and draw % self.cut_period == 0
        prompt = (*context, *request.problem.id.encode())
        return Completion(prompt, len(context), (1, 2, 3), (-0.1, -0.2, -0.3), text, "length" if cut else "stop")

    def context_tokens(self, context: Context) -> int:
        return sum(len(text.split()) for text in context.components.values())


class FakeOptimizer:
    """Tries the population on its problems until the budget is spent, and adds one context a cycle."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.calls: list[dict] = []

    def evolve(self, population, problems, evaluate, budget, *, cycle, weights_step, seed):
        self.calls.append({"problems": list(problems), "budget": budget, "cycle": cycle, "weights_step": weights_step})
        new = Context({"instructions": f"rule {cycle}", "examples": ""}, birth_cycle=cycle)
        contexts = (new, *population.contexts)[: self.k]
        pairs = [(c, p) for c in contexts for p in problems][:budget]
        rollouts = evaluate(pairs)
        scores: dict[str, dict[str, float]] = {}
        for rollout in rollouts:
            scores.setdefault(rollout.context_id, {})[rollout.problem_id] = rollout.reward
        evolved = Population(contexts, population.archive, scores, weights_step, cycle)
        return evolved, FastReport(len(rollouts), 1, 1, 0)


class NotedRecorder(Recorder):
    """Writes nothing; keeps what it hears, in order."""

    def __init__(self) -> None:
        self.events: list[tuple] = []
        self.all_rollouts: list = []

    def begin(self, loop) -> None:
        return

    def boundary(self, loop, save) -> None:
        self.events.append(("boundary", loop.state.step, save))

    def begin_update(self) -> None:
        self.events.append(("begin_update",))

    def note(self, loop) -> None:
        self.events.append(("note", loop.state.step))

    def rollouts(self, phase, state, rollouts) -> None:
        self.events.append(("rollouts", phase, len(rollouts)))
        self.all_rollouts += rollouts

    def context_event(self, event) -> None:
        self.events.append(("context", event["kind"]))

    def fast(self, state, cycle, report, seconds) -> None:
        self.events.append(("fast", cycle, report))

    def slow(self, state, values, sampling, seconds) -> None:
        self.events.append(("slow", state.step, values))

    def evaluation(self, loop, seed_context, evolved, stage=None, stages=None) -> None:
        self.events.append(("evaluation", loop.state.step, seed_context, evolved))

    def of(self, kind: str) -> list[tuple]:
        return [e for e in self.events if e[0] == kind]
