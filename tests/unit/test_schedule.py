"""Several tasks in one run. Locks: what a config may say; problems that can't be mixed up or leak between stages; data
and lookahead within a stage; a fast phase at every switch on a population carried over; every stage measured each time;
a run of one task, and the first stage of a schedule, as they were without one."""

from __future__ import annotations

from collections import Counter

import pytest
from loop_fakes import FakeOptimizer
from test_loop import B, G, T, make
from test_loop import config as single

from fastslow.config_io import dump_config, load_config, override_config, parse_config
from fastslow.errors import ConfigError, TaskError
from fastslow.fst import FastSlowTraining
from fastslow.runs.summary import summarise_stages, task_title
from fastslow.tasks.schedule import ScheduledTask, build_run_task, stages_of, task_names
from fastslow.types import Context, Problem, Score

A = {"name": "chain_sum", "convention": "brackets", "train_size": 12, "val_size": 5}
OTHER = {**A, "convention": "unit"}


class Words:
    """Problem i asks for the reply ``i``, in this task's own word; questions are shared by all such tasks."""

    seed_context = Context({"instructions": "", "examples": ""})
    notes = ()

    def __init__(self, word: str, train: range = range(12), val: range = range(100, 105)) -> None:
        self.name, self.word, self.errors = word, word, Counter({word: 1})
        self.train = tuple(self._problem(i) for i in train)
        self.val = tuple(self._problem(i) for i in val)

    def _problem(self, i: int) -> Problem:
        return Problem(f"q-{i}", f"Question number {i}?", f"{self.word} {i}", {}, self.word)

    def score(self, problem: Problem, completion: str) -> Score:
        assert problem.answer == f"{self.word} {problem.id[2:]}"  # its own problems, as they were
        return Score(float(completion == problem.answer), "Advice: Say it.")


def scheduled(*plan: tuple[int, int], tasks=None) -> ScheduledTask:
    tasks = tasks or [Words("a"), Words("b"), Words("c")]
    return ScheduledTask(tasks, [t.name for t in tasks], plan)


def loop_of(*plan: tuple[int, int], **changes) -> FastSlowTraining:
    changes = {"steps": sum(steps for _, steps in plan), **changes}
    return make(single(**changes), task=scheduled(*plan))


def ran(*plan: tuple[int, int], **changes) -> FastSlowTraining:
    loop = loop_of(*plan, **changes)
    loop.run()
    return loop


def of_stage(loop: FastSlowTraining, problem_id: str) -> int:
    return int(problem_id[0]) - 1 if "/" in problem_id else 0


# --- the config ---------------------------------------------------------------------------------------------------


def test_a_schedule_stands_in_place_of_task_and_steps():
    config = parse_config({"schedule": [{"task": A, "steps": 4}, {"task": "gcd", "steps": 3}]})
    assert config.steps == 7 and config.task == config.schedule[0].task
    assert config.task.convention.kind == "brackets" and config.schedule[1].task.name == "gcd"
    assert [stage.steps for stage in config.stages] == [4, 3]
    assert task_title(config) == "chain_sum (brackets) -> gcd"


def test_a_run_of_one_task_is_one_stage():
    config = parse_config({"task": "gcd", "steps": 5})
    assert config.schedule is None and config.stages[0].task == config.task and config.stages[0].steps == 5


