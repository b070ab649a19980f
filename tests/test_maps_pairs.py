"""Maps of a process of pairs, which has no base: what is tried on pairs, and from where."""

import pytest
import torch

import transportflows as tpf
from transportflows import maps

PROCESS = tpf.Process(tpf.Linear(), coupling=tpf.Paired(), shape=(2,))
X0 = torch.randn(200, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
X1 = 2 * X0 + 1


def exact(s, t, x):
    """The flow of straight ways from x0 to 2 x0 + 1."""
    s = s[:, None]
    return (x - s) / (1 + s) + 1


FLOW = maps.FlowMap(exact, PROCESS)


@pytest.mark.parametrize("data", [(X0, X1), tpf.Batch(X1, X0)], ids=["tuple", "batch"])
def test_reports_are_made_on_pairs(data):
    report = maps.check_map(FLOW, data, n=100, generator=torch.Generator().manual_seed(2))
    for name in ("identity", "semigroup", "semigroup_back", "inverse"):
        assert getattr(report, name) < 1e-12
    assert report.spread == pytest.approx(1, rel=0.01)
    errors = maps.map_errors(
        FLOW, maps.SolvedMap(FLOW), data, times=3, n=50, generator=torch.Generator().manual_seed(3)
    )
    assert float(errors.rms.max()) < 1e-6


def test_units_of_the_data():
    wide = maps.FlowMap(exact, PROCESS, transform=tpf.Standardize(0.0, 10.0))
    report = maps.check_map(wide, (10 * X0, 10 * X1), n=100)
    assert report.inverse < 1e-12
    assert report.spread == pytest.approx(1, rel=0.01)


def test_times_are_chosen_from_starts():
    found = maps.choose_times(FLOW, 2, start=X0[:20], candidates=4)
    assert found.error < 1e-6


def test_rows_alone_are_refused():
    with pytest.raises(ValueError, match=r"data=\(x0, x1\)"):
        maps.check_map(FLOW, X1)
    based = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)), coupling=tpf.Paired())
    with pytest.raises(ValueError, match=r"data=\(x0, x1\)"):
        maps.check_map(maps.FlowMap(exact, based), X1)
