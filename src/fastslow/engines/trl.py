"""The TRL engine: the same run as the local one's, its slow phase on ``GRPOTrainer``, on one process or many.

Started plainly it is one process; under ``accelerate launch`` or ``torchrun`` each process calls :func:`train`. All
sample and train, rank 0 alone writes the run's folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import LoraConfig
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import logging as transformers_logging

from fastslow.config import EMBEDDED_MODEL, PromptConfig, RunConfig
from fastslow.engines.trl_args import check_supported, row_tokens, trainer_args
from fastslow.engines.trl_export import export_weights
from fastslow.errors import RunError
from fastslow.evaluation.accuracy import Accuracy
from fastslow.evaluation.drift import measure_drift
from fastslow.fast.guards import refuse_leaks
from fastslow.fst import FastSlowTraining
from fastslow.policy import compute
from fastslow.policy.loading import load_tokenizer, resolve_model
from fastslow.policy.prompts import PromptRenderer
from fastslow.preflight import check_prompts, measure_lengths
from fastslow.runs.directory import RunDirectory
from fastslow.runs.metrics import read_metrics
from fastslow.runs.recorder import Progress, Recorder
from fastslow.runs.settled import settle_compute
from fastslow.runs.start import load_started_policy
from fastslow.runs.summary import RunSummary, build_summary, read_summary
from fastslow.tasks.registry import build_task
from fastslow.tasks.scoring import SafeTask
from fastslow.trl.checkpoint import newest_checkpoint
from fastslow.trl.config import FSTConfig
from fastslow.trl.listener import Quiet
from fastslow.trl.processes import Processes
from fastslow.trl.trainer import FSTTrainer


def train(config: RunConfig, out: str | Path, *, resume: bool = False, progress: Progress | None = None) -> RunSummary:
    """Run ``config`` in the folder ``out``; every process returns the summary.

    What a user can mend is checked before compute, and a check that fails leaves no folder behind. A kill loses what
    came after the last checkpoint (``checkpoint_every``); ``resume`` goes on from there.
    """
    check_supported(config)
    transformers_logging.disable_progress_bar()
    state = PartialState(cpu=config.model.device == "cpu")
    processes = Processes(state.process_index, state.num_processes)
    if config.model.threads:
        compute.set_threads(config.model.threads)
    run = processes.on_main(lambda: RunDirectory.create(out, config, resume=resume))
    try:
        try:
            model = processes.on_main(lambda: settle_compute(config.model, RunDirectory(out)))
            config = config.model_copy(update={"model": processes.broadcast(model)})
            compute.set_matmul(config.model.float32_matmul)
            task, trainer = _build(config, RunDirectory(out), processes, progress if run is not None else None)
        except BaseException:
            if run is not None:
                run.discard()
            raise
        recorder = trainer.listener
        try:
            return _train(config, RunDirectory(out), task, trainer, resume)
        except KeyboardInterrupt:
            raise RunError(f"stopped; go on from the last checkpoint with --resume --out {out}") from None
        finally:
            if isinstance(recorder, Recorder):
                recorder.close()
    finally:
        if run is not None:
            run.close()


def _build(
    config: RunConfig, run: RunDirectory, processes: Processes, progress: Progress | None
) -> tuple[SafeTask, EngineTrainer]:
    """Everything that may be unusable; what fails on one process ends all, with one line."""

    def parts() -> tuple[SafeTask, str, Any, FSTConfig]:
        task = build_task(config.task)
        refuse_leaks(task.seed_context, task.val)
        folder = resolve_model(config.model.name)
        tokenizer = load_tokenizer(folder, config.model.revision)
        tokenizer.padding_side = "left"
        lengths = measure_lengths(task, PromptRenderer(tokenizer, _prompt(config)))
        args = trainer_args(config, str(run.checkpoints), processes.count, row_tokens(config, lengths))
        return task, folder, tokenizer, args

    processes.on_main(lambda: resolve_model(config.model.name))  # unpacked by one, before all read it
    task, folder, tokenizer, args = processes.try_together(parts)
    args.fast_options = config.fast.model_dump(exclude={"population", "every", "budget", "reflector"})
    trainer = EngineTrainer(
        folder, args=args, task=task, processing_class=tokenizer, run_config=config,
        reflector=config.fast.reflector if config.method == "fst" else None,
        prompt=_prompt(config), listener=_Silent(), peft_config=_adapter(config),
    )  # fmt: skip
    processes.on_main(lambda: _check(config, task, trainer, progress))
    # Files come last, so that a check that fails leaves none.
    made = processes.on_main(lambda: TrlRecorder(run, config.checkpoint_every, config.keep_checkpoints, progress))
    trainer.listener = made or trainer.listener
    return task, trainer


def _prompt(config: RunConfig) -> PromptConfig:
    prompt = config.model.prompt
    if config.model.name == EMBEDDED_MODEL and prompt.instructions == "auto":
        return prompt.model_copy(update={"instructions": "user"})  # it ignores system messages
    return prompt


def _adapter(config: RunConfig) -> LoraConfig | None:
    lora = config.model.lora
    if lora is None:
        return None
    return LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=lora.targets, task_type="CAUSAL_LM")


def _check(config: RunConfig, task: SafeTask, trainer: EngineTrainer, progress: Progress | None) -> None:
    window = getattr(trainer.model.config.get_text_config(), "max_position_embeddings", None)
    checked = check_prompts(config, measure_lengths(task, trainer.sampler.renderer), window)
    optimizer = trainer.optimizer_of_contexts
    if optimizer is not None:
        optimizer.config = optimizer.config.model_copy(update={"max_context_tokens": checked.max_context_tokens})
        if hasattr(optimizer.reflector, "check"):
            optimizer.reflector.check()
    for note in (*task.notes, *checked.notes) if progress else ():
        progress.note(note)


def _train(config: RunConfig, run: RunDirectory, task: SafeTask, trainer: EngineTrainer, resume: bool) -> RunSummary:
    processes, recorder = trainer.processes, trainer.listener
    loop = FastSlowTraining(config, task, trainer.sampler, None, None, recorder, trainer.fst_state)
    trainer.add_callback(_Evaluations(trainer, loop))
    found = processes.broadcast(newest_checkpoint(run.checkpoints)) if resume else None
    if resume and found is None and isinstance(recorder, TrlRecorder):
        recorder.load_state(None)
    if found is not None:
        trainer.load_fst_state(found)
        loop.state = trainer.fst_state
        if loop.done():
            return processes.broadcast(processes.on_main(lambda: read_summary(run.summary_path)))
    trainer.train(resume_from_checkpoint=str(found) if found else None)
    loop.state = trainer.fst_state
    drift = _drift(config, trainer, loop)

    def finish() -> RunSummary:
        export_weights(run, config, trainer.fst_state)
        summary = build_summary(config, trainer.fst_state, read_metrics(run.metrics_path), drift)
        run.write_summary(summary.model_dump(mode="json"))
        return summary

    return processes.broadcast(processes.on_main(finish))


def _drift(config: RunConfig, trainer: EngineTrainer, loop: FastSlowTraining) -> dict[str, float]:
    """As in the local engine, on one process; on several the weights may be sharded, and ``fastslow eval`` measures."""
    if trainer.processes.count > 1:
        return {}
    policy = load_started_policy(config.model)
    policy.model = trainer.accelerator.unwrap_model(trainer.model).eval()
    policy.shares_prefixes = False  # the trained model has its own attention
    if config.model.lora is None:
        policy.attach_base(load_started_policy(config.model).causal_lm)
    problems = loop.task.val[: config.evaluation.problems]
    contexts = {"seed_context": loop.task.seed_context, "evolved_context": loop.state.population.best}
    with torch.no_grad():
        return {k: measure_drift(policy, loop.held_out_rollouts(c, problems)) for k, c in contexts.items()}


class EngineTrainer(FSTTrainer):
    """The trainer with a run's warm-up and a run's budget of rollouts."""

    def __init__(self, *args: Any, run_config: RunConfig, **kwargs: Any) -> None:
        self.run_config = run_config
        super().__init__(*args, **kwargs)
        self.remove_callback(PrinterCallback)  # the run's own progress tells it

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Linear warm-up from lr / warmup to lr, then constant, as in the local engine."""
        warmup = max(1, self.run_config.slow.warmup)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer or self.optimizer, lambda step: min(1.0, (step + 1) / warmup)
        )
        return self.lr_scheduler

    def phase_budget(self) -> int:
        config, state = self.run_config, self.fst_state
        if config.max_rollouts is None:
            return config.fast_budget
        slow = config.slow.group_size * config.slow.problems_per_step
        return min(config.fast_budget, config.max_rollouts - state.training_rollouts - slow)


