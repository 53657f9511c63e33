"""A wheel holds all that a checkout has: every module, every configuration file, every word list."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "data_prep", "trainer", "conf")


def test_a_wheel_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"  # setuptools leaves its build folder beside what it builds
    for package in PACKAGES:
        shutil.copytree(ROOT / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), "."]
    result = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    [wheel] = tmp_path.glob("crawl2chat-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {path.relative_to(checkout).as_posix() for package in PACKAGES for path in (checkout / package).rglob("*") if path.is_file()}
    assert {"conf/config.yaml", "conf/recipe/web.yaml", "data_prep/urls/lists/adult.domains"} <= wanted
    assert wanted - held == set()
    assert not any(name.startswith(("tests/", "benchmarks/", "docs/")) for name in held)
    assert any(name.endswith("licenses/LICENSE") for name in held)
