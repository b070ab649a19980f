"""The house: a layer imports only from those above it, and no test, plot or docs package."""

import ast
import subprocess
import sys
from pathlib import Path

import transportflows as tpf

ROOT = Path(tpf.__file__).parent
LAYERS = [
    ["_tensor", "_random", "_autodiff", "_checks", "_container", "_distributed"],
    ["interpolants"],
    ["distributions", "couplings", "times", "transforms", "_describe"],
    ["batches", "process"],
    ["sdes"],
    ["conversions", "snr"],
    ["fields"],
    ["preconditioning"],
    ["oracles"],
    ["losses"],
    ["samplers"],
    ["likelihood"],
    ["training"],
    ["particles"],
    ["metrics", "networks", "datasets", "plots"],
    ["_files", "testing"],
]
LEVEL = {module: k for k, layer in enumerate(LAYERS) for module in layer}
LAZY_UP = {("fields", "_files")}  # Field.save, inside the method
BY_NAME = {("_files", "_files"), ("_describe", "_describe"), ("training", "snapshots")}
LEAVES = {"metrics", "networks", "datasets", "plots"}
OUTSIDE = {"torch", "numpy", "scipy", "ot", "torchdiffeq", "tqdm"}
LAZY = {"sklearn", "matplotlib"}  # inside a function, with a message that names the extra


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node, node.level, node.module or ""
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield node, 0, alias.name


def test_every_module_has_a_layer():
    modules = {p.stem for p in ROOT.glob("*.py")} | {
        p.parent.name for p in ROOT.glob("*/__init__.py")
    }
    assert modules - {"__init__"} == set(LEVEL)


def test_imports_go_one_way():
    for path in ROOT.rglob("*.py"):
        inside = path.relative_to(ROOT).with_suffix("").parts
        if inside == ("__init__",):
            continue
        own = inside[0]
        for node, level, module in _imports(path):
            package = ("transportflows", *inside[:-1])
            if level:
                target = (*package[: len(package) - level + 1], *module.split("."))
            else:
                target = tuple(module.split("."))
            if target[0] != "transportflows":
                top = target[0]
                allowed = OUTSIDE | LAZY | set(sys.stdlib_module_names)
                assert top in allowed, f"{path}: {top}"
                assert top not in LAZY or node.col_offset > 0, f"{path}: {top} at import"
                continue
            names = [target[1]] if len(target) > 1 and target[1] else []
            if not names and (own, path.stem) not in BY_NAME:
                names = [alias.name for alias in node.names]
            for name in names:
                if name == own or ((own, name) in LAZY_UP and node.col_offset > 0):
                    continue
                assert LEVEL[name] <= LEVEL[own], f"{path} ({own}) imports {name}"
                assert name not in LEAVES or own in ("_files", "testing"), f"{path} imports {name}"


def test_public_names_are_flat_and_documented():
    for name in tpf.__all__:
        value = getattr(tpf, name)
        if callable(value):
            assert value.__doc__, name
            assert len(value.__doc__.split()) >= 4, name
            if isinstance(value, type):
                for key, member in vars(value).items():
                    if key.startswith("_") or not callable(member):
                        continue
                    inherited = any(
                        getattr(getattr(base, key, None), "__doc__", None) for base in value.__mro__
                    )
                    assert member.__doc__ or inherited, f"{name}.{key}"


def test_importing_draws_nothing_and_needs_no_extra():
    code = (
        "import sys, torch; torch.manual_seed(0); s = torch.random.get_rng_state();"
        "import transportflows;"
        "assert torch.equal(s, torch.random.get_rng_state());"
        "bad = {'matplotlib', 'sklearn', 'pytest', 'sphinx', 'tensorboard'} & set(sys.modules);"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