def test_a_scheduled_config_is_read_back_equal(tmp_path):
    config = parse_config({"schedule": [{"task": A, "steps": 4}, {"task": "gcd", "steps": 3}]})
    (tmp_path / "c.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "c.yaml") == config


def test_paths_of_stages_are_taken_from_the_config_s_folder(tmp_path):
    (tmp_path / "data.jsonl").write_text("")
    (tmp_path / "c.yaml").write_text("schedule:\n- {task: {path: data.jsonl}, steps: 1}\n- {task: gcd, steps: 1}\n")
    assert load_config(tmp_path / "c.yaml").schedule[0].task.path == str(tmp_path / "data.jsonl")


def test_a_finished_schedule_can_be_looked_at_on_one_task():
    config = parse_config({"schedule": [{"task": A, "steps": 4}, {"task": "gcd", "steps": 3}]})
    looked = override_config(config, ["task.name=letter_counting"])
    assert looked.schedule is None and looked.task.name == "letter_counting"


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"steps": 3}, "steps: leave it out beside a schedule, whose stages have 7"),
        ({"task": "gcd"}, "task: leave it out beside a schedule"),
        ({"engine": "trl"}, "schedule: run by engine: local alone"),
        ({"schedule": []}, "schedule: "),
        ({"schedule": [{"task": "gcd"}]}, "schedule.0.steps: missing"),
        ({"schedule": [{"task": "gcd", "steps": 1, "stepz": 2}]}, "schedule.0.stepz: unknown key; did you mean"),
        ({"schedule": [{"task": {"name": "gcd", "seeed": 2}, "steps": 1}]}, "schedule.0.task.seeed: unknown key; did"),
        (
            {"schedule": [{"task": "gcd", "steps": 1},
                          {"task": {"name": "gcd", "seed_context": {"instructions": "x"}}, "steps": 1}]},
            "schedule: stage 2 has another task.seed_context",
        ),
    ],
)  # fmt: skip
def test_what_can_t_be_meant_is_said_in_one_line(changes, said):
    data = {"schedule": [{"task": A, "steps": 4}, {"task": "gcd", "steps": 3}], **changes}
    with pytest.raises(ConfigError) as error:
        parse_config(data)
    assert said in str(error.value) and "\n" not in str(error.value)


# --- the tasks ----------------------------------------------------------------------------------------------------


def test_problems_of_different_stages_have_different_ids_and_their_own_scorer():
    task = scheduled((0, 2), (1, 2), (2, 2))
    ids = [p.id for p in (*task.train, *task.val)]
    assert len(ids) == len(set(ids)) == 3 * 17
    for problem in (*task.train, *task.val):
        assert task.score(problem, problem.answer).reward == 1  # the fake asserts that it gets its own problems
    first, second = task.stages[0].train[0], task.stages[1].train[0]
    assert first.text == second.text and first.id == "q-0" and second.id == "2/q-0"
    assert task.score(second, first.answer).reward == 0
    assert task.errors == {"a": 1, "b": 1, "c": 1} and task.name == "a -> b -> c"


def test_a_task_that_comes_back_is_the_task_it_was():
    task = scheduled((0, 2), (1, 2), (0, 3))
    first, _, third = task.stages
    assert (third.name, third.train, third.val, third.task) == (first.name, first.train, first.val, first.task)
    assert (third.start, third.end, third.number) == (4, None, 2)
    assert len(task.val) == 3 * 5  # each once


def test_no_training_question_is_a_validation_question_of_any_stage():
    tasks = [Words("a", range(12), range(12, 16)), Words("b", range(8, 20), range(0, 4))]
    task = scheduled((0, 1), (1, 1), tasks=tasks)
    held_out = {p.text for p in task.val}
    assert not held_out & {p.text for p in task.train}
    assert [len(s.train) for s in task.stages] == [8, 8] and [len(s.val) for s in task.stages] == [4, 4]
    assert task.notes[0] == "a: 4 training problems are validation problems of another stage"
    with pytest.raises(TaskError, match="give the stages of one dataset the same seed"):
        scheduled((0, 1), (1, 1), tasks=[Words("a", range(4), range(9, 10)), Words("b", range(5, 9), range(4))])


def test_names_tell_conventions_and_namesakes_apart():
    schedule = [{"task": t, "steps": 1} for t in (A, OTHER, {**A, "seed": 3}, "gcd")]
    assert task_names(parse_config({"schedule": schedule}).tasks) == [
        "chain_sum (brackets)", "chain_sum (unit)", "chain_sum (brackets) #2", "gcd",
    ]  # fmt: skip


def test_one_dataset_under_two_conventions_keeps_its_split():
    config = parse_config({"schedule": [{"task": A, "steps": 2}, {"task": OTHER, "steps": 2}]})
    task = build_run_task(config)
    one, two = task.stages
    assert [p.text for p in one.val] == [p.text for p in two.val] and len(one.train) == len(two.train) == 12
    assert not {p.text for p in task.train} & {p.text for p in task.val}
    assert all(p.answer != q.answer and q.id == f"2/{p.id}" for p, q in zip(one.train, two.train, strict=True))


