"""The local engine: one process, one machine. Builds the parts of a run from its config and trains."""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path

from transformers import set_seed

from fastslow.config import PolicyReflector, RunConfig, SamplingConfig
from fastslow.errors import FastslowError
from fastslow.evaluation.drift import measure_drift
from fastslow.fast.base import Reflector
from fastslow.fast.gepa_bridge import GepaOptimizer
from fastslow.fast.guards import refuse_leaks
from fastslow.fast.reflect import build_reflector
from fastslow.fast.reflect.policy import Generate
from fastslow.fst import FastSlowTraining
from fastslow.policy.model import Policy
from fastslow.policy.sampler import build_sampler
from fastslow.preflight import Preflight, check_prompts, measure_lengths
from fastslow.runs.directory import RunDirectory
from fastslow.runs.metrics import read_metrics
from fastslow.runs.recorder import Progress, Recorder
from fastslow.runs.settled import settle_compute
from fastslow.runs.signals import Interrupted, Stopped, StopSignals
from fastslow.runs.start import load_started_policy, pin_start
from fastslow.runs.summary import RunSummary, build_summary
from fastslow.seeds import derive_seed
from fastslow.slow.distill import DistillLearner
from fastslow.slow.learner import LocalLearner
from fastslow.tasks.base import Task
from fastslow.tasks.schedule import ScheduledTask, build_run_task
from fastslow.tasks.scoring import SafeTask
from fastslow.types import Context, Problem, Request


def train(config: RunConfig, out: str | Path, *, resume: bool = False, progress: Progress | None = None) -> RunSummary:
    """Run ``config`` in the folder ``out`` and return its summary.

    Everything a user can mend (task, scorer, model, endpoint, folder) is checked before any compute is spent, and a
    check that fails leaves no folder behind. After an interruption the last step boundary is saved and
    :class:`RunError` says how to go on.
    """
    gc.collect()  # the weights of a run before, in the same process, hang in cycles of references
    with StopSignals() as signals:
        try:
            return _train(config, out, resume, progress, signals)
        except Interrupted:
            if RunDirectory(out).config_path.exists():
                raise Stopped("stopped", f"go on with --resume --out {out}") from None
            raise Stopped("stopped before anything was done", "start anew with the same command") from None


def _train(
    config: RunConfig, out: str | Path, resume: bool, progress: Progress | None, signals: StopSignals
) -> RunSummary:
    config = pin_start(config)
    with RunDirectory.create(out, config, resume=resume) as run:
        try:
            config = config.model_copy(update={"model": settle_compute(config.model, run)})
            task, policy, reflector, checked = _parts(config)
        except BaseException:
            run.discard()
            raise
        for note in (*task.notes, *checked.notes) if progress else ():
            progress.note(note)
        sampler = build_sampler(policy, config.sampling)
        learner = _learner(config, task, policy)
        recorder = Recorder(run, config.checkpoint_every, config.keep_checkpoints, progress, signals)
        try:
            state = recorder.resume(learner, reflector) if resume else None
            optimizer = None
            if reflector is not None:
                fast = config.fast.model_copy(update={"max_context_tokens": checked.max_context_tokens})
                optimizer = GepaOptimizer(
                    fast,
                    reflector,
                    sampler.context_tokens,
                    on_event=recorder.context_event,
                    held_out=task.val,
                    takes_unproven=config.method != "fst-distill",  # its teacher is the context
                )
            loop = FastSlowTraining(config, task, sampler, learner, optimizer, recorder, state)
            try:
                loop.run()
                drift = _drift(config, policy, loop)
                summary = build_summary(config, loop.state, read_metrics(run.metrics_path), drift)
                run.write_summary(summary.model_dump(mode="json"))
            except Interrupted:
                recorder.save_last_boundary(loop)
                raise Stopped(
                    f"stopped at step {recorder.saved_step or 0}", f"go on with --resume --out {out}"
                ) from None
            except FastslowError as error:
                raise _with_saved_step(error, recorder, learner, loop, out) from error.__cause__
            if progress and summary.skipped_steps:
                progress.note(f"{summary.skipped_steps} updates were skipped for a NaN or exploding gradient")
            if progress and summary.scorer_errors:
                often = "; ".join(f"{count} x {message}" for message, count in task.errors.most_common(2))
                progress.note(f"the scorer failed on {summary.scorer_errors} rollouts, which got reward 0 ({often})")
            return summary
        finally:
            recorder.close()


