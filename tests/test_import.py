"""What ``import transportflows`` imports: nothing heavy, and no namespace that stands on top."""

import json
import subprocess
import sys

import pytest

import transportflows as tpf

HEAVY = ("scipy", "ot", "torchdiffeq", "matplotlib", "sklearn")
LEAVES = (
    "bridges", "datasets", "estimators", "guidance", "inverse", "langevin", "maps", "metrics",
    "plots", "testing",
)  # fmt: skip


def run(code: str) -> object:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def test_importing_is_light():
    code = "import sys, json, {}; print(json.dumps(sorted(sys.modules)))"
    before, after = set(run(code.format("torch"))), set(run(code.format("transportflows")))
    new = after - before
    assert not {name for name in new if name.partition(".")[0] in HEAVY}
    assert not {f"transportflows.{leaf}" for leaf in LEAVES} & new
    assert "transportflows.samplers" in new


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaves_are_there_when_asked_for(leaf):
    code = (
        f"import json, transportflows as tpf; a = {leaf!r} in dir(tpf); m = tpf.{leaf};"
        f"from transportflows import {leaf} as again; print(json.dumps([a, m is again]))"
    )
    assert run(code) == [True, True]
    assert leaf in tpf.__all__


@pytest.mark.parametrize("part", ["bridges", "maps"])
def test_files_name_classes_of_leaves_that_nobody_has_used(part, tmp_path):
    path = tmp_path / "field.safetensors"
    process = tpf.Process(tpf.Linear(tpf.Brownian(0.5)), base=tpf.Gaussian((2,)))
    if part == "bridges":
        net = tpf.bridges.LightPotential((2,), 0.5, 3)
        field = tpf.bridges.BridgeDrift(forward=net, process=process)
    else:
        net = tpf.maps.TwoTimes(tpf.networks.MLP(2, 8, 1, vectors={"stop": 3}))
        field = tpf.maps.FlowMap(net, tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))))
    field.save(path)
    code = (
        "import sys, json, transportflows as tpf;"
        f"before = 'transportflows.{part}' in sys.modules; field = tpf.load_field({str(path)!r});"
        "print(json.dumps([before, type(field).__name__]))"
    )
    assert run(code) == [False, type(field).__name__]


def test_using_exact_transport_does_not_import_what_it_does_not_need():
    code = (
        "import sys, json, torch, transportflows as tpf; x = torch.randn(8, 2);"
        "tpf.metrics.energy_distance(x, x + 1); print(json.dumps(sorted(sys.modules)))"
    )
    assert not {"scipy.stats", "ot", "scipy.interpolate"} & set(run(code))


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'metric'"):
        tpf.metric  # noqa: B018