# --- the loop -----------------------------------------------------------------------------------------------------


def test_batches_are_the_stage_s_own_and_a_function_of_the_step_alone():
    loop = loop_of((0, 5), (1, 4), (0, 3))
    wanted = [0] * 5 + [1] * 4 + [0] * 3
    batches = [[p.id for p in loop.batch(step)] for step in range(12)]
    assert [[of_stage(loop, i) for i in batch] for batch in batches] == [[t] * B for t in wanted]
    assert [[p.id for p in loop.batch(step)] for step in reversed(range(12))] == batches[::-1]
    for start in (0, 5):  # an epoch, 12 problems in 3 batches, starts with the stage
        assert len({i for batch in batches[start : start + 3] for i in batch}) == 12
    assert batches[:3] != batches[9:]  # another order when a task comes back


def test_the_first_stage_is_what_a_run_of_it_alone_would_be():
    alone, within = make(single(steps=5), task=Words("a")), loop_of((0, 5), (1, 4))
    assert [[p.id for p in alone.batch(s)] for s in range(5)] == [[p.id for p in within.batch(s)] for s in range(5)]
    alone.run()
    within.run()
    mine = [r for r in within.recorder.all_rollouts if of_stage(within, r.problem_id) == 0 and r.phase == "slow"]
    theirs = [r for r in alone.recorder.all_rollouts if r.phase == "slow"]
    assert [(r.problem_id, r.context_id, r.seed, r.text) for r in mine] == [
        (r.problem_id, r.context_id, r.seed, r.text) for r in theirs
    ]


def test_a_switch_forces_a_fast_phase_and_no_lookahead_goes_past_it():
    loop = ran((0, 5), (1, 4), (2, 1))
    assert [loop.cycle_at(s) for s in range(10)] == [0, 0, 1, 1, 2, 3, 3, 4, 4, 5]  # T = 2; 5 = 2 + 2 + 1
    assert [c["cycle"] for c in loop.optimizer.calls] == [0, 1, 2, 3, 4, 5]
    starts, ahead = [0, 2, 4, 5, 7, 9], [2, 2, 1, 2, 2, 2]  # the last stage's end may move
    for call, start, batches in zip(loop.optimizer.calls, starts, ahead, strict=True):
        expected = [p.id for t in range(batches) for p in loop.batch(start + t)]
        assert [p.id for p in call["problems"]] == list(dict.fromkeys(expected))
        assert len({of_stage(loop, p.id) for p in call["problems"]}) == 1 or start == 9


def test_the_budget_shrinks_with_the_lookahead():
    loop = ran((0, 3), (1, 2), fast={"budget": None, "passes": 1.5})
    assert [c["budget"] for c in loop.optimizer.calls] == [round(1.5 * B * n) for n in (2, 1, 2)]


def test_the_population_and_the_counters_are_carried_across_the_switch():
    seen = []

    class Watching(FakeOptimizer):
        def evolve(self, population, problems, *args, **kwargs):
            seen.append([c.id for c in population.contexts])
            evolved, report = super().evolve(population, problems, *args, **kwargs)
            seen.append([c.id for c in evolved.contexts])
            return evolved, report

    loop = loop_of((0, 2), (1, 2))
    loop.optimizer = Watching(3)
    loop.run()
    assert seen[2] == seen[1] and len(seen) == 4  # the second stage starts from what the first left
    assert loop.state.rollouts["slow"] == 4 * B * G and loop.state.problems == 4 * B
    assert set(loop.state.population.archive) >= set(seen[1]) | {loop.task.seed_context.id}


