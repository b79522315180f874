"""What an installed wheel can do without a checkout: it carries the shipped configs and the tested versions."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from fastslow.config import config_dir
from fastslow.runs import versions

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ["pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "constraints.txt", "configs", "src"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel of a copy of this checkout, unpacked as pip would."""
    # Asked of its metadata: importing it here fails once anything has imported the standard library's distutils.
    found = [d.version for d in metadata.distributions(name="setuptools")]
    if not found or int(found[0].split(".")[0]) < 77:
        pytest.skip(f"pyproject.toml builds with setuptools 77 or newer; this environment has {found or 'none'}")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:  # aside, so that no build folder comes into the checkout
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    command += ["--disable-pip-version-check", "-w", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = folder.glob("fastslow-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def test_the_wheel_carries_every_shipped_config_and_the_tested_versions(installed):
    configs = [p for p in (ROOT / "configs").rglob("*") if p.is_file()]
    assert ROOT / "configs" / "demo.yaml" in configs
    for path in [*configs, ROOT / "constraints.txt"]:
        assert (installed / "fastslow" / path.relative_to(ROOT)).read_bytes() == path.read_bytes()


def test_an_installed_package_finds_them_inside_itself(installed):
    program = (
        "import fastslow.config as c; from fastslow.runs.versions import tested_versions; "
        "print(c.config_dir() / 'demo.yaml', (c.config_dir() / 'demo.yaml').is_file(), tested_versions()['torch'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=installed, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = f"{installed / 'fastslow' / 'configs' / 'demo.yaml'} True {versions.tested_versions()['torch']}"
    assert done.stdout.strip() == expected


def test_a_checkout_reads_its_own():
    assert config_dir() == ROOT / "configs"
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert versions.tested_versions() == {
        re.sub(r"[-_.]+", "-", n).lower(): v for n, v in (p.split("==") for p in pins)
    }
    assert {"torch", "transformers", "gepa", "trl", "reasoning-gym"} <= versions.tested_versions().keys()
