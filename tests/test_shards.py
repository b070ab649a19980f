"""Networks in shards on two processes: the numbers of one, files that are whole, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from test_distributed import far, result, start

pytest.importorskip("torch.distributed.fsdp", reason="this torch has no distributed package")
if not hasattr(torch.distributed.fsdp, "fully_shard"):
    pytest.skip("fully_shard is in torch from 2.6 on", allow_module_level=True)

SCRIPT = Path(__file__).parent / "shard_runs.py"
CASES = ["single", "labelled", "half", "odd", "loader"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for processes in (1, 2):
        code, text, _ = start(processes, folder / str(processes), *CASES, script=SCRIPT, limit=290)
        assert code == 0, text
    return folder


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rank", [0, 1])
def test_shards_have_the_numbers_of_one_process(case, rank, runs):
    """With uneven batches, parts, conditions, plans, a network that is whole, frozen parts."""
    one, two = result(runs, 1, case), result(runs, 2, case, rank)
    errors = {name: far(one[name], two[name]) for name in one}
    assert max(errors.values()) < 1e-6, errors


def test_averages_come_and_go(runs):
    """A network that a call has gathered sees the weights that are put into it, and those after."""
    told = result(runs, 2, "single")
    assert far(told["samples"], told["averaged"]) > 1e-5
    assert torch.equal(told["samples"], told["after"])


def test_what_cannot_be_is_refused(tmp_path):
    """And a shared call that was refused leaves the next one its connections."""
    code, text, _ = start(2, tmp_path / "2", "refused", script=SCRIPT, limit=120)
    assert code == 0, text
    assert (tmp_path / "2" / "refused-0").exists()
    assert (tmp_path / "2" / "refused-1").exists()


@pytest.mark.parametrize("case", CASES)
def test_files_are_whole(case, runs):
    """A checkpoint of shards is one of one process, to rounding, and one process takes it up."""
    from shard_runs import made
    from transportflows.training import read_checkpoint

    files = [runs / str(k) / f"{case}.ckpt" for k in (1, 2)]
    one, two = (read_checkpoint(file)[1] for file in files)
    for name, tensor in one["field"].items():
        assert far(tensor, two["field"][name]) < 1e-6 or torch.equal(tensor, two["field"][name])
    assert one["optimizer"]["state"].keys() == two["optimizer"]["state"].keys()
    for place, memory in one["optimizer"]["state"].items():
        for key in ("exp_avg", "exp_avg_sq"):
            assert memory[key].shape == two["optimizer"]["state"][place][key].shape
    trainer, _, _ = made(case)
    trainer.load(files[1])
    assert trainer.step == 12
    assert torch.equal(trainer.ema.averages[0], two["averages"][0])


def test_a_run_in_shards_resumes_with_the_same_bits_and_in_one_process(runs):
    folder = runs / "2"
    (folder / "single" / "step-000000012.ckpt").unlink()
    code, text, _ = start(2, folder, "resume", script=SCRIPT)
    assert code == 0, text
    before = torch.load(folder / "single-0.pt", weights_only=False)
    again = torch.load(folder / "resumed-0.pt", weights_only=False)
    for name in before:
        assert far(before[name], again[name]) == 0, name
    (folder / "single" / "step-000000012.ckpt").unlink()
    code, text, _ = start(1, folder, "resume", script=SCRIPT)
    assert "world_size was 2 and is 1 now" in text
    code, text, _ = start(1, folder, "anyway", script=SCRIPT)
    assert code == 0, text
    alone = torch.load(folder / "anyway-0.pt", weights_only=False)
    errors = {name: far(before[name], alone[name]) for name in before}
    assert max(errors.values()) < 1e-6, errors


def test_wrappers_are_refused():
    import transportflows as tpf

    class DistributedDataParallel(torch.nn.parallel.DistributedDataParallel):
        def __init__(self, module):
            torch.nn.Module.__init__(self)
            self.module = module

    net = DistributedDataParallel(tpf.networks.MLP(2, width=8))
    field = tpf.Velocity(net, tpf.Process(tpf.Linear(), tpf.Gaussian((2,))))
    with pytest.raises(TypeError, match="give it as it is, since fit sums the"):
        tpf.Trainer(field, tpf.VelocityLoss())
