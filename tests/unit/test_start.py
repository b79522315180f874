"""Starting from another run's weights. Locks: the weights put in are the run's last, adapters merged and chains
followed; the checkpoint used is written down; base and drift are those of the start; what doesn't fit is one line."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from tiny_models import save_tiny

from fastslow.config import ModelConfig
from fastslow.config_io import load_config, parse_config
from fastslow.engines.local import train
from fastslow.errors import ConfigError, FastslowError, ModelError, RunError
from fastslow.measure.sources import is_run, open_run
from fastslow.policy.loading import StartWeights, load_policy
from fastslow.runs.directory import RunDirectory
from fastslow.runs.start import find_checkpoint, load_started_policy, pin_start, start_weights


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Runs that moved: full weights, adapters, and adapters on top of the full ones."""
    home = tmp_path_factory.mktemp("start")
    model = str(save_tiny(home / "model"))
    rows = [{"question": f"Say {i}", "answer": "e"} for i in range(12)]
    (home / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    scorer = "def score(question, answer, completion, metadata):\n    return len(completion) % 7 / 7\n"
    (home / "length_scorer.py").write_text(scorer)
    full = settings(home, model)
    train(full, home / "full")
    train(settings(home, model, lora={"rank": 2}), home / "lora")
    train(settings(home, model, lora={"rank": 2}, init_from=str(home / "full")), home / "chained")
    return home


def settings(home, model, steps=2, **changes):
    data = {
        "method": "rl",
        "steps": steps,
        "model": {"name": model, "device": "cpu", "threads": 1, "sampling_dtype": "float32",
                  "train_dtype": "float32", "float32_matmul": "default", **changes},
        "task": {"path": str(home / "data.jsonl"), "train_size": 8, "val_size": 4, "scorer": "length_scorer:score",
                 "check_gold": False},
        "sampling": {"max_new_tokens": 6, "stop": list("etaoinshrdluABC ")},
        "slow": {"group_size": 4, "problems_per_step": 2, "lr": 1e-2, "warmup": 0, "kl": 0.0},
    }  # fmt: skip
    return parse_config(data)


def weights(policy):
    return {n: p.detach() for n, p in policy.causal_lm.named_parameters()}


def model_of(home, **changes) -> ModelConfig:
    return RunDirectory(home / "full").load_config().model.model_copy(update=changes)


def equal(a, b, tolerance: float = 0.0) -> bool:
    assert a.keys() == b.keys()
    return all((a[n] - b[n]).abs().max() <= tolerance for n in a)


def test_a_run_starts_with_the_weights_that_another_ended_with(home):
    started = weights(load_started_policy(model_of(home, init_from=str(home / "full"))))
    tensors = start_weights(model_of(home, init_from=str(home / "full")))[0].tensors
    assert all(torch.equal(started[n], t) for n, t in tensors.items())
    assert not equal(started, weights(load_policy(model_of(home))))
    assert load_started_policy(model_of(home, init_from=str(home / "full"))).weights_step == 0


def test_adapters_are_merged_and_what_they_lay_upon_comes_first(home):
    fresh, full = (weights(load_started_policy(model_of(home, init_from=i))) for i in (None, str(home / "full")))
    merged = load_started_policy(model_of(home, init_from=str(home / "lora")))
    assert not hasattr(merged.model, "disable_adapter")
    assert not equal(weights(merged), fresh) and equal(weights(merged), fresh, 0.5)
    chained = start_weights(model_of(home, init_from=str(home / "chained")))
    assert [s.lora is not None for s in chained] == [False, True]
    on_full = weights(load_started_policy(model_of(home, init_from=str(home / "chained"))))
    untouched = [n for n in full if "norm" in n]
    assert untouched and all(torch.equal(on_full[n], full[n]) for n in untouched)
    assert not equal(on_full, full)


def test_the_checkpoint_used_is_written_down_and_drift_is_from_there(home):
    summary = json.loads((home / "chained/summary.json").read_text())
    stored = yaml.safe_load((home / "chained/config.yaml").read_text())
    assert summary["init_from"] == stored["model"]["init_from"] == str(home / "full/checkpoints/step-000002")
    assert json.loads((home / "full/summary.json").read_text())["init_from"] is None
    run = open_run(home / "chained")
    assert equal(weights(run.base_policy()), weights(open_run(home / "full").trained_policy()))
    assert equal(weights(run.base_policy(released=True)), weights(load_policy(model_of(home))))
    assert run.trained_policy().weights_step == run.weights_step > 0


def test_continuing_runs_resume_and_their_first_step_is_from_the_start(home, tmp_path):
    config = settings(home, str(home / "model"), steps=1, init_from=str(home / "full"))
    train(config, tmp_path / "run")
    longer = config.model_copy(update={"steps": 2})
    train(longer, tmp_path / "run", resume=True)
    train(longer, tmp_path / "whole")
    a, b = (weights(open_run(tmp_path / name).trained_policy()) for name in ("run", "whole"))
    assert equal(a, b)
    other = settings(home, str(home / "model"), steps=2)
    with pytest.raises(RunError, match=r"model\.init_from was"):
        train(other, tmp_path / "run", resume=True)


def test_pinning_names_the_very_checkpoint(home):
    for source in (home / "full", home / "full/checkpoints/step-000002"):
        pinned = pin_start(settings(home, str(home / "model"), init_from=str(source)))
        assert pinned.model.init_from == str(home / "full/checkpoints/step-000002")
    untouched = settings(home, str(home / "model"))
    assert pin_start(untouched) is untouched
    assert is_run(home / "full") and is_run(home / "full/checkpoints/step-000002") and not is_run(home / "model")


def test_a_relative_path_stands_beside_its_config(home, tmp_path):
    data = settings(home, str(home / "model"), init_from="full").model_dump(mode="json")
    (home / "next.yaml").write_text(yaml.safe_dump(data))
    assert load_config(home / "next.yaml").model.init_from == str(home / "full")


@pytest.mark.parametrize(
    "source, error, words",
    [
        ("nowhere", RunError, r"model\.init_from: .*nowhere: no run and no checkpoint"),
        ("model", RunError, "no run and no checkpoint"),
        ("early", RunError, "no checkpoint yet"),
    ],
)
def test_what_cannot_be_started_from_is_one_line_and_leaves_nothing(home, tmp_path, source, error, words):
    (home / "early").mkdir(exist_ok=True)
    (home / "early/config.yaml").write_text((home / "full/config.yaml").read_text())
    with pytest.raises(error, match=words) as caught:
        train(settings(home, str(home / "model"), init_from=str(home / source)), tmp_path / "run")
    assert isinstance(caught.value, FastslowError) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_weights_of_another_model_are_refused(home, tmp_path):
    other = str(save_tiny(tmp_path / "other", "qwen3"))
    with pytest.raises(ConfigError, match=r"model\.init_from: .* trained .*model, but model\.name is .*other"):
        train(settings(home, other, init_from=str(home / "full")), tmp_path / "run")
    tensors = start_weights(model_of(home, init_from=str(home / "full")))[0].tensors
    with pytest.raises(ModelError, match=r"model\.init_from: these weights don't fit"):
        load_policy(ModelConfig(name=other, threads=1, init_from="x"), [StartWeights(tensors)])
    with pytest.raises(ValueError, match="only with it"):
        load_policy(model_of(home, init_from="x"))


def test_a_damaged_newest_checkpoint_is_refused_and_not_skipped(home, tmp_path):
    import shutil

    shutil.copytree(home / "full", tmp_path / "run")
    (newest,) = (tmp_path / "run/checkpoints").iterdir()
    shutil.copytree(newest, newest.with_name("step-000001"))
    file = newest / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    assert find_checkpoint(tmp_path / "run") == newest
    with pytest.raises(RunError, match=r"weights\.safetensors has"):
        start_weights(model_of(home, init_from=str(tmp_path / "run")))
