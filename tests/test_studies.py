"""The studies of benchmarks/ run: each in its shortest form, as its command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
STUDIES = {
    "exam.py": "velocity, linear",
    "study_ve_linear.py": "VE, reverse SDE from prior",
    "study_checkerboard.py": "sin²(πt) v, η",
    "study_epsilon.py": "ε*, m = 0.001",
    "study_mirror.py": "learned",
    "study_inference.py": "slcp",
    "study_zoo.py": "mirror: 6 rows",
}
MORE = {"study_zoo.py": ["--methods", "mirror", "flow map, semigroup", "SD flow (particles)"]}


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_runs_and_leaves_what_was_measured_alone(study):
    kept = sorted((BENCHMARKS / "results").glob("*"))
    before = {path: path.stat().st_mtime_ns for path in kept}
    done = subprocess.run(
        [sys.executable, BENCHMARKS / study, "--quick", *MORE.get(study, [])],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert STUDIES[study] in done.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert sorted((BENCHMARKS / "results").glob("*")) == kept


def test_the_script_for_a_card_can_be_tried_without_one(tmp_path):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "card.py", "--dry-run", "--out", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    told = (tmp_path / "card.md").read_text()
    for part in ("tests", "sampling", "training", "particles", "entropic", "peers", "half"):
        assert f"| {part} |" in told
    assert "failed" not in done.stdout
    assert "was not done" not in done.stdout
