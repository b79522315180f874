"""The fast phase of the trainer: rank 0 drives GEPA, every process samples and scores its share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from fastslow.config import PolicyReflector
from fastslow.seeds import derive_seed
from fastslow.trl.rollouts import Sampled
from fastslow.trl.sampling import reply_length
from fastslow.types import Context, Problem, Request

if TYPE_CHECKING:
    from fastslow.trl.trainer import FSTTrainer

EMPTY = Context({"instructions": "", "examples": ""})


class FastPhases:
    """Part of :class:`~fastslow.trl.trainer.FSTTrainer`."""

    _calls = 0
    _call: Any = None

    def lookahead(self: FSTTrainer, cycle: int) -> list[Problem]:
        """The problems of the T batches of ``cycle``, each once."""
        size = self.args.problems_per_batch * self.args.fast_every
        return [self.problems[i] for i in dict.fromkeys(self.order[cycle * size : (cycle + 1) * size])]

    def phase_budget(self: FSTTrainer) -> int:
        """Rollouts that the coming fast phase may take; below 1 there is none."""
        size = self.args.problems_per_batch * self.args.fast_every
        return self.fast.budget or max(1, round(self.fast.passes * size))

    def fast_phase(self: FSTTrainer, cycle: int) -> None:
        """Evolve the contexts under the current weights. Rank 0 drives; every process samples and scores its share,
        and holds the same population afterwards."""
        started, budget, optimizer = time.perf_counter(), self.phase_budget(), self.optimizer_of_contexts
        if budget < 1 or optimizer is None:
            return
        self._calls = 0

        def work(call: Any) -> Any:
            self._call = call
            return optimizer.evolve(
                self.population,
                self.lookahead(cycle),
                lambda pairs: call(("roll out", list(pairs))),
                budget,
                cycle=cycle,
                weights_step=self.state.global_step,
                seed=self.args.seed,
            )

        self.fst_state.population, report = self.processes.drive(work, lambda r: self._serve(cycle, *r))
        seconds = time.perf_counter() - started
        self.fst_state.seconds["fast"] += seconds
        self.listener.fast(self.fst_state, cycle, report, seconds)

    def _serve(self: FSTTrainer, cycle: int, kind: str, *request: Any) -> Any:
        """What every process does at once when rank 0 asks for it."""
        seed = derive_seed(self.args.seed, "fast", cycle, self._calls)
        self._calls += 1
        if kind == "reflect":
            return self._reply(*request)
        (pairs,) = request
        share = self.processes.share(pairs)
        requests = [Request(c, p, 1, seed) for c, p in share]
        prompts = self.processes.try_together(lambda: [self.sampler.render(r) for r in requests])
        completions = self.sampler.complete(prompts, seed)
        sampled = [Sampled(r.problem, r.context, c) for r, c in zip(requests, completions, strict=True)]
        rollouts = self.processes.gather(self.scorer.score("fast", sampled, seed), len(pairs))
        self.fst_state.count("fast", rollouts)
        self.listener.rollouts("fast", self.fst_state, rollouts)
        return rollouts

    def _reflect(self: FSTTrainer, prompt: str, seed: int) -> tuple[str, str, int]:
        """The voice of the ``policy`` reflector, on rank 0; every process generates, for its shard of the model."""
        return self._call(("reflect", prompt, seed))

    def _reply(self: FSTTrainer, prompt: str, seed: int) -> tuple[str, str, int]:
        settings = self.fast.reflector
        assert isinstance(settings, PolicyReflector)
        request = Request(EMPTY, Problem("reflection", prompt), 1, seed)
        with reply_length(self, settings.max_new_tokens, settings.temperature):
            prompts = self.processes.try_together(lambda: [self.sampler.render(request)])
            (completion,) = self.sampler.complete(prompts, seed)
        tokens = len(completion.prompt_ids) + len(completion.completion_ids)
        return completion.text, completion.finish_reason, tokens
