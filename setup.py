"""What pyproject.toml can't say: the wheel also carries configs/ and constraints.txt, which stand at the top here."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithConfigs(build_py):
    """An editable install reads both from the checkout (see ``fastslow.config.config_dir``)."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        package = Path(self.build_lib) / "fastslow"
        shutil.copytree(ROOT / "configs", package / "configs", dirs_exist_ok=True)
        shutil.copy2(ROOT / "constraints.txt", package / "constraints.txt")


setup(cmdclass={"build_py": BuildWithConfigs})
