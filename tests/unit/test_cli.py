"""Locks: whatever a user gets wrong on the command line is one line on standard error that names the field and a mend,
exit code 2, and nothing left on disk; every command helps with an example."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny_models import save_tiny

from fastslow.cli import app, main
from fastslow.costs import Speed

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = sorted(c.name or c.callback.__name__ for c in app.registered_commands)
CONFIGS = sorted(
    p.relative_to(ROOT)
    for p in [*(ROOT / "configs").rglob("*.y*ml"), *(ROOT / "examples").glob("*.yaml")]
    if p.parent.name != "accelerate"  # these are accelerate's own
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("cli") / "model"))


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A user's folder: a data file, scorers, and the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    rows = [{"question": f"Which word is number {i}?", "answer": f"word{i}"} for i in range(8)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "my_scorer.py").write_text("def score(q, a, c, m):\n    return float(c == a)\n")
    (tmp_path / "broken_scorer.py").write_text("raise RuntimeError('no licence\\nat all')\n")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00\x01")
    (tmp_path / "torn.jsonl").write_text('{"question": "a", "answer": "b"}\n{"question": ')
    (tmp_path / "data.txt").write_text("a,b\n")
    (tmp_path / "list.yaml").write_text("- just\n- a list\n")
    (tmp_path / "invalid.yaml").write_text("a: [1, 2\nb: }")
    (tmp_path / "not-a-model").mkdir()
    return tmp_path


def settings(folder: str, **changes) -> dict:
    data = {
        "steps": 1,
        "model": {
            "name": folder,
            "threads": 1,
            "sampling_dtype": "float32",
            "train_dtype": "float32",
            "float32_matmul": "default",
        },
        "task": {"path": "data.jsonl", "train_size": 6, "val_size": 2},
        "sampling": {"max_new_tokens": 4},  # as many as the gold answers take, with the end
        "fast": {"population": 2, "every": 1, "budget": 6, "max_context_tokens": 200},
        "slow": {"group_size": 2, "problems_per_step": 2},
    }
    for key, value in changes.items():
        data[key] = {**data[key], **value} if isinstance(data.get(key), dict) and isinstance(value, dict) else value
    return data


def call(monkeypatch, capfd, *args: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of the command."""
    monkeypatch.setattr(sys, "argv", ["fastslow", *args])
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
        raise SystemExit(0)
    out, err = capfd.readouterr()
    return int(ended.value.code or 0), out, err


def everything_under(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b""
        for p in folder.rglob("*")
        if "__pycache__" not in p.parts
    }


def assert_refused(result: tuple[int, str, str], *parts: str) -> None:
    code, out, err = result
    assert code == 2, (code, out, err)
    assert err.count("\n") == 1 and err.startswith("fastslow: "), err
    assert "Traceback" not in err and not out
    for part in parts:
        assert part in err, err


def write(home: Path, data: dict) -> str:
    (home / "config.yaml").write_text(yaml.safe_dump(data))
    return "config.yaml"


with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    CLOSED = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"

