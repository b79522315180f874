"""What a run will take, before it starts: rollouts, reflections, and a range of memory, disk and time.

The high end supposes that no group is flat, that every reply uses all its tokens and that contexts grow to their cap;
the low end supposes what is usual. Counts are upper bounds. Nothing is trained and no weights are loaded.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

from fastslow import costs
from fastslow.config import EMBEDDED_MODEL, RunConfig
from fastslow.costs import Speed
from fastslow.fast.budget import plan as split_budget
from fastslow.policy.facts import ModelFacts
from fastslow.policy.prompts import PromptRenderer
from fastslow.preflight import Lengths, measure_lengths

USUAL_FLAT_SHARE = 0.5
"""Of a step's groups; 46% in the demo's FST arm. Reinforcement learning that never sees a reward has 100%."""
USUAL_REPLY = 0.25
"""Share of max_new_tokens that a reply takes, if the gold answers aren't longer."""
USUAL_CONTEXTS = 0.5
"""Share of K contexts that a population holds on average: it starts from one."""
USUAL_BUDGET = 0.75
"""Share of a cycle's metric calls that are spent; the rest is too little for another iteration."""
_PART = 128
HUB_LENGTHS = Lengths(problem=256, seed_context=0, longest=512, longest_id="?")
"""Supposed of a hub dataset: a plan downloads nothing."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """One end of the range: seconds by phase, and peak bytes."""

    seconds: dict[str, float]
    memory: float

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


@dataclass(frozen=True, slots=True)
class Plan:
    """Counts are upper bounds; ``low`` and ``high`` are None where the model's size is unknown."""

    cycles: int
    fast_rollouts: int
    slow_rollouts: int
    evaluation_rollouts: int
    reflections: int
    optimizer_steps: int
    facts: ModelFacts
    lengths: Lengths
    low: Estimate | None = None
    high: Estimate | None = None
    checkpoint_bytes: float = 0.0
    disk_bytes: float = 0.0

    @property
    def training_rollouts(self) -> int:
        return self.fast_rollouts + self.slow_rollouts


@dataclass(frozen=True, slots=True)
class _Case:
    """What one end of the range supposes; tokens, and shares in [0, 1]."""

    reply: float  # mean tokens of a reply
    longest: float  # tokens until the last of a batch's replies ends
    context: float
    contexts: float  # in use
    flat: float
    budget: float


def task_lengths(config: RunConfig, facts: ModelFacts) -> Lengths:
    """Lengths of the task's problems, by the model's own tokenizer where it lies on this machine."""
    from fastslow.tasks.registry import build_task

    if any(getattr(task, "path", "").startswith("hub:") for task in config.tasks):
        return HUB_LENGTHS
    renderer, found = local_renderer(config, facts), []
    for task in config.tasks:  # a part of it says enough: some datasets take minutes to generate in full
        part = {"train_size": min(task.train_size, _PART), "val_size": min(task.val_size, _PART)}
        found.append(measure_lengths(build_task(task.model_copy(update=part), check=False), renderer))
    longest = max(found, key=lambda lengths: lengths.longest)
    gold = tuple(tokens for lengths in found for tokens in lengths.gold)
    return replace(longest, problem=max(lengths.problem for lengths in found), gold=gold)


def local_renderer(config: RunConfig, facts: ModelFacts) -> PromptRenderer | None:
    """The prompts of a model whose tokenizer is on this machine; None elsewhere."""
    if facts.folder is None or not any(facts.folder.glob("tokenizer*")):
        return None
    from fastslow.policy.loading import load_tokenizer

    tokenizer = load_tokenizer(str(facts.folder), None)
    return PromptRenderer(tokenizer, config.model.prompt, prefers_user_turn=config.model.name == EMBEDDED_MODEL)


