"""FSTTrainer: GRPO whose groups are spread over a population of contexts that GEPA evolves (arXiv 2605.12484).

The slow phase is TRL's. Its rollout hook hands out contexts by position in the group and, every T batches, first runs
the fast phase; the batch it gets back is given FST's advantages and token weights before TRL's own loss reads it.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOTrainer

from fastslow.config import PromptConfig
from fastslow.errors import ConfigError, RunError
from fastslow.fast.gepa_bridge import GepaOptimizer
from fastslow.fast.population import Population
from fastslow.policy.prompts import PromptRenderer
from fastslow.runs.state import RunState
from fastslow.seeds import derive_seed
from fastslow.slow.learner import rescued_by_contexts
from fastslow.tasks.base import Task
from fastslow.trl import private, setup
from fastslow.trl.checkpoint import StateWriter, newest_checkpoint, read_state, run_state
from fastslow.trl.config import FSTConfig
from fastslow.trl.fast_phase import EMPTY, FastPhases
from fastslow.trl.groups import Weighed, check_positions, context_index, weigh
from fastslow.trl.listener import Listener, Quiet, Snapshots
from fastslow.trl.problems import INDEX, Problems, problem_of_row
from fastslow.trl.processes import Processes
from fastslow.trl.rollouts import UNSCORED, RolloutScorer, Sampled
from fastslow.trl.sampling import TrlSampler
from fastslow.trl.scoring import CONTEXT, TEXT, FeedbackFunc, Fences, TaskReward
from fastslow.types import Context, Request, Rollout


class FSTTrainer(FastPhases, GRPOTrainer):
    """A ``GRPOTrainer`` with a fast phase. Every argument of it that is not named here passes through.

    ``reward_funcs`` with a ``feedback_func`` (what a person could learn from each rollout), or a ``fastslow`` task,
    which brings problems, rewards and feedback. ``reflector``: ``feedback`` (needs no LLM), ``policy``, the settings
    of an endpoint, or an object with ``propose``; None leaves the contexts as they are. ``prompt`` says where a
    context's parts go. After training, ``population.best`` is the context to serve the weights with.
    """

    _name = "FST"
    _tag_names = ["trl", "fst"]  # noqa: RUF012 - as TRL declares it

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: FSTConfig | None = None,
        train_dataset: Dataset | None = None,
        *,
        feedback_func: FeedbackFunc | None = None,
        task: Task | None = None,
        reflector: setup.ReflectorLike = "feedback",
        prompt: PromptConfig | None = None,
        seed_context: Context | None = None,
        listener: Listener | None = None,
        **grpo: Any,
    ) -> None:
        private.check_trl()
        setup.refuse_unsupported(grpo)
        args = args if args is not None else FSTConfig("FST")
        if not isinstance(args, FSTConfig):
            raise ConfigError(
                f"args: needs an FSTConfig, not {type(args).__name__}; it takes every GRPOConfig argument"
            )
        dataset = setup.check_dataset(train_dataset, task)
        self.problems = Problems(dataset, task, args.answer_column)
        self.order = setup.plan_batches(args, self.problems)
        self.fences = Fences()
        self.task_reward = TaskReward(task) if task is not None else None
        given = reward_funcs if isinstance(reward_funcs, list) else [] if reward_funcs is None else [reward_funcs]
        rewards = [self.fences.around(f) for f in given] + (
            [self.fences.around(self.task_reward)] if self.task_reward else []
        )
        indexed = dataset.add_column(INDEX, list(range(len(dataset)))).select(self.order[: setup.rows_to_train(args)])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You are using 'rollout_func'")
            super().__init__(
                model, rewards, args, indexed, rollout_func=lambda prompts, _: self._roll_out(prompts), **grpo
            )
        self._set_up_fast_phase(reflector, prompt, feedback_func, seed_context, listener)

    def _set_up_fast_phase(
        self,
        reflector: setup.ReflectorLike,
        prompt: PromptConfig | None,
        feedback_func: FeedbackFunc | None,
        seed_context: Context | None,
        listener: Listener | None,
    ) -> None:
        args, task = self.args, self.problems.task
        self.processes = Processes(self.accelerator.process_index, self.accelerator.num_processes)
        if not private.is_tested() and self.processes.is_main:
            warnings.warn(f"FSTTrainer was tested with trl {', '.join(private.TESTED)}.*, not this one", stacklevel=3)
        renderer = PromptRenderer(self.processing_class, setup.prompt_config(self.problems, prompt))
        self.sampler = TrlSampler(self, self.processes, renderer, args.stop or ())
        self.scorer = RolloutScorer(self, feedback_func)
        quiet = listener or (Snapshots(args.output_dir) if self.processes.is_main else Quiet())
        self.listener: Listener = quiet
        self.fast = setup.fast_config(args, reflector)
        made = setup.make_reflector(reflector, self.fast, self._reflect)
        self.optimizer_of_contexts = None
        if made is not None:
            self.optimizer_of_contexts = GepaOptimizer(
                self.fast,
                made,
                self.sampler.context_tokens,
                on_event=lambda event: self.listener.context_event(event),
                held_out=task.val if task is not None else (),
            )
        seed = seed_context or (task.seed_context if task is not None else EMPTY)
        self.fst_state = RunState(population=Population((seed,)))
        self.cycles = 0
        self.batch: Weighed | None = None
        self._rows: list[dict[str, Any]] = []
        self._sampled: list[Sampled] = []
        self._last_rewards: torch.Tensor | None = None
        self._started, self._sampling_seconds, self._lr = time.perf_counter(), 0.0, 0.0
        self.add_callback(_Steps(self))
        self.add_callback(StateWriter(self._collect_state))

    @property
    def population(self) -> Population:
        """The contexts in use, best first, with the archive of all."""
        return self.fst_state.population

    # The slow phase

    def _roll_out(self, prompts: list[Any]) -> dict[str, Any]:
        """TRL's rollout hook: one completion for each row of this process, under the context of its position."""
        rows, training = self._rows, self.model.training
        if training:
            cycle = self.fst_state.step // self.args.fast_every
            if cycle >= self.cycles:
                self.fast_phase(cycle)
                self.cycles = cycle + 1
        self._started = time.perf_counter()
        requests = self._requests(rows, training)
        ready = self.processes.try_together(lambda: [self.sampler.render(r) for r in requests])
        seed = derive_seed(self.args.seed, "slow" if training else "evaluation", self.state.global_step)
        completions = self.sampler.complete(ready, seed)
        self._sampled = [Sampled(r.problem, r.context, c) for r, c in zip(requests, completions, strict=True)]
        self._sampling_seconds = time.perf_counter() - self._started
        known = all(c.logprobs for c in completions)
        return {
            "prompt_ids": [list(c.prompt_ids) for c in completions],
            "completion_ids": [list(c.completion_ids) for c in completions],
            "logprobs": [list(c.logprobs) for c in completions] if known else None,
            TEXT: [c.text for c in completions],
            CONTEXT: [r.context.id for r in requests],
        }

    def _requests(self, rows: Sequence[dict[str, Any]], training: bool) -> list[Request]:
        """Problem and context of each row: by position in the whole batch while training, else the best context."""
        if not training:
            answer = self.problems.answer_column
            return [Request(self.population.best, problem_of_row(row, i, answer)) for i, row in enumerate(rows)]
        group, contexts = self.num_generations, self.population.in_use(self.args.num_contexts)
        problems = [self.problems[row[INDEX]] for row in rows]
        check_positions(self.processes.gather([p.id for p in problems]), group)
        first = self.processes.rank * len(rows)
        return [
            Request(contexts[context_index(first + i, group, len(contexts))], problem)
            for i, problem in enumerate(problems)
        ]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._rows = inputs
        output = super()._generate_and_score_completions(inputs)
        self.processes.together(self.fences.take())
        private.check_batch(output)
        return self._weigh(output) if self.model.training else output

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        """Rewards [S, functions] of all processes; kept for the advantages."""
        self._last_rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        return self._last_rewards

    def _weigh(self, output: dict[str, Any]) -> dict[str, Any]:
        """Put FST's advantages and token weights into a batch; TRL's loss multiplies by ``tool_mask``."""
        seed = derive_seed(self.args.seed, "slow", self.state.global_step)
        rollouts = self.processes.gather(self.scorer.rollouts("slow", self._sampled, self._last_rewards, seed))
        masked = self.args.truncated == "mask"
        counted = [r.error != UNSCORED and not (masked and r.finish_reason == "length") for r in rollouts]
        self.batch = weigh(
            rollouts, counted, self.num_generations, average=self.args.token_average,
            max_tokens=self.max_completion_length, divide_by_std=self.scale_rewards != "none",
        )  # fmt: skip
        mine = slice(self.processes.rank * len(self._sampled), (self.processes.rank + 1) * len(self._sampled))
        mask, device = output["completion_mask"], output["completion_mask"].device
        weights = mask * self.batch.weights_S[mine].to(device)[:, None]
        sampled = output.get("sampling_per_token_logps")
        if sampled is not None and not self.vllm_importance_sampling_correction:
            weights = weights.masked_fill(sampled.isnan(), 0.0)
            output["old_per_token_logps"] = sampled.nan_to_num(nan=0.0)
        output["tool_mask"] = weights
        output["num_items_in_batch"] = torch.tensor(self.batch.tokens, device=device)
        if self.scale_rewards != "batch":
            output["advantages"] = self.batch.advantages_S[mine].to(device)
        self._count(rollouts)
        return output

    def _count(self, rollouts: Sequence[Rollout]) -> None:
        assert self.batch is not None
        state = self.fst_state
        state.count("slow", rollouts)
        state.problems += len(self.batch.groups)
        state.flat_groups += sum(g.is_flat for g in self.batch.groups)
        state.rescued_groups += sum(map(rescued_by_contexts, self.batch.groups))
        self.listener.rollouts("slow", state, rollouts)

    # Checkpoints and logs

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As ``GRPOTrainer.train``; on resume the population, the archive and the counters come back too."""
        if resume_from_checkpoint:
            path = resume_from_checkpoint
            if path is True:
                path = self.processes.broadcast(newest_checkpoint(self.args.output_dir))
                if path is None:
                    raise RunError(f"{self.args.output_dir}: no whole checkpoint to resume from; leave out resume")
            self.load_fst_state(path)
            resume_from_checkpoint = str(path)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def load_fst_state(self, checkpoint: str | Path) -> None:
        """Rank 0 reads; every process gets the same."""
        data = self.processes.broadcast(self.processes.on_main(lambda: read_state(checkpoint)))
        self.fst_state, self.cycles = run_state(data), data["cycles"]
        reflector = getattr(self.optimizer_of_contexts, "reflector", None)
        if data["reflector"] is not None and hasattr(reflector, "set_state"):
            reflector.set_state(data["reflector"])
        if hasattr(self.listener, "load_state"):
            self.listener.load_state(data["listener"])

    def _collect_state(self) -> dict[str, Any]:
        reflector = getattr(self.optimizer_of_contexts, "reflector", None)
        return {
            "state": self.fst_state.to_dict(),
            "cycles": self.cycles,
            "reflector": reflector.get_state() if hasattr(reflector, "get_state") else None,
            "listener": self.listener.state() if hasattr(self.listener, "state") else None,
        }

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds ``fst/…`` to what every reporter (W&B, TensorBoard, Trackio, …) gets."""
        if self.model.training and "loss" in logs:
            logs |= {f"fst/{name}": value for name, value in self.batch_metrics().items()}
        super().log(logs, start_time)

    def batch_metrics(self) -> dict[str, float]:
        """Of the last batch of rollouts, over all processes."""
        if self.batch is None:
            return {}
        groups = self.batch.groups
        rewards = [r for g in groups for r in g.rewards]
        return {
            "reward": sum(rewards) / len(rewards),
            "groups": float(len(groups)),
            "flat_groups": float(sum(g.is_flat for g in groups)),
            "rescued_groups": float(sum(map(rescued_by_contexts, groups))),
        }


class _Steps(TrainerCallback):
    """Counts slow steps, leaves the weights alone where a batch taught nothing, and tells the listener."""

    def __init__(self, trainer: FSTTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        trainer = self.trainer
        trainer._lr = optimizer.param_groups[0]["lr"]
        if trainer.batch is not None and trainer.batch.is_flat and not trainer.is_deepspeed_enabled:
            optimizer.zero_grad(set_to_none=True)  # AdamW skips these; momentum alone would still move the weights

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % args.steps_per_batch == 0:
            self.trainer.fst_state.step = state.global_step // args.steps_per_batch
            self.trainer.fst_state.seconds["slow"] += time.perf_counter() - self.trainer._started

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        trainer = self.trainer
        if not logs or "loss" not in logs:
            return
        metrics = trainer.batch_metrics()
        values = {**metrics, **{k: logs[k] for k in ("loss", "grad_norm", "kl", "entropy") if k in logs}}
        seconds = time.perf_counter() - trainer._started
        trainer.listener.slow(trainer.fst_state, {**values, "lr": trainer._lr}, trainer._sampling_seconds, seconds)