# name -> (changes to a good config, what the line must say: the field, and how to mend it)
BAD = {
    "unknown key": ({"slow": {"learning_rate": 1}}, "slow.learning_rate: unknown key", "known here"),
    "misspelt key": ({"slwo": {}}, "slwo: unknown key", "did you mean 'slow'?"),
    "misspelt method": ({"method": "fts"}, "method:", "'fst'"),
    "text for a number": ({"steps": "many"}, "steps:", "integer", "'many'"),
    "a number out of range": ({"slow": {"lr": -1}}, "slow.lr:", "greater than 0"),
    "a value for a section": ({"slow": 3}, "slow:"),
    "K does not divide G": ({"fast": {"population": 3}, "slow": {"group_size": 4}}, "fast.population (K = 3)", "K = 2"),
    "greedy training": ({"sampling": {"temperature": 0}}, "sampling.temperature must be above 0"),
    "no task": ({"task": None}, "task"),
    "unknown task": ({"task": "chain_sun"}, "task.name", "chain_sun", "chain_sum"),
    "unknown convention": ({"task": {"convention": "brakets"}}, "task.convention", "brakets", "brackets"),
    "empty dataset": ({"task": {"path": "empty.jsonl"}}, "task.path: ", "empty.jsonl holds no rows"),
    "missing dataset": ({"task": {"path": "nowhere.jsonl"}}, "task.path: nowhere.jsonl: no such file", "give a file"),
    "unreadable dataset": ({"task": {"path": "binary.jsonl"}}, "task.path: ", "binary.jsonl is not UTF-8", "save it"),
    "torn dataset": ({"task": {"path": "torn.jsonl"}}, "task.path: ", "torn.jsonl line 2 is not JSON"),
    "unknown kind of file": ({"task": {"path": "data.txt"}}, "task.path: ", "data.txt: expected .jsonl, .csv"),
    "missing question": ({"task": {"question": "prompt"}}, "task.question:", "no column 'prompt'", "question, answer"),
    "missing answer": ({"task": {"answer": "gold"}}, "task.answer:", "no column 'gold'", "question, answer"),
    "unknown scorer": ({"task": {"scorer": "exakt"}}, "task.scorer: 'exakt'", "exact, numeric, choice"),
    "scorer not found": ({"task": {"scorer": "no_such:score"}}, "task.scorer: 'no_such' can't be found", "looked in"),
    "scorer won't import": ({"task": {"scorer": "broken_scorer:score"}}, "task.scorer:", "RuntimeError: no licence at"),
    "scorer lacks function": ({"task": {"scorer": "my_scorer:judge"}}, "task.scorer:", "has no function 'judge'"),
    "missing model folder": ({"model": {"name": "./nowhere"}}, "model.name: ./nowhere: no such folder"),
    "folder without a model": ({"model": {"name": "not-a-model"}}, "model.name: not-a-model", "save_pretrained"),
    "missing gguf": ({"model": {"name": "nowhere.gguf"}}, "model.name: nowhere.gguf: no such .gguf file"),
    "chat without a template": ({"model": {"prompt": {"style": "chat"}}}, "model.prompt.style", "style: text"),
    "no room in the model's window": (
        {"sampling": {"max_new_tokens": 600}}, "sampling.max_new_tokens: problem", "the model holds 512; lower",
    ),
    "unknown device": ({"model": {"device": "gpu9"}}, "model.device: 'gpu9'", "use auto or cpu"),
    "adapters nowhere": ({"model": {"lora": {"targets": ["nowhere"]}}}, "model.lora.targets", "nowhere"),
    "endpoint refuses": (
        {"fast": {"reflector": {"type": "endpoint", "model": "m", "base_url": CLOSED, "retries": 0}}},
        "fast.reflector.base_url", "can't be reached", "start the server",
    ),
    "endpoint without a key": (
        {"fast": {"reflector": {"type": "endpoint", "model": "m", "api_key_env": "NO_SUCH_KEY"}}},
        "fast.reflector.api_key_env", "NO_SUCH_KEY",
    ),
    "endpoint without a model": ({"fast": {"reflector": "endpoint"}}, "fast.reflector.model: missing; add it"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_config_is_one_line_and_leaves_nothing(home, model, monkeypatch, capfd, name):
    changes, *parts = BAD[name]
    path = write(home, settings(model, **changes))
    before = everything_under(home)
    assert_refused(call(monkeypatch, capfd, "train", path, "--out", "runs/deep/run"), *parts)
    assert everything_under(home) == before


@pytest.mark.parametrize(
    "path, parts",
    [
        ("nowhere.yaml", ["config nowhere.yaml: no such file", "configs/demo.yaml` is a working example"]),
        ("invalid.yaml", ["config invalid.yaml: not valid YAML"]),
        ("list.yaml", ["config list.yaml: expected keys and values"]),
        ("binary.jsonl", ["config binary.jsonl: cannot be read"]),
        ("not-a-model", ["config not-a-model: cannot be read"]),
    ],
)
@pytest.mark.parametrize("command", ["train", "plan"])
def test_a_config_that_cannot_be_read_is_one_line(home, monkeypatch, capfd, command, path, parts):
    before = everything_under(home)
    assert_refused(call(monkeypatch, capfd, command, path), *parts)
    assert everything_under(home) == before


@pytest.mark.parametrize(
    "override, parts",
    [
        ("slow.lr", ["--set 'slow.lr': expected a.b=c"]),
        ("=3", ["--set '=3': expected a.b=c"]),
        ("slow.lrr=1", ["slow.lrr: unknown key; did you mean 'lr'?"]),
        ("steps.more=1", ["--set 'steps.more=1': steps is a value, not a section"]),
        ("steps=0", ["steps:", "greater than or equal to 1"]),
        ("model.lora.rank=x", ["model.lora.rank:", "integer"]),
    ],
)
def test_a_bad_override_is_one_line(home, model, monkeypatch, capfd, override, parts):
    assert_refused(call(monkeypatch, capfd, "train", write(home, settings(model)), "--set", override), *parts)
    assert not (home / "runs").exists()


@pytest.mark.parametrize(
    "override, key, value",
    [
        ("slow.lr=2e-5", "slow.lr", 2e-5),
        ("steps=7", "steps", 7),
        ("task=gcd", "task.name", "gcd"),
        ("task.convention=brackets", "task.convention.kind", "brackets"),
        ("fast.reflector=policy", "fast.reflector.type", "policy"),
        ("fast.reflector.max_examples=2", "fast.reflector.max_examples", 2),
        ("fast.reflector.max_examples=2", "fast.reflector.type", "feedback"),
        ("sampling.stop=[a, b]", "sampling.stop", ["a", "b"]),
        ("sampling.stop=['\\n']", "sampling.stop", ["\\n"]),
        ('sampling.stop=["\\n"]', "sampling.stop", ["\n"]),
        ("model.lora={rank: 4}", "model.lora.rank", 4),
        ("model.lora.rank=4", "model.lora.rank", 4),
        ("max_rollouts=null", "max_rollouts", None),
        ("name=a=b", "name", "a=b"),
        ("model.prompt.question_prefix=", "model.prompt.question_prefix", ""),
    ],
)
def test_overrides_are_read_as_a_person_means_them(home, model, override, key, value):
    from fastslow.config_io import load_config

    data = load_config(write(home, settings(model)), [override]).model_dump(mode="json")
    for part in key.split("."):
        data = data[part]
    assert data == value


def test_a_run_from_start_to_comparison(home, model, monkeypatch, capfd):
    path = write(home, settings(model))
    code, out, err = call(monkeypatch, capfd, "train", path, "--out", "runs/a")
    assert code == 0, err
    assert "Run folder: runs/a" in " ".join(out.split())
    assert (home / "runs/a/summary.json").is_file() and (home / "runs/a/plots/run.png").is_file()
    before = everything_under(home)

    again = call(monkeypatch, capfd, "train", path, "--out", "runs/a")
    assert_refused(again, "runs/a: a run is already here; use --resume to go on, or another --out")
    assert_refused(
        call(monkeypatch, capfd, "train", path, "--out", "runs/b", "--resume"), "runs/b: no run to resume here"
    )
    other = call(monkeypatch, capfd, "train", path, "--out", "runs/a", "--resume", "--set", "slow.lr=0.5")
    assert_refused(other, "slow.lr was", "resume with the stored value, or use another --out")
    assert_refused(call(monkeypatch, capfd, "train", path, "--out", "data.jsonl"), "data.jsonl", "another --out")
    assert everything_under(home) == before

    code, out, err = call(monkeypatch, capfd, "eval", "runs/a", "-n", "2")
    assert code == 0 and "mean@2" in out, err
    (home / "mine.json").write_text(json.dumps({"components": {"instructions": "Be brief.", "examples": ""}}))
    for context in ("seed", "none", "mine.json"):
        assert call(monkeypatch, capfd, "eval", "runs/a", "--context", context, "-n", "1")[0] == 0
    assert_refused(call(monkeypatch, capfd, "eval", "runs/a", "--context", "best"), "--context best", "seed, evolved")
    (home / "mine.json").write_text('{"components": 3}')
    assert_refused(call(monkeypatch, capfd, "eval", "runs/a", "--context", "mine.json"), "--context mine.json")
    (home / "mine.json").unlink()

    code, out, err = call(monkeypatch, capfd, "compare", "runs/a", "--out", "plots")
    assert code == 0 and (home / "plots/compare.png").is_file(), err

    (home / "runs/a/summary.json").unlink()
    weights = next((home / "runs/a/checkpoints").glob("*/weights.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4] + b"oops")
    before = everything_under(home)
    for command in (["train", path, "--out", "runs/a", "--resume"], ["eval", "runs/a"]):
        assert_refused(call(monkeypatch, capfd, *command), "weights.safetensors", "has changed since it was written")
    assert everything_under(home).keys() == before.keys()
    weights.write_bytes(whole)
    assert call(monkeypatch, capfd, "train", path, "--out", "runs/a", "--resume")[0] == 0


@pytest.mark.parametrize(
    "args, parts",
    [
        (["eval", "./nowhere", "--task", "gcd"], ["./nowhere: no such folder or file"]),
        (["eval", "smollm2-135m"], ["--task: needed to evaluate a model", "--task chain_sum"]),
        (["compare", "nowhere"], ["no run among nowhere", "config.yaml"]),
        (["demo", "--arms", "fst,sft"], ["--arms: 'fst,sft'", "fst, rl, gepa"]),
        (["demo", "--config", "nowhere.yaml"], ["config nowhere.yaml: no such file"]),
    ],
)
def test_other_commands_refuse_in_one_line(home, monkeypatch, capfd, args, parts):
    before = everything_under(home)
    assert_refused(call(monkeypatch, capfd, *args), *parts)
    assert everything_under(home) == before


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_shows_an_example(monkeypatch, capfd, command):
    code, out, _ = call(monkeypatch, capfd, *([command] if command else []), "--help")
    assert code == 0
    assert "Example: fastslow" in " ".join(out.split())


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_every_shipped_config_can_be_planned(monkeypatch, capfd, path):
    monkeypatch.chdir(ROOT)
    speed = Speed({1: 1e-10, 512: 1e-8})
    monkeypatch.setattr("fastslow.costs.measure_speed", lambda config: (speed, speed))
    code, out, err = call(monkeypatch, capfd, "plan", str(path))
    assert code == 0, err
    assert "rollouts" in out


def test_a_plan_refuses_a_size_it_cannot_read(home, model, monkeypatch, capfd):
    path = write(home, settings(model))
    assert_refused(call(monkeypatch, capfd, "plan", path, "--parameters", "big"), "--parameters big", "8B")


def test_tasks_and_models_are_listed(monkeypatch, capfd):
    code, out, _ = call(monkeypatch, capfd, "tasks", "chain_sum")
    assert code == 0 and "chain_sum" in out and "gcd" not in out
    code, out, _ = call(monkeypatch, capfd, "models")
    assert code == 0 and "smollm2-135m" in out and "Qwen/Qwen3-8B" in out


def test_no_arguments_show_help_and_unknown_ones_are_refused(monkeypatch, capfd):
    _, out, err = call(monkeypatch, capfd)
    assert "Usage" in out + err
    assert call(monkeypatch, capfd, "trian")[0] == 2


def test_a_broken_program_is_not_hidden_as_a_user_s_mistake(home, model, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fastslow", "train", write(home, settings(model))])
    monkeypatch.setattr("fastslow.engines.local.build_run_task", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main()
    assert not (home / "runs").exists()


def test_the_module_runs_as_the_command_does(home):
    done = subprocess.run(
        [sys.executable, "-m", "fastslow", "plan", "nowhere.yaml"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert_refused((done.returncode, done.stdout, done.stderr), "config nowhere.yaml: no such file")
