"""Every Reasoning Gym dataset by name, with a seeded split into distinct training and validation questions."""

from __future__ import annotations

import contextlib
import io
import warnings

from fastslow.config import ReasoningGymTask
from fastslow.tasks.feedback import CORRECT, compose_feedback, miss_notes
from fastslow.tasks.problems import problem_id, seed_context, split_problems
from fastslow.tasks.replies import EVALUATED_AS_EXPRESSION, extract_answer, is_safe_reply
from fastslow.tasks.rg_datasets import Entry, create_dataset, distinct_entries
from fastslow.tasks.scoring import SOLVED
from fastslow.types import Problem, Score

# Scorers of some datasets warn at every reply that isn't a matrix; the reward says it already.
warnings.filterwarnings("ignore", module=r"reasoning_gym\.")

# These score some wrong replies as right (game_of_life_halting: any text but "True" stands for False;
# letter_jumble: any words may follow), so their answers are compared as text.
_COMPARED_AS_TEXT = {"game_of_life_halting", "letter_jumble"}
_PRINTING = {"tower_of_hanoi"}


class ReasoningGymSource:
    """The Task protocol over one dataset; build it with :func:`fastslow.tasks.registry.build_task`."""

    def __init__(self, config: ReasoningGymTask) -> None:
        self.name = config.name
        self.seed_context = seed_context(config.seed_context)
        self.graded = config.reward == "graded"
        self.needs_timeout = config.name in EVALUATED_AS_EXPRESSION or config.name == "composite"
        self._scorer = create_dataset(config.name, config.level, config.config, seed=0, size=1)
        wanted = config.train_size + config.val_size
        entries = distinct_entries(config.name, config.level, config.config, wanted, config.seed)
        self._entries = {problem_id(self.name, entry["question"].strip()): entry for entry in entries}
        problems = [self._problem(id_, entry) for id_, entry in self._entries.items()]
        split = split_problems(problems, config.train_size, config.val_size, config.seed, f"task {self.name}")
        self.train, self.val, self.notes = split.train, split.val, split.notes

    def _problem(self, id_: str, entry: Entry) -> Problem:
        answer = entry["answer"].strip() if isinstance(entry["answer"], str) else None
        return Problem(id_, entry["question"].strip(), answer, entry["metadata"], self.name)

    def score(self, problem: Problem, completion: str) -> Score:
        """``exact``: 1 if Reasoning Gym counts the reply as solved, else 0; ``graded``: its own score."""
        entry = self._entries[problem.id]
        reply = extract_answer(completion)
        reward = self._reward(entry, reply)
        if reward >= SOLVED:
            return Score(1.0, CORRECT)
        if problem.answer is None:
            return Score(reward if self.graded else 0.0, compose_feedback("The reply is not a right answer."))
        notes, advice = miss_notes(problem.answer, reply)
        if self.graded and reward > 0:
            notes.append(f"The reply earned {reward:.2f} of 1.")
        feedback = compose_feedback(notes, advice=advice, expected=problem.answer)
        return Score(reward if self.graded else 0.0, feedback)

    def _reward(self, entry: Entry, reply: str) -> float:
        dataset = entry["metadata"].get("source_dataset", self.name)
        gold = entry["answer"].strip() if isinstance(entry["answer"], str) else None
        if gold is not None and dataset in _COMPARED_AS_TEXT:
            return 1.0 if reply.casefold() == gold.casefold() else 0.0
        if not reply or not (reply == gold or is_safe_reply(dataset, reply)):
            return 0.0
        try:
            quiet = contextlib.redirect_stdout(io.StringIO()) if dataset in _PRINTING else contextlib.nullcontext()
            with quiet:
                return float(self._scorer.score_answer(reply, entry))
        except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, SyntaxError, RecursionError):
            # Several scorers parse the reply without care (prime_factorization: int(reply)): a reply that
            # can't be parsed is a wrong answer, not a broken scorer.
            return 0.0
