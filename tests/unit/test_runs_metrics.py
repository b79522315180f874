"""Locks: every line whole, a torn line cut, and a rewound file equal to one that was never interrupted."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest

from fastslow.errors import RunError
from fastslow.runs.metrics import MetricsWriter, read_metrics


def test_lines_are_flushed_at_once_and_read_back_in_order(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path)
    writer.write("slow", 1, {"reward": 0.5, "note": "a\u2028b\ud800"})
    writer.write("evaluation", 1, {"accuracy": {"ci95": (0.1, np.float32(0.5))}})
    assert read_metrics(path) == [
        {"kind": "slow", "step": 1, "reward": 0.5, "note": "a\u2028b\ud800"},
        {"kind": "evaluation", "step": 1, "accuracy": {"ci95": [0.1, 0.5]}},
    ]
    writer.close()


def test_nan_is_null_since_json_has_none(tmp_path):
    with MetricsWriter(tmp_path / "m") as writer:
        writer.write("slow", 1, {"loss": float("nan"), "deep": [{"x": float("inf")}]})
    line = (tmp_path / "m").read_text()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "kind": "slow",
        "step": 1,
        "loss": None,
        "deep": [{"x": None}],
    }


def test_a_resumed_run_has_the_bytes_of_an_unbroken_one(tmp_path):
    with MetricsWriter(tmp_path / "unbroken") as writer:
        for step in range(5):
            writer.write("slow", step, {"reward": step / 7})
    with MetricsWriter(tmp_path / "broken") as writer:
        for step in range(4):
            if step == 3:
                position = writer.position()
            writer.write("slow", step, {"reward": step / 7})
    with open(tmp_path / "broken", "ab") as file:
        file.write(b'{"kind": "slow", "st')  # killed here
    assert [r["step"] for r in read_metrics(tmp_path / "broken")] == [0, 1, 2, 3]
    with MetricsWriter(tmp_path / "broken") as writer:
        writer.rewind(position)
        for step in (3, 4):
            writer.write("slow", step, {"reward": step / 7})
    assert (tmp_path / "broken").read_bytes() == (tmp_path / "unbroken").read_bytes()


@pytest.mark.parametrize("torn", [b"{", b'{"kind": "slow", "text": "' + b"x" * 200_000])
def test_a_torn_last_line_is_cut_at_opening(tmp_path, torn):
    path = tmp_path / "m"
    for whole in (b"", b'{"kind": "slow", "step": 1}\n'):
        path.write_bytes(whole + torn)
        MetricsWriter(path).close()
        assert path.read_bytes() == whole


def test_rewinding_to_zero_empties_and_to_a_foreign_position_is_refused(tmp_path):
    with MetricsWriter(tmp_path / "m") as writer:
        writer.write("slow", 1, {})
        size = writer.position()
        for position in (size + 1, size - 3):
            with pytest.raises(RunError) as caught:
                writer.rewind(position)
            assert "\n" not in str(caught.value) and "another --out" in str(caught.value)
        assert len(read_metrics(tmp_path / "m")) == 1
        writer.rewind(0)
        assert read_metrics(tmp_path / "m") == []


def test_a_full_disk_in_mid_line_leaves_no_torn_line(tmp_path):
    class Full:
        """A file whose disk takes five more bytes."""

        def __init__(self, file):
            self.file, self.room = file, 5

        def write(self, data):
            if not self.room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written, self.room = self.file.write(data[: self.room]), 0
            return written

        def __getattr__(self, name):
            return getattr(self.file, name)

    path = tmp_path / "m"
    with MetricsWriter(path) as writer:
        writer.write("slow", 1, {})
        before, plain = path.read_bytes(), writer._file
        writer._file = Full(plain)
        with pytest.raises(RunError, match="the disk is full"):
            writer.write("slow", 2, {})
        assert path.read_bytes() == before


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "m").write_bytes(b'{"kind": "slow", "step": 1}\nnonsense\n{}\n')
    with pytest.raises(RunError, match="line 2 is damaged"):
        read_metrics(tmp_path / "m")
    with pytest.raises(RunError, match="no such file"):
        read_metrics(tmp_path / "none")
