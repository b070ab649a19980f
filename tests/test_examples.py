"""The README's code and the quickstart, run as a reader would, only shorter."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHORTER = {
    "50_000": "600",
    "10_000": "200",
    "5_000": "4",
    "2_000": "150",
    "1_024": "64",
    "1_000": "50",
    "steps=100": "steps=8",
}


def test_the_code_in_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    code = "\n".join(blocks)
    for long, short in SHORTER.items():
        assert long in code, long
        code = code.replace(long, short)
    exec(compile(code, "README.md", "exec"), {})


def test_the_two_commands_open_the_readme():
    text = (ROOT / "README.md").read_text()
    commands = re.findall(r"```sh\n(.*?)\n```", text, re.DOTALL)
    assert commands == [
        "pip install -c constraints.txt -e '.[examples]' && python examples/quickstart.py",
        "pip install -c constraints.txt -e '.[test]' && pytest",
    ]


@pytest.mark.timeout(280)
def test_quickstart_beats_shuffled_pixels(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    module = runpy.run_path(str(ROOT / "examples" / "quickstart.py"))
    module["main"](steps=500)
    text = capsys.readouterr().out
    rows = {
        m[1].strip(): float(m[2])
        for m in re.finditer(r"^(\S.*?)\s{2,}([\d.]+)\s+-?[\d.]+$", text, re.MULTILINE)
    }
    floor, shuffled = rows["training digits (floor)"], rows["pixels shuffled between digits"]
    samples = [value for name, value in rows.items() if name.startswith("samples")]
    assert len(samples) == 4
    assert floor < 0.7 * shuffled
    assert max(samples) < 0.9 * shuffled
    assert (tmp_path / "quickstart.png").stat().st_size > 10_000
