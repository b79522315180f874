"""What can be wrong although every field is valid, found from the task and the tokenizer before compute is spent:
prompts that outgrow the model's window, and replies that are cut off before a gold answer ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fastslow.config import RunConfig
from fastslow.errors import ModelError
from fastslow.policy.prompts import PromptRenderer
from fastslow.tasks.base import Task
from fastslow.types import Problem

CHARACTERS_PER_TOKEN = 3.5
PROMPT_FRAME = 6  # tokens of "Question:", "Answer:" and the like
_SAMPLE = 64
_LONGEST = 32  # the longest problems by characters, among which the longest by tokens is looked for


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of a task's prompts and gold answers.

    ``problem``: of a typical training problem, its context apart. ``seed_context``: of the seed context.
    ``longest``: of the longest prompt, ``longest_id`` under the seed context. ``gold``: of a sample of gold answers,
    with the token that ends a reply. ``exact``: counted by the model's tokenizer, not estimated from characters.
    """

    problem: int
    seed_context: int
    longest: int
    longest_id: str
    gold: tuple[int, ...] = ()
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Preflight:
    """``max_context_tokens``: the cap that contexts are held to, so that every problem fits. ``notes``: for people."""

    max_context_tokens: int
    notes: tuple[str, ...] = ()


def measure_lengths(task: Task, renderer: PromptRenderer | None) -> Lengths:
    """Lengths of ``task`` in tokens of the renderer's tokenizer, or estimated where there is none."""
    seed = task.seed_context
    everything = [*task.train, *task.val]
    longest = sorted(everything, key=_characters, reverse=True)[:_LONGEST]
    typical = task.train[:_SAMPLE]
    gold = [p.answer for p in everything[:: max(1, len(everything) // _SAMPLE)][:_SAMPLE] if p.answer is not None]
    if renderer is None:
        shared = _estimate(sum(map(len, seed.components.values())))
        problem = math.ceil(sum(_estimate(_characters(p)) for p in typical) / len(typical)) + PROMPT_FRAME
        most = shared + _estimate(_characters(longest[0])) + PROMPT_FRAME
        return Lengths(problem, shared, most, longest[0].id, tuple(_estimate(len(g)) + 1 for g in gold))
    sizes = {p.id: renderer.render(seed, p) for p in typical}
    problem = math.ceil(sum(len(ids) - shared for ids, shared in sizes.values()) / len(sizes))
    most, which = max((len(renderer.render(seed, p)[0]), p.id) for p in longest)
    replies = tuple(renderer.reply_tokens(g) + 1 for g in gold)
    return Lengths(problem, renderer.context_tokens(seed), most, which, replies, exact=True)


def check_prompts(config: RunConfig, lengths: Lengths, window: int | None) -> Preflight:
    """Raises :class:`ModelError` where the longest problem has no room in the model's ``window`` (None: no limit).

    Contexts that may grow into the window are no error: they are held to what fits, and a note says so.
    """
    cap, notes = config.fast.max_context_tokens, []
    if window is not None:
        room = window - config.sampling.max_new_tokens - lengths.longest
        if room < 0:
            raise ModelError(too_long(config, lengths, window))
        fits = room + lengths.seed_context
        if config.method != "rl" and fits < cap:
            if fits < 1:
                raise ModelError(f"{too_long(config, lengths, window)}: no room is left for a context")
            notes.append(
                f"fast.max_context_tokens = {cap}: contexts are held to {fits} tokens, because the longest problem "
                f"({lengths.longest_id!r}, {lengths.longest - lengths.seed_context} tokens) and "
                f"{config.sampling.max_new_tokens} new ones fill the rest of the model's {window}"
            )
            cap = fits
    if note := cut_off(config, lengths):
        notes.append(note)
    return Preflight(cap, tuple(notes))


def too_long(config: RunConfig, lengths: Lengths, window: int) -> str:
    return (
        f"sampling.max_new_tokens: problem {lengths.longest_id!r} takes {lengths.longest} prompt tokens under the seed "
        f"context and up to {config.sampling.max_new_tokens} new ones, but the model holds {window}; lower "
        "sampling.max_new_tokens, shorten task.seed_context, or leave that problem out"
    )


def cut_off(config: RunConfig, lengths: Lengths) -> str | None:
    """What to say where gold answers don't fit into a reply; None where all of the sample do."""
    limit = config.sampling.max_new_tokens
    if not (over := gold_over(lengths.gold, limit)):
        return None
    share = "every gold answer" if over == len(lengths.gold) else f"{over} of {len(lengths.gold)} gold answers"
    about = "" if lengths.exact else "about "
    return (
        f"sampling.max_new_tokens = {limit} cuts off {share} (up to {about}{max(lengths.gold)} tokens with the end): "
        f"such a reply earns nothing; raise it to {max(lengths.gold)} or more"
    )


def gold_over(gold: Sequence[int], limit: int) -> int:
    """How many gold answers a reply of ``limit`` tokens can't hold, the token that ends it included."""
    return sum(tokens > limit for tokens in gold)


def _characters(problem: Problem) -> int:
    return len(problem.text) + sum(len(str(m["content"])) for m in problem.messages)


def _estimate(characters: int) -> int:
    return math.ceil(characters / CHARACTERS_PER_TOKEN)
