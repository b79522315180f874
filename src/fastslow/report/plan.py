"""``fastslow plan``: a plan as a table a person can act on."""

from __future__ import annotations

from rich.table import Table

from fastslow.config import RunConfig
from fastslow.planning import Plan, span
from fastslow.report.text import for_terminal
from fastslow.runs.summary import task_title


def plan_table(config: RunConfig, plan: Plan) -> Table:
    """Counts, then ranges from the low end (what is usual) to the high end (no flat groups, full replies)."""
    subject = task_title(config) or "your data"
    table = Table(title=for_terminal(f"{config.name}: {config.method} on {subject}"), show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    for name, value, note in [*_counts(config, plan), *_needs(config, plan)]:
        table.add_row(name, value, for_terminal(note))
    return table


def _counts(config: RunConfig, plan: Plan) -> list[tuple[str, str, str]]:
    slow = config.slow
    batch = f"{plan.optimizer_steps:,} steps x {slow.problems_per_step} x {slow.group_size}"
    return [
        ("cycles", f"{plan.cycles:,}", f"one every {config.fast.every} slow steps"),
        ("fast rollouts", f"{plan.fast_rollouts:,}", f"at most {config.fast_budget:,} a cycle"),
        ("slow rollouts", f"{plan.slow_rollouts:,}", batch),
        ("training rollouts", f"{plan.training_rollouts:,}", "fast and slow: what comparisons hold equal"),
        ("evaluation rollouts", f"{plan.evaluation_rollouts:,}", "validation problems, seed and evolved context"),
        ("reflections", f"{plan.reflections:,}", f"at most, by the {config.fast.reflector.type} reflector"),
    ]


def _needs(config: RunConfig, plan: Plan) -> list[tuple[str, str, str]]:
    lengths, facts = plan.lengths, plan.facts
    how = "by the model's tokenizer" if lengths.exact else "guessed from characters: no tokenizer here"
    sizes = " to ".join(dict.fromkeys((f"{lengths.problem:,}", f"{lengths.longest:,}")))
    rows = [("prompt tokens", sizes, f"typical and longest problem, {how}")]
    if plan.low is None or plan.high is None or not facts.parameters:
        unknown = "; give --parameters, such as 8B"
        return [*rows, ("parameters", "unknown", facts.source + unknown), ("memory, time", "unknown", "")]
    rows.append(("parameters", _count(facts.parameters), facts.source))
    low, high = plan.low, plan.high
    rows.append(("memory", f"{low.memory / 1e9:.1f} to {high.memory / 1e9:.1f} GB", "one process, at its peak"))
    if plan.disk_bytes:
        one = f"checkpoints of {plan.checkpoint_bytes / 1e9:.1f} GB, weights with AdamW's moments"
        rows.append(("disk", f"{plan.disk_bytes / 1e9:.1f} GB", one))
    if high.seconds:
        rows.append(("time here", span(low.total, high.total), "speed measured just now; the endpoint's time apart"
                     if config.fast.reflector.type == "endpoint" else "speed measured just now"))  # fmt: skip
        rows += [(f"  {name}", span(low.seconds[name], high.seconds[name]), "") for name in high.seconds]
    usual = "low: half of the groups flat, usual replies and contexts; high: no flat groups, everything to its cap"
    return [*rows, ("", "", usual)]


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:,.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:,.0f} M"