def make_plan(
    config: RunConfig, facts: ModelFacts, lengths: Lengths, speeds: tuple[Speed, Speed] | None = None
) -> Plan:
    """Plan ``config``. ``speeds``: of sampling and training, measured here (:func:`fastslow.costs.measure_speed`)."""
    steps = config.steps
    batch = config.slow.problems_per_step * config.slow.group_size
    if config.method == "rl" and config.max_rollouts is not None:
        steps = min(steps, config.max_rollouts // batch)
    cycles = 0 if config.method == "rl" else sum(math.ceil(s.steps / config.fast.every) for s in config.stages)
    fast = cycles * config.fast_budget
    slow = 0 if config.method == "gepa" else steps * batch
    if config.max_rollouts is not None:
        fast = min(fast, config.max_rollouts)
        slow = min(slow, config.max_rollouts - fast)
        cycles = min(cycles, math.ceil(fast / config.fast_budget)) if cycles else 0
    plan = Plan(
        cycles=cycles,
        fast_rollouts=fast,
        slow_rollouts=slow,
        evaluation_rollouts=_measurements(config, steps, cycles) * _validation_rollouts(config),
        reflections=math.ceil(fast / (2 * config.fast.minibatch)) if cycles else 0,
        optimizer_steps=math.ceil(slow / batch),
        facts=facts,
        lengths=lengths,
    )
    if not facts.parameters:
        return plan
    ends = {}
    for name, case in zip(("low", "high"), _cases(config, lengths), strict=True):
        seconds = {} if speeds is None else _seconds(config, plan, case, *speeds)
        ends[name] = Estimate(seconds, _memory(config, facts, lengths, case, speeds[0].width if speeds else 4))
    one, together = costs.checkpoint_bytes(config, facts)
    return replace(plan, **ends, checkpoint_bytes=one, disk_bytes=together)


def _measurements(config: RunConfig, steps: int, cycles: int) -> int:
    """Contexts measured at all evaluations: the seed at the start, then seed and evolved. Frozen weights measure the
    seed context once; a run without contexts measures nothing else."""
    if config.method == "gepa":
        every = config.evaluation.every
        return len(config.stages) + (math.ceil(cycles * config.fast.every / every) if every else 1)
    every = config.evaluation.every
    ends = list(itertools.accumulate(stage.steps for stage in config.stages))
    due = {*(range(every, steps + 1, every) if every else ()), *(min(end, steps) for end in ends)} - {0}
    return 1 + len(due) * (1 if config.method == "rl" else 2)


def _validation_rollouts(config: RunConfig) -> int:
    sizes = [min(config.evaluation.problems or task.val_size, task.val_size) for task in config.tasks]
    return sum(sizes) * config.evaluation.n


def _cases(config: RunConfig, lengths: Lengths) -> tuple[_Case, _Case]:
    most = config.sampling.max_new_tokens
    gold = sum(lengths.gold) / len(lengths.gold) if lengths.gold else 0.0
    reply = min(most, max(gold, USUAL_REPLY * most))
    cap, seed = config.fast.max_context_tokens, lengths.seed_context
    usual, full = seed, seed
    if config.method != "rl":
        reflector = config.fast.reflector
        example = lengths.problem + min(most, gold or reply)
        full = cap if reflector.type != "feedback" else min(cap, reflector.max_examples * example + 2 * example)
        usual = max(seed, full / 2)
    many = config.contexts_in_use
    return (
        _Case(reply, min(most, 2 * reply), usual, max(1.0, USUAL_CONTEXTS * many), USUAL_FLAT_SHARE, USUAL_BUDGET),
        _Case(most, most, max(seed, full), many, 0.0, 1.0),
    )


def _seconds(config: RunConfig, plan: Plan, case: _Case, sampling: Speed, training: Speed) -> dict[str, float]:
    facts, problem = plan.facts, plan.lengths.problem
    slow, contexts = config.slow, case.contexts

    def call(rows: float, pairs: float, new_contexts: float) -> float:
        """One call of the sampler: contexts and problems prefilled, then decoding until the last reply ends."""
        batches = max(1, math.ceil(rows / config.sampling.batch_size))
        rows, pairs = rows / batches, pairs / batches
        time = new_contexts * costs.prefill_seconds(facts, sampling, case.context)
        time += batches * costs.prefill_seconds(facts, sampling, pairs * problem, case.context)
        active = rows * case.reply / case.longest
        own = problem + case.reply / 2
        return time + batches * case.longest * costs.decode_seconds(facts, sampling, active, own, case.context)

    found = {"loading": costs.LOADING_SECONDS}
    if plan.cycles:
        budget = case.budget * plan.fast_rollouts / plan.cycles
        anchors = split_budget(
            max(1, round(budget)), round(contexts), config.lookahead, config.fast.proposals, config.fast.minibatch
        ).anchors
        small = config.fast.proposals * config.fast.minibatch
        half = budget / 2
        time = half / small * call(small, small, config.fast.proposals / 2) + half / anchors * call(anchors, anchors, 0)
        found["fast phases"] = plan.cycles * (time + _reflecting(config, plan, case, sampling))
    if plan.optimizer_steps:
        rows, pairs = slow.problems_per_step * slow.group_size, slow.problems_per_step * contexts
        found["slow: rollouts"] = plan.optimizer_steps * call(rows, pairs, contexts)
        found["slow: training"] = plan.optimizer_steps * _training(config, facts, problem, case, training)
    rows = _validation_rollouts(config)
    if rows:
        found["evaluations"] = plan.evaluation_rollouts / rows * call(rows, rows, 1)
    if plan.optimizer_steps:  # drift: replies to the validation problems, and both models' forwards over them
        tokens = min(rows, config.evaluation.problems or rows) * (problem + case.reply)
        twice = call(rows, rows, 1) + 2 * costs.prefill_seconds(facts, training, tokens, case.context)
        found["drift"] = 2 * (twice + 2 * costs.head_seconds(facts, training, rows * case.reply))
    return found


def _reflecting(config: RunConfig, plan: Plan, case: _Case, speed: Speed) -> float:
    """Seconds of a cycle's reflections where the model reflects on itself, one at a time."""
    reflector = config.fast.reflector
    if reflector.type != "policy":
        return 0.0
    tokens = reflector.max_new_tokens * (1.0 if case.flat == 0 else USUAL_REPLY)
    one = tokens * costs.decode_seconds(plan.facts, speed, 1, tokens, case.context)
    return plan.reflections / plan.cycles * case.budget * one


def _training(config: RunConfig, facts: ModelFacts, problem: float, case: _Case, speed: Speed) -> float:
    """One update: forward and backward over the step's forest, the reference model's forward, the optimizer."""
    tokens, below, replies = _step_tokens(config, problem, case)
    parts = max(1, math.ceil(tokens / config.slow.token_budget))
    tokens += (parts - 1) * case.context  # a context split over micro-batches is computed in each
    distills = config.method == "fst-distill"  # the teacher's forward stands where the reference model's would
    forwards = costs.TRAINED_FORWARDS + (1 if config.slow.kl > 0 or distills else 0)
    context = case.context * below / max(1.0, tokens)
    time = forwards * parts * costs.prefill_seconds(facts, speed, tokens / parts, context)
    time += forwards * costs.head_seconds(facts, speed, replies)
    return time + costs.update_seconds(costs.trained_parameters(config, facts), speed)


def _step_tokens(config: RunConfig, problem: float, case: _Case) -> tuple[float, float, float]:
    """(tokens of a slow step's forest, those below a context, those of replies) over the groups that aren't flat."""
    slow, contexts = config.slow, case.contexts
    replies = (1 - case.flat) * slow.problems_per_step * slow.group_size * case.reply
    below = (1 - case.flat) * slow.problems_per_step * contexts * problem + replies
    return contexts * case.context + below, below, replies


def _memory(config: RunConfig, facts: ModelFacts, lengths: Lengths, case: _Case, width: int) -> float:
    """Peak bytes: of sampling, or of the largest micro-batch with its gradients, whichever is more."""
    rows = max(config.slow.problems_per_step * config.slow.group_size, _validation_rollouts(config))
    sampling = costs.cache_bytes(config, facts, rows, lengths.problem, width)
    if config.method == "gepa":
        return costs.fixed_bytes(config, facts, width) + sampling
    tokens, below, replies = _step_tokens(config, lengths.problem, case)
    share = min(1.0, config.slow.token_budget / tokens)
    training = 4.0 * costs.trained_parameters(config, facts)
    training += costs.activation_bytes(facts, tokens * share, below * share, case.context)
    training += costs.head_bytes(facts, replies * share)
    return costs.fixed_bytes(config, facts, width) + max(sampling, training)


def span(low: float, high: float) -> str:
    """A range of seconds in one unit: ``2.0 to 6.0 min``."""
    units = (("years", 365.25 * 86400), ("days", 86400.0), ("h", 3600.0), ("min", 60.0))
    unit, seconds = next(((name, s) for name, s in units if high >= 2 * s), ("s", 1.0))
    ends = dict.fromkeys((_short(low / seconds), _short(high / seconds)))
    return f"{' to '.join(ends)} {unit}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
