"""The README's trainer script, as it stands, on the embedded model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real
EXAMPLE = Path(__file__).parents[2] / "examples" / "fst_trainer.py"


@pytest.mark.timeout(1600)  # about five minutes on two quiet cores
def test_the_script_trains_and_evolves(tmp_path):
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], cwd=tmp_path, env={**os.environ, **offline}, capture_output=True, text=True,
        timeout=1500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("'fst/reward'") == 2
    population = json.loads((tmp_path / "runs" / "fst-trainer" / "contexts" / "cycle-0000.json").read_text())
    assert len(population["archive"]) > 1 and "### Question" in done.stdout
