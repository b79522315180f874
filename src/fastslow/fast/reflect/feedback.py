"""The reflector that needs no LLM: it composes advice found in feedback and worked examples from training problems.

Each call makes one small seeded move on the context, or two: add advice, add, replace, drop or reorder worked
examples, drop a line of advice. From a context without examples it starts with several at once, since a small model
learns an answer's form from examples long before it follows instructions. Crossing two contexts is GEPA's merge.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fastslow.config import FeedbackReflector as FeedbackConfig
from fastslow.fast.base import Proposal, Record
from fastslow.seeds import derive_seed
from fastslow.tasks.feedback import advice_in, expected_in
from fastslow.types import EXAMPLES, INSTRUCTIONS, Context, Problem
from fastslow.worked_examples import WorkedExample, format_examples, parse_examples

_BULLET = "- "
_ADVICE_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class _Draft:
    """A context taken apart. ``done`` tells in words what was changed so far."""

    lines: tuple[str, ...]
    examples: tuple[WorkedExample, ...]
    done: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Material:
    """What one call may draw from: advice not in the context yet, and examples not in it yet, best first."""

    advice: tuple[str, ...]
    examples: tuple[WorkedExample, ...]


Move = Callable[[_Draft, _Material, random.Random], _Draft | None]


class FeedbackReflector:
    """See the module. Stateless: a proposal is a function of its arguments and of the pool.

    ``max_examples`` caps the worked examples of a context; ``pool`` holds training problems whose gold answers may
    become worked examples. The problems of the records themselves are used only where the pool runs dry: a context
    that shows them can't be judged on them.
    """

    name = "feedback"

    def __init__(self, max_examples: int = 4, pool: Sequence[Problem] = ()) -> None:
        self.max_examples = max_examples
        self.pool = tuple(pool)

    @classmethod
    def from_config(cls, config: FeedbackConfig, generate: object = None) -> FeedbackReflector:
        return cls(config.max_examples)

    def set_pool(self, problems: Sequence[Problem]) -> None:
        """The training problems of the coming cycle."""
        self.pool = tuple(problems)

    def propose(self, context: Context, records: Sequence[Record], components: Sequence[str], seed: int) -> Proposal:
        """One or two moves; None where the records and the pool offer nothing that is not in the context yet."""
        rng = random.Random(derive_seed(seed, "feedback", context.id))
        draft = _take_apart(context)
        material = self._material(draft, records, rng)
        has_examples = EXAMPLES in components and self.max_examples > 0
        start = _draft_start(self.max_examples)
        first: list[Move] = [start] if has_examples and not draft.examples else []
        moves = self._moves(draft, INSTRUCTIONS in components, has_examples)
        for move in [*first, *_shuffled(moves, rng)]:
            changed = move(draft, material, rng)
            if changed is None:
                continue
            if INSTRUCTIONS in components and move in (start, _add_examples) and rng.random() < 0.5:
                changed = _add_advice(changed, material, rng) or changed
            texts = _put_together(changed, context)
            edited = {name: text for name, text in texts.items() if text != context.components.get(name, "")}
            if edited:
                return Proposal(edited, "; ".join(changed.done))
        return Proposal(None, "nothing to add, change or drop")

    def _moves(self, draft: _Draft, has_instructions: bool, has_examples: bool) -> list[tuple[Move, float]]:
        """Moves that make sense here, with their weights."""
        moves: list[tuple[Move, float]] = []
        if has_instructions:
            moves += [(_add_advice, 3.0), (_drop_line, 0.5)]
        if has_examples:
            is_full = len(draft.examples) >= self.max_examples
            moves += [(_replace_example, 3.0), (_reorder, 1.0)]
            # Dropping from a short list would undo what the start has built.
            moves += [(_drop_example, 1.0)] if is_full else [(_add_examples, 4.0), (_drop_example, 0.25)]
            moves += [(_renew_half, 1.5)]
        return moves

    def _material(self, draft: _Draft, records: Sequence[Record], rng: random.Random) -> _Material:
        known = " ".join("\n".join(draft.lines).split()).casefold()
        advice = dict.fromkeys(a for r in records if r.reward < 1 for a in advice_in(r.feedback))
        unseen = tuple(a for a in advice if " ".join(a.split()).casefold() not in known)

        read = {r.problem.id for r in records}
        pooled = [
            WorkedExample(p.text, p.answer) for p in self.pool if p.answer and p.id not in read and not p.messages
        ]
        rng.shuffle(pooled)
        missed_first = sorted(records, key=lambda r: r.reward)
        told = [e for r in missed_first if (e := _from_record(r)) is not None]
        shown = {e.question for e in draft.examples}
        fresh = {e.question: e for e in (*pooled, *told) if e.question not in shown}
        return _Material(unseen, tuple(fresh.values()))


def _draft_start(most: int) -> Move:
    def start(draft: _Draft, material: _Material, rng: random.Random) -> _Draft | None:
        wanted = rng.randint(min(2, most), most)
        return _with_more(draft, material, wanted)

    return start


def _add_examples(draft: _Draft, material: _Material, rng: random.Random) -> _Draft | None:
    return _with_more(draft, material, 1)


def _with_more(draft: _Draft, material: _Material, wanted: int) -> _Draft | None:
    added = _diverse(material.examples, draft.examples, wanted)
    if not added:
        return None
    plural = "s" if len(added) > 1 else ""
    examples = _varied_end([*draft.examples, *added])
    return replace(draft, examples=examples, done=(*draft.done, f"add {len(added)} worked example{plural}"))


def _replace_example(draft: _Draft, material: _Material, rng: random.Random) -> _Draft | None:
    return _swap(draft, material, rng, 1, "replace a worked example")


def _renew_half(draft: _Draft, material: _Material, rng: random.Random) -> _Draft | None:
    count = max(1, len(draft.examples) // 2)
    return _swap(draft, material, rng, count, f"replace {count} worked examples") if count > 1 else None


def _swap(draft: _Draft, material: _Material, rng: random.Random, count: int, done: str) -> _Draft | None:
    if len(draft.examples) < count:
        return None
    places = rng.sample(range(len(draft.examples)), count)
    kept = [e for i, e in enumerate(draft.examples) if i not in places]
    added = _diverse(material.examples, kept, count)
    if len(added) < count:
        return None
    examples = list(draft.examples)
    for place, example in zip(places, added, strict=True):
        examples[place] = example
    return replace(draft, examples=_varied_end(examples), done=(*draft.done, done))


def _drop_example(draft: _Draft, material: _Material, rng: random.Random) -> _Draft | None:
    if len(draft.examples) < 2:
        return None
    place = rng.randrange(len(draft.examples))
    examples = tuple(e for i, e in enumerate(draft.examples) if i != place)
    return replace(draft, examples=examples, done=(*draft.done, "drop a worked example"))


def _reorder(draft: _Draft, material: _Material, rng: random.Random) -> _Draft | None:
    if len(draft.examples) < 2:
        return None
    examples = list(draft.examples)
    rng.shuffle(examples)
    return replace(draft, examples=_varied_end(examples), done=(*draft.done, "reorder the worked examples"))


def _add_advice(draft: _Draft, material: _Material, rng: random.Random) -> _Draft | None:
    if not material.advice:
        return None
    chosen = rng.sample(material.advice, min(_ADVICE_AT_ONCE, len(material.advice)))
    lines = (*draft.lines, *(_BULLET + advice for advice in chosen))
    return replace(draft, lines=lines, done=(*draft.done, "add the advice: " + " ".join(chosen)))


def _drop_line(draft: _Draft, material: _Material, rng: random.Random) -> _Draft | None:
    bullets = [i for i, line in enumerate(draft.lines) if line.startswith(_BULLET)]
    if not bullets:
        return None
    place = rng.choice(bullets)
    lines = tuple(line for i, line in enumerate(draft.lines) if i != place)
    return replace(draft, lines=lines, done=(*draft.done, "drop a line of advice"))


def _diverse(
    candidates: Sequence[WorkedExample], beside: Sequence[WorkedExample], count: int
) -> tuple[WorkedExample, ...]:
    """The first ``count`` candidates, those first whose answer no other example has."""
    answers = {e.answer for e in beside}
    chosen: list[WorkedExample] = []
    rest: list[WorkedExample] = []
    for example in candidates:
        (rest if example.answer in answers else chosen).append(example)
        answers.add(example.answer)
    return tuple([*chosen, *rest][:count])


def _varied_end(examples: Sequence[WorkedExample]) -> tuple[WorkedExample, ...]:
    """The last answer weighs most with a small model, so it shall not repeat the one before it."""
    ordered = list(examples)
    if len(ordered) > 2 and ordered[-1].answer == ordered[-2].answer:
        for i, example in enumerate(ordered[:-2]):
            if example.answer != ordered[-1].answer:
                ordered[i], ordered[-1] = ordered[-1], ordered[i]
                break
    return tuple(ordered)


def _from_record(record: Record) -> WorkedExample | None:
    """The record as a worked example: the expected reply, else the gold answer, else a reply that solved it."""
    solved = record.completion.strip() if record.reward >= 1 else ""
    answer = expected_in(record.feedback) or record.problem.answer or solved
    # A question that closes a conversation means little without the turns before it.
    return WorkedExample(record.problem.text, answer) if answer and not record.problem.messages else None


def _shuffled(moves: Sequence[tuple[Move, float]], rng: random.Random) -> list[Move]:
    """All moves in a random order in which heavier ones tend to come first (exponential clocks)."""
    return [move for _, _, move in sorted((rng.expovariate(w), i, move) for i, (move, w) in enumerate(moves))]


def _take_apart(context: Context) -> _Draft:
    try:
        examples = tuple(parse_examples(context.examples))
    except ValueError:
        examples = ()  # Hand-written examples in another form: the start writes them anew.
    return _Draft(tuple(line for line in context.instructions.split("\n") if line.strip()), examples)


def _put_together(draft: _Draft, context: Context) -> dict[str, str]:
    """Only what the moves changed is written anew: an untouched component keeps its text to the letter."""
    before = _take_apart(context)
    texts: dict[str, str] = {}
    if draft.lines != before.lines:
        texts[INSTRUCTIONS] = "\n".join(draft.lines)
    if draft.examples != before.examples:
        texts[EXAMPLES] = format_examples(draft.examples)
    return texts