class _Evaluations(TrainerCallback):
    """Evaluates where the loop does, on every process together, and ends the run where its budget ends."""

    def __init__(self, trainer: EngineTrainer, loop: FastSlowTraining) -> None:
        self.trainer, self.loop = trainer, loop

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.loop.state = self.trainer.fst_state
        self.trainer.listener.begin(self.loop)
        self._evaluate()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:  # after the step's own line, before its checkpoint
            self._evaluate()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.loop.done():
            control.should_save = control.should_training_stop = True

    def _evaluate(self) -> None:
        if self.loop.evaluation_due():
            self.loop.evaluate()


class TrlRecorder(Recorder):
    """The run's recorder, whose place in its files goes into the trainer's checkpoints."""

    def state(self) -> dict[str, Any]:
        cycles = self.run.population_cycles()
        return {
            "metrics_position": self.metrics.position(),
            "ledger_position": self.ledger.position(),
            "last_cycle": cycles[-1] if cycles else -1,
        }

    def load_state(self, saved: dict[str, Any] | None) -> None:
        """Cut every file back to the checkpoint, or to nothing where there is none."""
        self.metrics.rewind(saved["metrics_position"] if saved else 0)
        self.ledger.rewind(saved["ledger_position"] if saved else None)
        self.run.rewind_populations(saved["last_cycle"] if saved else -1)


class _Silent(Quiet):
    """What the other processes have for a recorder."""

    def begin(self, loop: FastSlowTraining) -> None:
        return

    def evaluation(self, loop: FastSlowTraining, seed_context: Accuracy, evolved: Accuracy) -> None:
        return