def test_every_stage_is_measured_at_every_evaluation_and_at_each_switch():
    loop = ran((0, 3), (1, 2), (0, 2), evaluation={"every": 2, "n": 1})
    found = loop.state.evaluations
    assert [e["step"] for e in found] == [0, 2, 3, 4, 5, 6, 7]
    assert [e["stage"] for e in found] == ["a", "a", "a", "b", "b", "a", "a"]  # the one just trained
    for entry in found:
        assert set(entry["stages"]) == {"a", "b"}
        assert entry["accuracy"] == entry["stages"][entry["stage"]]["accuracy"]
    val = {p.id for p in loop.task.val}
    assert all((r.problem_id in val) == (r.phase == "evaluation") for r in loop.recorder.all_rollouts)
    for stage in loop.stages:
        asked = {r.problem_id for r in loop.recorder.all_rollouts} & {p.id for p in stage.val}
        assert len(asked) == 5


def test_the_same_context_is_measured_on_each_task():
    """Kept measurements must not be taken for those of another task."""
    loop = ran((0, 2), (1, 2), evaluation={"every": 0, "n": 1})
    first = loop.state.evaluations[0]["stages"]
    by_task: dict[int, list[float]] = {}
    for r in loop.recorder.all_rollouts[: 2 * 5]:
        by_task.setdefault(of_stage(loop, r.problem_id), []).append(r.reward)
    assert {k: sum(v) / 5 for k, v in by_task.items()} == {
        0: first["a"]["accuracy"]["seed_context"], 1: first["b"]["accuracy"]["seed_context"],
    }  # fmt: skip


@pytest.mark.parametrize("method", ["rl", "gepa", "fst-distill"])
def test_every_method_runs_a_schedule(method):
    loop = ran((0, 3), (1, 2), method=method)
    assert loop.state.step == 5 and [e["step"] for e in loop.state.evaluations][-1] == 5
    slow = [of_stage(loop, g.problem_id) for groups in loop.learner.calls for g in groups]
    assert slow == ([] if method == "gepa" else [0] * 3 * B + [1] * 2 * B)
    if method == "rl":
        assert not loop.recorder.of("fast") and loop.state.rollouts["fast"] == 0
    else:  # T = 2: at steps 0, 2 and, by the switch, 3
        assert [{of_stage(loop, p.id) for p in c["problems"]} for c in loop.optimizer.calls] == [{0}, {0}, {1}]


def test_a_budget_of_rollouts_ends_a_schedule_as_it_ends_any_run():
    loop = ran((0, 3), (1, 30), method="rl", max_rollouts=5 * B * G)
    assert loop.state.step == 5 and loop.state.training_rollouts == 5 * B * G


def test_a_task_alone_is_one_stage_without_an_end():
    (stage,) = stages_of(Words("a"))
    assert (stage.number, stage.task, stage.start, stage.end) == (0, 0, 0, None)
    loop = make(single(), task=Words("a"))
    assert [loop.cycle_at(s) for s in range(6)] == [s // T for s in range(6)]
    loop.run()
    assert all("stages" not in e for e in loop.state.evaluations)


# --- the summary --------------------------------------------------------------------------------------------------


def line(step: int, **accuracy: float) -> dict:
    stages = {
        name: {
            "accuracy": {
                "seed_context": 0.0, "evolved_context": value,
                "ci95": {"seed_context": [0, 0.1], "evolved_context": [0, 1]},
            }
        }
        for name, value in accuracy.items()
    }  # fmt: skip
    return {"kind": "evaluation", "step": step, "rollouts": {"fast": 0, "slow": step}, "stages": stages}


def test_the_summary_has_each_stage_at_its_own_end_and_at_the_run_s():
    config = parse_config({"schedule": [{"task": "gcd", "steps": 4}, {"task": "chain_sum", "steps": 2}]})
    lines = [
        line(0, gcd=0.0, chain_sum=0.1), line(4, gcd=0.8, chain_sum=0.2), line(6, gcd=0.5, chain_sum=0.7),
    ]  # fmt: skip
    first, second = summarise_stages(config, lines)
    assert (first.name, first.start, first.steps) == ("gcd", 0, 4)
    assert (first.end.evolved_context, first.final.evolved_context, first.best.step) == (0.8, 0.5, 4)
    assert (second.name, second.start, second.steps) == ("chain_sum", 4, 2)
    assert (second.initial.evolved_context, second.end.evolved_context) == (0.1, 0.7)
    assert summarise_stages(parse_config({"task": "gcd"}), lines) == []
