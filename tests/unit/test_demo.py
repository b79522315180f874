"""The demo reads finished runs, but never those of another config."""

from __future__ import annotations

import pytest

from fastslow import demo
from fastslow.config_io import dump_config, parse_config
from fastslow.errors import RunError


def test_a_finished_run_of_another_config_is_refused(tmp_path):
    stored, asked = (parse_config({"task": "chain_sum", "slow": {"lr": lr}}) for lr in (1e-5, 2e-5))
    run = tmp_path / "fst-seed0"
    run.mkdir()
    (run / "config.yaml").write_text(dump_config(stored))
    (run / "summary.json").write_text("{}")
    with pytest.raises(RunError, match="another config"):
        demo._run(asked, tmp_path, 0, "fst")
