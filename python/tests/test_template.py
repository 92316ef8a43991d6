"""What `snakehouse init worker` writes works as it says: its tests pass under plain pytest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import BOUND

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "crates" / "cli" / "templates" / "worker"


def test_the_tools_of_the_template_are_tested_without_a_pool(tmp_path: Path) -> None:
    made = shutil.copytree(TEMPLATE, tmp_path / "made")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=made,
        env={**os.environ, "PYTHONPATH": str(ROOT / "python")},
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "3 passed" in run.stdout
