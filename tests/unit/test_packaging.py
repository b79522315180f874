"""The shape of the package: what may import what, how long a file may be, and that whatever is shipped parses.

Behaviours locked: config, types, tasks and fast weights stay free of torch; losses stand alone; nothing depends on the
command line; every shipped config is valid; every config field is documented; versions are pinned for every dependency.
"""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastslow.config_io import dump_config, load_config, parse_config

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "fastslow"
MODULES = sorted(SOURCE.rglob("*.py"))
FOUND = sorted([*(ROOT / "configs").rglob("*.y*ml"), *(ROOT / "examples").rglob("*.y*ml")])
CONFIGS = [path for path in FOUND if path.parent.name != "accelerate"]  # these are accelerate's own
MAX_LINES = 400

TORCH_FREE = ("types", "config", "config_io", "errors", "seeds", "worked_examples", "tasks", "fast")
"""Modules and packages of fastslow that must never import torch, nor anything that does."""

HEAVY = {"torch", "transformers", "accelerate", "peft", "trl", "safetensors"}


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Every module that the file imports when it runs, by absolute name; names for type checkers alone don't count."""
    package = path.relative_to(SOURCE.parent).parent.parts
    for node in _running(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            name = ".".join(part for part in (base, node.module) if part)
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)


def _running(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    typing_only = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    for child in node.orelse if typing_only else ast.iter_child_nodes(node):
        yield from _running(child)


def test_imports_are_read_wherever_they_stand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path / "fastslow")
    path = tmp_path / "fastslow" / "tasks" / "one.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "from . import base\nfrom ..fast import population\n"
        "if TYPE_CHECKING:\n    import never\nelse:\n    import late\n"
        "def f():\n    import torch.nn\n"
    )
    found = set(imports(path))
    assert {"fastslow.tasks.base", "fastslow.fast.population", "torch.nn", "late"} <= found
    assert "never" not in found


def belongs(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


TORCH_FREE_MODULES = [m for m in MODULES if belongs(module_name(m), *(f"fastslow.{part}" for part in TORCH_FREE))]


@pytest.mark.parametrize("path", TORCH_FREE_MODULES, ids=module_name)
def test_torch_stays_out_of_tasks_and_fast_weights(path: Path) -> None:
    assert not {name for name in imports(path) if name.split(".")[0] in HEAVY}
    assert not [name for name in imports(path) if belongs(name, "fastslow.policy", "fastslow.slow", "fastslow.engines")]


def test_importing_them_loads_no_torch_even_indirectly() -> None:
    names = [module_name(path) for path in TORCH_FREE_MODULES]
    program = f"import sys\nfor name in {names!r}:\n    __import__(name)\n    if 'torch' in sys.modules: sys.exit(name)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"torch came with {done.stderr[-1000:]}"


@pytest.mark.parametrize(
    "module", ["fastslow.config", "fastslow.config_io", "fastslow.cli", "fastslow.policy.embedded"]
)
def test_starting_up_loads_no_torch(module: str) -> None:
    path = SOURCE.parent.joinpath(*module.split("."))
    if not (path.with_suffix(".py").exists() or path.is_dir()):
        pytest.skip(f"{module} is not there")
    program = f"import sys, {module}\nsys.exit(sorted({{'torch', 'transformers'}} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-1000:]


def test_losses_import_nothing_of_the_package_but_themselves() -> None:
    for path in (SOURCE / "slow" / "losses").glob("*.py"):
        strangers = [n for n in imports(path) if belongs(n, "fastslow") and not belongs(n, "fastslow.slow.losses")]
        assert not strangers, f"{module_name(path)} imports {strangers}"


def test_types_import_nothing_of_the_package() -> None:
    assert not [name for name in imports(SOURCE / "types.py") if belongs(name, "fastslow")]


def test_arrows_between_the_parts_never_form_a_circle() -> None:
    parts: dict[str, set[str]] = {}
    for path in MODULES:
        part = ".".join(module_name(path).split(".")[:2])
        others = {".".join(name.split(".")[:2]) for name in imports(path) if belongs(name, "fastslow")}
        parts.setdefault(part, set()).update(others - {part, "fastslow", "fastslow.__version__"})
    graphlib.TopologicalSorter(parts).prepare()  # raises CycleError, which names the circle


def test_the_loop_knows_no_engine() -> None:
    """Engines build the loop's parts from a config; the loop takes what it is given."""
    assert not [n for n in imports(SOURCE / "fst.py") if belongs(n, "fastslow.engines", "fastslow.policy.loading")]


def test_nothing_depends_on_the_command_line() -> None:
    outside = [m for m in MODULES if not belongs(module_name(m), "fastslow.cli", "fastslow.__main__")]
    for path in outside:
        assert not [name for name in imports(path) if belongs(name, "fastslow.cli")], module_name(path)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_no_file_grows_too_long(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines < MAX_LINES, f"{module_name(path)} has {lines} lines; split it"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_shipped_config_parses_and_survives_a_round_trip(path: Path) -> None:
    import yaml

    config = load_config(path)
    assert parse_config(yaml.safe_load(dump_config(config))) == config


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_dependency_is_pinned_without_a_local_version() -> None:
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", pin) for pin in pins)
    pinned = {_normal(pin.split("==")[0]) for pin in pins}
    project = _project()
    extras = [r for group in project["optional-dependencies"].values() for r in group]
    wanted = {_normal(re.split(r"[^A-Za-z0-9._-]", r, maxsplit=1)[0]) for r in [*project["dependencies"], *extras]}
    assert wanted <= pinned
    assert "fastslow" not in pinned


def test_no_registry_host_is_named_in_the_build_files() -> None:
    for name in ("Makefile", "constraints.txt", ".ci/run", "pyproject.toml"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"--(extra-)?index-url|--find-links|download\.pytorch|pypi\.org", text), name


def test_continuous_integration_runs_the_same_as_make_test() -> None:
    run = ROOT / ".ci" / "run"
    assert run.stat().st_mode & 0o111
    assert re.search(r"^exec make .*\btest$", run.read_text(), re.MULTILINE)
    recipe = (ROOT / "Makefile").read_text().split("\ntest:")[1].split("\n\n")[0]
    assert "ruff check" in recipe and recipe.rstrip().endswith("pytest")


def test_the_shipped_version_is_the_changelogs_newest() -> None:
    from fastslow import __version__

    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[0] == __version__


def test_the_configuration_reference_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "docs" / "make_configuration.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_config_field_says_what_it_means() -> None:
    rows = [
        r for r in (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8").splitlines() if r.startswith("| `")
    ]
    assert len(rows) > 50
    assert not [row for row in rows if row.endswith("|  |")]


def test_the_readmes_trainer_is_the_one_in_examples() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    _, _, script = (ROOT / "examples" / "fst_trainer.py").read_text(encoding="utf-8").partition('"""\n\n')
    assert script.strip() in readme and len(script.splitlines()) <= 25


@pytest.mark.parametrize("name", ["own_scorer.py", "own_task.yaml"])
def test_the_readmes_own_task_is_the_one_in_examples(name: str) -> None:
    """The printed example is the file that the tests run, comment lines of its own apart."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line for line in (ROOT / "examples" / name).read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    assert "\n".join(lines).strip() in readme
