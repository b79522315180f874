"""``fastslow plan``: a plan as a table a person can act on."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from fastslow.config import RunConfig
from fastslow.planning import Plan


def plan_table(config: RunConfig, plan: Plan) -> Table:
    table = Table(
        title=escape(f"{config.name}: {config.method} on {config.task.name or 'your data'}"), show_header=False
    )
    table.add_column(justify="left")
    table.add_column(justify="right")
    table.add_column(style="dim")
    slow = config.slow
    table.add_row("cycles", str(plan.cycles), f"one every {config.fast.every} slow steps")
    table.add_row("fast rollouts", f"{plan.fast_rollouts:,}", f"at most {config.fast_budget:,} a cycle")
    table.add_row(
        "slow rollouts",
        f"{plan.slow_rollouts:,}",
        f"{plan.optimizer_steps:,} steps x {slow.problems_per_step} x {slow.group_size}",
    )
    table.add_row("training rollouts", f"{plan.training_rollouts:,}", "fast and slow: what comparisons hold equal")
    table.add_row(
        "evaluation rollouts", f"{plan.evaluation_rollouts:,}", "validation problems, seed and evolved context"
    )
    table.add_row("reflections", f"{plan.reflections:,}", f"at most, by the {config.fast.reflector.type} reflector")
    parameters = f"{plan.parameters / 1e6:,.0f} M" if plan.parameters else "unknown"
    table.add_row("parameters", parameters, "" if plan.parameters else "no weights here and no size in the name")
    table.add_row("memory", f"{plan.memory_gb:.1f} GB" if plan.memory_gb else "unknown", "estimate, one process")
    table.add_row("time", _duration(plan.seconds), "estimate for this machine, from its matrix rate")
    return table


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
