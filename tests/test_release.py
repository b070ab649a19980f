"""The release: one version everywhere, a wheel and an sdist that install, and a torch that stays.

Nothing is downloaded: what is built here is installed without its dependencies, and what pip would
install beside it is asked for with no index at all.
"""

import json
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import transportflows as tpf

ROOT = Path(__file__).parents[1]
VERSION = tpf.__version__


def run(*command, cwd):
    """What a command said; it knows nothing of the sources of this tree."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    kept |= {"PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=kept, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


# ---------------------------------------------------------------------------- what the files say


def test_the_version_is_one():
    told = {
        "pyproject.toml": re.search(
            r'(?m)^version = "(.+)"$', (ROOT / "pyproject.toml").read_text()
        ),
        "CITATION.cff": re.search(r"(?m)^version: (.+)$", (ROOT / "CITATION.cff").read_text()),
        "CHANGELOG.md": re.search(r"(?m)^## \[(\d.+)\]", (ROOT / "CHANGELOG.md").read_text()),
    }
    assert {file: found and found[1] for file, found in told.items()} == dict.fromkeys(
        told, VERSION
    )


def test_the_day_is_one():
    day = re.search(r"(?m)^## \[[\d.]+\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text())
    assert day
    assert f"date-released: {day[1]}" in (ROOT / "CITATION.cff").read_text()


def test_the_changelog_is_in_order():
    """What is unreleased comes first, versions fall, and each has its parts in one order, once."""
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"(?m)^## \[(.+?)\]", text)
    assert versions[0] == "Unreleased"
    numbers = [tuple(map(int, one.split("."))) for one in versions[1:]]
    assert numbers == sorted(set(numbers), reverse=True)
    order = ["Added", "Changed", "Fixed", "Removed"]
    for section in re.split(r"(?m)^## ", text)[1:]:
        parts = re.findall(r"(?m)^### (.+)$", section)
        assert parts == [part for part in order if part in parts], section.splitlines()[0]


def test_the_citation_has_what_its_schema_asks_for():
    lines = (ROOT / "CITATION.cff").read_text().splitlines()
    keys = [line.partition(":")[0] for line in lines if line and line[0] not in " -#"]
    assert len(keys) == len(set(keys))
    assert {"cff-version", "message", "title", "authors", "version", "date-released"} <= set(keys)
    assert not [line for line in lines if "\t" in line]


# ------------------------------------------------------------------------- what is built of them


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist of this tree, and the wheel that is made of the sdist alone."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("built")
    run("-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "source")
    (source,) = (folder / "source").iterdir()
    run("-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=source)
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel, source


def test_the_sdist_holds_what_it_takes_to_test_it(built):
    _, _, source = built
    assert source.name == f"transportflows-{VERSION}"
    tracked = {path.relative_to(ROOT) for path in (ROOT / "src").rglob("*.py")}
    assert tracked <= {path.relative_to(source) for path in (source / "src").rglob("*.py")}
    for name in ("tests/test_release.py", "README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE"):
        assert (source / name).is_file(), name
    assert not [path for path in source.rglob("*") if path.suffix == ".pyc"]
    linked = re.findall(r"\]\(([^)#:]+)[)#]", (ROOT / "README.md").read_text())
    assert not [target for target in linked if not (source / target).exists()]


def test_the_wheel_holds_the_package_alone(built):
    _, wheel, _ = built
    assert wheel.name == f"transportflows-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        told = archive.read(metadata).decode()
    info = metadata.partition("/")[0]
    assert {name.partition("/")[0] for name in names} == {"transportflows", info}
    assert f"{info}/licenses/LICENSE" in names
    here = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "transportflows").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert "transportflows/py.typed" in here
    assert {name for name in names if name.startswith("transportflows/")} == here
    assert not [
        name for name in names if "test_" in name or name.startswith("transportflows/tests")
    ]
    assert f"Version: {VERSION}\n" in told
    needed = re.findall(r"(?m)^Requires-Dist: ([\w.-]+)([^;\n]*)$", told)  # without an extra
    assert dict(needed)["torch"] == ">=2.4"
    assert {name for name, _ in needed} == {"torch", "numpy", "scipy", "pot", "torchdiffeq", "tqdm"}


_IMPORTED = """
import importlib.metadata, sys
import transportflows as tpf
assert tpf.__file__.startswith(sys.prefix), tpf.__file__
assert importlib.metadata.version("transportflows") == tpf.__version__ == sys.argv[1]
process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
x = tpf.sample(tpf.oracle(process, tpf.Gaussian((2,), mean=3.0)), 500, steps=5).x
assert abs(float(x.mean()) - 3) < 0.2, x.mean()
for name in tpf.__all__:
    getattr(tpf, name)
print("imported")
"""


def test_the_wheel_is_installed_and_imported(built, tmp_path):
    """In a fresh environment, which is lent the packages of this one once it has been installed."""
    pytest.importorskip("pip")
    _, wheel, _ = built
    venv.create(tmp_path / "fresh", with_pip=False, symlinks=os.name != "nt")
    scripts = tmp_path / "fresh" / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / ("python.exe" if os.name == "nt" else "python")
    run("-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index",
        "--no-compile", wheel, cwd=tmp_path)  # fmt: skip
    (site,) = {path.parent for path in (tmp_path / "fresh").rglob("transportflows/__init__.py")}
    lent = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site.parent / "lent.pth").write_text("\n".join(lent) + "\n")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [python, "-I", "-B", "-c", _IMPORTED, VERSION],
        cwd=tmp_path, env=kept, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "imported\n", done.stderr


def test_an_installation_keeps_the_torch_that_is_there(tmp_path):
    """``pip install .``, without constraints: pip is asked what it would install, with no index."""
    pytest.importorskip("pip")
    pytest.importorskip("hatchling")
    report = tmp_path / "report.json"
    run("-m", "pip", "install", "--dry-run", "--quiet", "--no-index", "--no-build-isolation",
        "--report", report, ROOT, cwd=tmp_path)  # fmt: skip
    found = [one["metadata"]["name"] for one in json.loads(report.read_text())["install"]]
    assert found == ["transportflows"]
