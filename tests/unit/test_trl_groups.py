"""Groups across processes. Behaviours locked: contexts by position, exactly G of one problem after the other, flat and
masked rollouts in no divisor, advantages over the whole group; numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch

from fastslow.errors import ConfigError, EngineError
from fastslow.trl.groups import check_positions, context_index, weigh
from fastslow.trl.problems import schedule
from fastslow.trl.rollouts import fill_unscored
from fastslow.types import Rollout

ROUNDING = 1e-6


def rollout(problem: str, reward: float, tokens: int, context: str = "c") -> Rollout:
    ids = tuple(range(tokens))
    return Rollout(problem, context, 0, "slow", 0, (1, 2), 1, ids, (), "", "stop", reward)


def test_a_group_is_split_evenly_over_its_contexts_wherever_a_process_begins():
    assert [context_index(i, 8, 4) for i in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]
    second_process = [context_index(4 + i, 8, 4) for i in range(4)]  # a group that spans two processes
    assert second_process == [2, 2, 3, 3]
    assert [context_index(8 + i, 8, 1) for i in range(8)] == [0] * 8


@pytest.mark.parametrize(
    "ids", [["a"] * 3, ["a", "a", "b", "a"], ["a", "a", "b", "b", "a", "a"]], ids=["short", "mixed", "twice"]
)
def test_anything_but_exactly_g_of_one_problem_is_refused(ids):
    with pytest.raises(EngineError, match="exactly 2"):
        check_positions(ids, 2)


def test_whole_groups_in_a_row_pass():
    check_positions(["a", "a", "b", "b"], 2)


def test_each_problem_weighs_the_same_and_flat_groups_weigh_nothing():
    batch = [rollout("a", 1.0, 1), rollout("a", 0.0, 3), rollout("b", 1.0, 2), rollout("b", 1.0, 2),
             rollout("c", 0.0, 6), rollout("c", 1.0, 2)]  # fmt: skip
    weighed = weigh(batch, [True] * 6, 2, average="problem", max_tokens=8)
    # b is flat. Tokens that count: 4 + 8 = 12. A token of a: 1/4 of its problem, 1/2 of the problems; of c: 1/8, 1/2.
    expected = torch.tensor([12 / 8, 12 / 8, 0, 0, 12 / 16, 12 / 16])
    assert torch.allclose(weighed.weights_S, expected, atol=ROUNDING)
    assert weighed.tokens == 12
    # r = (1, 0): mean 1/2, population std 1/2.
    assert torch.allclose(weighed.advantages_S, torch.tensor([1.0, -1, 0, 0, -1, 1]), atol=1e-5)


def test_masked_rollouts_count_in_the_advantages_and_in_no_divisor():
    batch = [rollout("a", 1.0, 1), rollout("a", 0.0, 3)]
    weighed = weigh(batch, [True, False], 2, average="problem", max_tokens=8)
    assert weighed.weights_S.tolist() == [1.0, 0.0] and weighed.tokens == 1
    assert weighed.advantages_S.tolist() == pytest.approx([1.0, -1.0], abs=1e-5)


def test_a_batch_without_a_signal_is_flat():
    weighed = weigh([rollout("a", 0.5, 1), rollout("a", 0.5, 3)], [True] * 2, 2, average="problem", max_tokens=8)
    assert weighed.is_flat and weighed.tokens == 1.0


@pytest.mark.parametrize(("average", "per_token"), [("sequence", (1 / 2, 1 / 6)), ("token", (1 / 4, 1 / 4)),
                                                    ("constant", (1 / 16, 1 / 16))])  # fmt: skip
def test_the_other_averages(average, per_token):
    weighed = weigh([rollout("a", 1.0, 1), rollout("a", 0.0, 3)], [True] * 2, 2, average=average, max_tokens=8)
    assert (weighed.weights_S / weighed.tokens).tolist() == pytest.approx(per_token)


def test_unscored_rewards_leave_their_groups_mean_alone():
    assert fill_unscored([1.0, math.nan, 0.0, 0.0], 2) == [1.0, 1.0, 0.0, 0.0]
    assert fill_unscored([math.nan, math.nan], 2) == [0.0, 0.0]


def test_the_schedule_is_the_local_engines_and_grows_without_changing():
    from loop_fakes import FakeTask, NotedRecorder

    from fastslow.config_io import parse_config
    from fastslow.fst import FastSlowTraining

    config = parse_config({"task": "chain_sum", "seed": 3, "slow": {"problems_per_step": 4}})
    task = FakeTask(train=10)
    loop = FastSlowTraining(config, task, None, None, None, NotedRecorder())
    order = schedule(10, 4, 6, seed=3)
    assert [task.train[i] for i in order] == [p for step in range(6) for p in loop.batch(step)]
    assert schedule(10, 4, 9, seed=3)[:24] == order


def test_more_problems_a_batch_than_there_are_is_one_line():
    with pytest.raises(ConfigError, match="has 3 problems, but a batch takes 4"):
        schedule(3, 4, 1, seed=0)