def _parts(config: RunConfig) -> tuple[SafeTask | ScheduledTask, Policy, Reflector | None, Preflight]:
    """Everything that may be unusable; raises :class:`FastslowError` with one line."""
    task = build_run_task(config)
    refuse_leaks(task.seed_context, task.val)
    set_seed(derive_seed(config.seed, "global") % 2**32)  # new adapters, and scorers that draw
    policy = load_started_policy(config.model)
    checked = check_prompts(config, measure_lengths(task, policy.renderer), policy.window)
    reflector = None
    if config.method != "rl":
        reflector = build_reflector(config.fast.reflector, generate=_self_reflection(policy, config))
        if hasattr(reflector, "check"):
            reflector.check()
    return task, policy, reflector, checked


def _learner(config: RunConfig, task: Task, policy: Policy) -> LocalLearner:
    new, temperature = config.sampling.max_new_tokens, config.sampling.temperature
    if config.method != "fst-distill":
        return LocalLearner(policy, config.slow, new, temperature)
    problems = {p.id: p for p in task.train}

    def student_prompt(problem_id: str) -> tuple[tuple[int, ...], int]:
        return policy.renderer.render(task.seed_context, problems[problem_id])

    return DistillLearner(policy, config.slow, new, temperature, student_prompt)


def _with_saved_step(
    error: FastslowError, recorder: Recorder, learner: LocalLearner, loop: FastSlowTraining, out: str | Path
) -> FastslowError:
    """The same error, telling where to go on; the last step boundary is saved if its weights are here and sound."""
    if learner.updates == recorder.boundary_updates:
        with contextlib.suppress(FastslowError):  # weights that hold NaN, or the full disk that was the error itself
            recorder.save_last_boundary(loop)
    if recorder.saved_step is None:
        return type(error)(f"{error}; nothing to save yet: start again with --resume --out {out}")
    return type(error)(f"{error}; saved up to step {recorder.saved_step}: go on with --resume --out {out}")


def _drift(config: RunConfig, policy: Policy, loop: FastSlowTraining) -> dict[str, float]:
    """KL to the base weights on validation prompts, without and with the evolved context; nats per token."""
    if policy.weights_step == 0:
        return {"seed_context": 0.0, "evolved_context": 0.0}
    if config.model.lora is None:
        policy.attach_base(load_started_policy(config.model).causal_lm)
    problems = list({p.id: p for stage in loop.stages for p in loop.validation(stage)}.values())
    contexts = {"seed_context": loop.task.seed_context, "evolved_context": loop.state.population.best}
    return {
        name: measure_drift(policy, loop.held_out_rollouts(context, problems)) for name, context in contexts.items()
    }


def _self_reflection(policy: Policy, config: RunConfig) -> Generate | None:
    """``generate`` of the ``policy`` reflector: the current weights answer a reflection prompt."""
    settings = config.fast.reflector
    if not isinstance(settings, PolicyReflector):
        return None
    sampler = build_sampler(
        policy, SamplingConfig(temperature=settings.temperature, max_new_tokens=settings.max_new_tokens)
    )
    nothing = Context({"instructions": "", "examples": ""}, reason="reflection")

    def generate(prompt: str, seed: int) -> tuple[str, str, int]:
        request = Request(nothing, Problem(id="reflection", text=prompt), 1, seed)
        (completion,) = sampler.sample([request])[0]
        tokens = len(completion.prompt_ids) + len(completion.completion_ids)
        return completion.text, completion.finish_reason, tokens

    return generate
