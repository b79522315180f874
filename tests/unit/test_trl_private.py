"""What we lean on inside TRL. Behaviours locked: the installed TRL is one that the tests know; a name that moves, takes
other arguments or is no longer read is told in one line, with the version to install."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from trl import GRPOTrainer

from fastslow.errors import EngineError
from fastslow.trl import private


def test_the_installed_trl_is_the_tested_one_and_its_inside_is_known():
    private.check_trl()
    assert private.is_tested(), f"trl {version('trl')} is installed; run these tests, then add it to private.TESTED"


@pytest.mark.parametrize("name", private.SIGNATURES)
def test_a_name_that_moved_is_told_in_one_line(name):
    gone = type("Gone", (GRPOTrainer,), {name: None})
    with pytest.raises(EngineError, match=rf"GRPOTrainer\.{name} is gone; install trl 1\.16") as caught:
        private.check_trl(gone)
    assert "\n" not in str(caught.value)


def test_other_arguments_are_told():
    changed = type("Changed", (GRPOTrainer,), {"_calculate_rewards": lambda self, rollouts: None})
    with pytest.raises(EngineError, match=r"_calculate_rewards takes \('rollouts',\), not \('inputs', 'prompts'"):
        private.check_trl(changed)


def test_a_loss_that_no_longer_reads_our_weights_is_told():
    def _compute_loss(self, model, inputs):
        return inputs["advantages"].sum()

    with pytest.raises(EngineError, match="_compute_loss no longer reads completion_mask"):
        private.check_trl(type("Other", (GRPOTrainer,), {"_compute_loss": _compute_loss}))


def test_a_batch_without_a_key_is_told():
    with pytest.raises(EngineError, match="has no advantages"):
        private.check_batch(dict.fromkeys(k for k in private.BATCH_KEYS if k != "advantages"))
