"""Fields on disk: the same after loading, the user's own classes, and files that mean harm."""

import copy
import pickle
import random
import resource
import subprocess
import sys
import time

import pytest
import torch

import transportflows as tpf
from families import GAMMAS, INTERPOLANTS, OWN, Learned, Power, mixture, name, process
from transportflows._core import container, registry
from transportflows._core.registry import Storable


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _fields():
    net = lambda heads=1: tpf.networks.MLP(2, 8, 2, heads=heads, generator=seeded())  # noqa: E731
    gaussian = tpf.Gaussian((2,), 0.5, 2.0)
    data = mixture([[0.0, 1.0], [1.0, 0.0]], 0.5)
    laws = [
        tpf.Process(tpf.Linear(tpf.Brownian(0.7)), data),
        tpf.Process(tpf.Trigonometric(tpf.interpolants.Quadratic(1.5), scaled=True), gaussian),
        tpf.Process(tpf.SBDM(), shape=(2,)),
        tpf.Process(
            tpf.Linear(), tpf.distributions.Uniform((2,), -1.0, 2.0), tpf.MinibatchOT("sinkhorn")
        ),
    ]
    transform = tpf.Standardize(torch.tensor([1.0, 2.0]), 3.0)
    yield tpf.Velocity(net(), laws[1], transform=transform)
    yield tpf.NoisePredictor(net(), laws[2])
    yield tpf.FieldPair(velocity=net(), noise=net(), process=laws[0])
    yield tpf.FieldPair(heads=net(2), outputs=("mean_velocity", "score"), process=laws[0])
    yield tpf.Velocity(net().double(), laws[3])


@pytest.mark.parametrize("field", list(_fields()), ids=lambda f: type(f).__name__)
def test_a_saved_field_samples_the_same(field, tmp_path):
    path = tmp_path / "field.pt"
    field.save(path)
    nets = tuple(tpf.networks.MLP(2, 8, 2, heads=n.heads) for n in field.networks)
    for loaded in (tpf.load_field(path), tpf.load_field(path, net=nets)):
        assert type(loaded) is type(field)
        assert loaded.outputs == field.outputs
        a, b = (tpf.sample(f, 9, steps=4, generator=seeded()).x for f in (field, loaded))
        assert torch.equal(a, b)
        assert not loaded.training
    assert list(tmp_path.iterdir()) == [path]
    for other in (copy.deepcopy(field), pickle.loads(pickle.dumps(field))):
        assert torch.equal(a, tpf.sample(other, 9, steps=4, generator=seeded()).x)


def test_an_oracle_is_not_saved(tmp_path):
    oracle = tpf.oracles.GaussianMixtureOracle(process(tpf.Linear()), tpf.Gaussian((2,)))
    with pytest.raises(ValueError, match="cannot be saved"):
        oracle.save(tmp_path / "field.pt")
    assert list(tmp_path.iterdir()) == []


class OwnNet(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, t):
        return self.net(x)


def test_what_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "field.pt"
    net = torch.nn.Linear(2, 2)
    law = tpf.Process(tpf.Linear(), Law())
    field = tpf.Velocity(tpf.networks.from_xt(OwnNet(net)), law)
    field.save(path)
    with pytest.raises(container.DamagedFileError, match=r"network of .* holds a .*_FromXT.*net="):
        tpf.load_field(path)
    own = tpf.networks.from_xt(OwnNet(torch.nn.Linear(2, 2)))
    with pytest.raises(container.DamagedFileError, match=r"process of .* stored without.*process="):
        tpf.load_field(path, net=own)
    loaded = tpf.load_field(path, net=own, process=law)
    assert torch.equal(loaded.net.net.net.weight, net.weight)
    with pytest.raises(container.DamagedFileError, match="not in the file"):
        tpf.load_field(path, net=tpf.networks.MLP(2, 8, 1), process=law)

    tpf.Velocity(tpf.networks.MLP(2, 8, 1), process(tpf.Linear())).save(path)
    match = r"embed_x.weight \(8, 2\) torch.float32 in the file, \(9, 2\) torch.float32 here"
    with pytest.raises(container.DamagedFileError, match=match):
        tpf.load_field(path, net=tpf.networks.MLP(2, 9, 1))
    with pytest.raises(container.DamagedFileError, match="holds 1 networks, got 2"):
        tpf.load_field(path, net=(own, own))
    with pytest.raises(FileNotFoundError):
        tpf.load_field(tmp_path / "nothing")


class Law:
    """A base that is no Distribution."""

    def sample(self, n, *, generator=None):
        return torch.randn(n, 2, generator=generator)


def test_loading_draws_nothing(tmp_path):
    tpf.Velocity(tpf.networks.MLP(2, 8, 1), process(tpf.Linear())).save(tmp_path / "a")
    before = torch.random.get_rng_state()
    tpf.load_field(tmp_path / "a")
    assert torch.equal(before, torch.random.get_rng_state())


# ---------------------------------------------------------------------------- names of classes


@pytest.mark.parametrize("item", [*INTERPOLANTS, *GAMMAS, *OWN], ids=name)
def test_every_path_is_told_and_rebuilt(item):
    described = registry.encode(item)
    if isinstance(item, Power):  # takes an argument and writes no config
        assert described == {"custom": f"families.{type(item).__name__}"}
        return
    again = registry.decode(described, Storable)
    assert type(again) is type(item)
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    assert torch.equal(again.gamma_sq(t), item.gamma_sq(t))
    if hasattr(item, "beta"):
        assert torch.equal(again.beta(t), item.beta(t))


def test_classes_of_the_library_have_names_of_their_own():
    def below(cls):
        return {cls}.union(*(below(sub) for sub in cls.__subclasses__()))

    named = [
        cls.__name__
        for cls in below(Storable) - {Storable}
        if cls.__module__.startswith("transportflows.") and not cls.__name__.startswith("_")
    ]
    assert len(named) == len(set(named)) > 30
    assert all(registry._KNOWN[each].__name__ == each for each in named)


def test_a_learned_scale_is_given_back_and_not_rebuilt(tmp_path):
    def law():
        gamma = tpf.Brownian(torch.nn.Parameter(torch.tensor(0.5)))
        return tpf.Process(tpf.Linear(gamma), tpf.Gaussian((2,)))

    tpf.Velocity(tpf.networks.MLP(2, 8, 1), law()).save(tmp_path / "a")
    with pytest.raises(container.DamagedFileError, match=r"process of .* holds a .*Brownian"):
        tpf.load_field(tmp_path / "a")
    assert tpf.load_field(tmp_path / "a", process=law()).process.interpolant.latent.a == 0.5


def kept():
    """Classes as a program of the user's might define them."""

    class Skewed(tpf.AffineInterpolant):
        def __init__(self, k, gamma=None):
            super().__init__(gamma)
            self.k = k

        def alpha(self, t):
            return 1 - t**self.k

        def beta(self, t):
            return t**self.k

        def config(self):
            return {"k": self.k, **super().config()}

    class Net(torch.nn.Module):
        def __init__(self, width, *, options, inner=None):
            super().__init__()
            self.width, self.options, self.inner = width, options, inner
            self.body = torch.nn.Linear(2, 2, bias=options["bias"])

        def forward(self, t, x):
            return self.body(x)

        def config(self):
            return {"width": self.width, "options": self.options, "inner": self.inner}

    return Skewed, Net


def test_own_classes_are_found_where_they_are_known_or_given(tmp_path):
    path = tmp_path / "field.pt"
    skewed, net = kept()
    law = tpf.Process(skewed(3, tpf.Brownian(0.2)), tpf.Gaussian((2,)))
    own = net(4, options={"bias": False}, inner=tpf.networks.MLP(2, 4, 1))
    tpf.Velocity(own, law).save(path)
    with pytest.raises(container.DamagedFileError, match=r"Net, which is stored without its arg"):
        tpf.load_field(path)  # not registered: only named
    tpf.fields.register(net)
    field = tpf.Velocity(own, law)
    field.save(path)
    loaded = tpf.load_field(path)
    assert loaded.process.interpolant.k == 3
    assert loaded.net.options == {"bias": False}
    assert torch.equal(loaded.net.body.weight, own.body.weight)
    assert torch.equal(loaded.net.inner.omega, own.inner.omega)

    header, tree = container.read(path)  # as if written by another program
    for described in (tree["field"]["arguments"][k] for k in ("net", "process")):
        described = described.get("arguments", {}).get("interpolant", described)
        described["class"] = f"somewhere.else.{described['class'].rpartition('.')[2]}"
    container.write(path, header, tree)
    with pytest.raises(container.DamagedFileError, match=r"somewhere\.else\.Skewed, which is not"):
        tpf.load_field(path, classes=[net])
    assert type(tpf.load_field(path, classes=[net, skewed]).net) is net
    assert "somewhere" not in sys.modules
    loaded = tpf.load_field(path, classes=[net, skewed, type("Velocity", (), {})])
    assert type(loaded) is tpf.Velocity  # a name of the library is the library's


def test_register_takes_what_tells_its_arguments():
    with pytest.raises(TypeError, match=r"a class with a method config\(\)"):
        tpf.fields.register(torch.nn.Linear)


def test_a_field_of_the_users_own_is_kept(tmp_path):
    class Tempered(tpf.Velocity):
        def __init__(self, net, process, *, by, transform=None):
            super().__init__(net, process, transform=transform)
            self.by = by

        def config(self):
            return {**super().config(), "by": self.by}

    Tempered(tpf.networks.MLP(2, 4, 1), process(tpf.Linear()), by=2).save(tmp_path / "a")
    assert tpf.load_field(tmp_path / "a").by == 2

    class Silent(tpf.Velocity):
        def __init__(self, net, process, by):
            super().__init__(net, process)

    with pytest.raises(ValueError, match=r"config\(\) gives their constructor arguments"):
        Silent(tpf.networks.MLP(2, 4, 1), process(tpf.Linear()), 2).save(tmp_path / "b")


def test_what_a_learned_path_of_the_users_own_learned_is_kept(tmp_path):
    path = Learned()
    path.c.data.fill_(0.25)
    tpf.Velocity(tpf.networks.MLP(2, 4, 1), process(path)).save(tmp_path / "a")
    assert tpf.load_field(tmp_path / "a").process.interpolant.c == 0.25


# ------------------------------------------------------------------------------------ harm


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "field.pt"
    transform = tpf.Standardize(torch.tensor([1.0, 2.0]), 3.0)
    law = tpf.Process(tpf.Linear(tpf.Brownian()), tpf.Gaussian((2,), 0.5))
    tpf.Velocity(tpf.networks.MLP(2, 4, 1), law, transform=transform).save(path)
    return path


def test_any_flipped_bit_is_refused(file):
    whole = file.read_bytes()
    places = [8 * byte for byte in range(200)]
    places += [random.Random(k).randrange(8 * len(whole)) for k in range(600)]
    for place in places:
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        file.write_bytes(changed)
        with pytest.raises(container.DamagedFileError):
            tpf.load_field(file)
    for cut in (0, 5, 10, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:cut])
        with pytest.raises(container.DamagedFileError):
            tpf.load_field(file)
    file.write_bytes(whole + b"\0")
    with pytest.raises(container.DamagedFileError):
        tpf.load_field(file)


def test_a_pickle_is_refused_and_does_not_run(file):
    torch.save(_Hostile(), file)
    with pytest.raises(container.DamagedFileError, match="could run code"):
        tpf.load_field(file)
    assert not _Hostile.ran


def put(*place, value):
    """A change of a tree (or its header) at a place."""

    def change(header, tree):
        at = header if place[0] == "header" else tree
        *way, last = place[1:] if place[0] == "header" else place
        for key in way:
            at = at[key]
        at[last] = value

    return change


NET = ("field", "arguments", "net")
LAW = ("field", "arguments", "process")
BASE = (*LAW, "arguments", "base")
PATH = (*LAW, "arguments", "interpolant")


def made(name, **arguments):
    return {"class": name, "arguments": arguments}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("header", "kind", value="a letter"), "a letter"),
        (put("header", "format", value=2), "format 2.*upgrade"),
        (put("header", "format", value="1"), "not a transportflows field"),
        (put("field", value=None), "describes no field"),
        (put("field", "class", value=["Velocity"]), "describes no field"),
        (put("field", "class", value="Gaussian"), "cannot be built"),
        (put("field", "class", value="GaussianMixtureOracle"), "cannot be built"),
        (put("field", "class", value="Score"), r"no field that predicts \['velocity'\]"),
        (put("field", "class", value="os.system"), "os.system, which is not known"),
        (put("field", "arguments", value=[]), "describes no field"),
        (put("field", "arguments", "shape", value=3), "cannot be built"),
        (put("networks", value=[]), "describes no field"),
        (put("networks", value=["net", "net"]), "describes no field"),
        (put("networks", value="net"), "describes no field"),
        (put("networks", value=["process"]), "net of .* holds a MLP, which is not known"),
        (put("outputs", value=["data"]), "no field that predicts"),
        (put("state", value=[]), "describes no field"),
        (put("state", "net.omega", value=3), "describes no field"),
        (put("state", "net.more", value=torch.ones(2)), "only in the file: net.more"),
        (put("state", "net.body.1.bias", value=torch.tensor([0.0, torch.nan])), "NaN in net.body"),
        (put("state", "net.body.1.bias", value=torch.ones(2, dtype=torch.int64)), "int64"),
        (put("state", "net.body.1.bias", value=torch.ones(2, dtype=torch.complex64)), "complex64"),
        (put("state", "net.body.1.bias", value=torch.full((2,), torch.inf)), "infinite weights"),
        (put("state", "net.body.1.bias", value=torch.zeros(2).half()), "weights of several dtypes"),
        (put("state", "transform.scale", value=torch.tensor(0.0)), "scale positive"),
        (put("state", "transform.scale", value=torch.tensor(-1.0)), "scale positive"),
        (put("state", "transform.scale", value=torch.tensor(torch.inf)), "scale positive"),
        (put("state", "process.base.scale", value=torch.tensor(-1.0)), "scale must be positive"),
        (put("field", "arguments", "transform", value=made("Standardize", scale=0.0)), "positive"),
        (put("field", "arguments", "transform", value=made("Gaussian", shape=[2])), "transform"),
        (put("field", "arguments", "transform", value=3), "transform"),
        (put(*LAW, value=None), "Process"),
        (put(*LAW, value="Process"), "Process"),
        (put(*LAW, value=made("MLP", shape=2)), "MLP, which is not known"),
        (put(*LAW, "arguments", "coupling", value=made("Gaussian", shape=[2])), "Coupling"),
        (put(*PATH, value=made("Linear", gamma=3)), "gamma must be a Gamma"),
        (put(*PATH, value=made("Interpolant")), "cannot be built"),
        (put(*PATH, value=made("antigravity.Path")), "not known here"),
        (put(*PATH, "arguments", value=None), "cannot be built"),
        (put(*BASE, "arguments", "shape", value="ab"), "cannot be built"),
        # what asks for all memory, or all time
        (put(*NET, "arguments", "width", value=10**8), "more than|memory"),
        (put(*NET, "arguments", "depth", value=10**9), "1 to 10,000"),
        (put(*NET, "arguments", "labels", value=10**11), "more than|memory"),
        (put(*NET, "arguments", "shape", value=[10**6, 10**6]), "cannot be built"),
        (put(*NET, "arguments", "frequencies", value=10**10), "more than|memory"),
        (put(*BASE, value=made("Gaussian", shape=[10**11])), "more than"),
        (put(*BASE, value=made("Uniform", shape=[10**6, 10**6])), "more than"),
        (put(*BASE, value=made("GaussianMixture", means=torch.zeros(1, 100_000))), "more than"),
        (put(*PATH, value=made("DDPMChain", levels=10**11)), "more than"),
    ],
)
def test_a_hostile_field_with_right_sums_is_refused(change, message, file):
    tpf.load_field(file)  # what torch imports for the first one is not the file's
    header, tree = container.read(file)
    change(header, tree)
    container.write(file, header, tree)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(container.DamagedFileError, match=message):
        tpf.load_field(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 66_000  # kilobytes
    assert time.process_time() - began < 2
    assert "antigravity" not in sys.modules


def test_what_would_be_refused_is_not_saved(tmp_path):
    field = tpf.Velocity(tpf.networks.MLP(2, 4, 1), process(tpf.Linear()))
    with torch.no_grad():
        field.net.embed_x.weight[0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"net\.embed_x\.weight of the Velocity holds NaN or inf"):
        field.save(tmp_path / "a")
    with pytest.raises(ValueError, match="holds NaN or infinite"):
        tpf.Trainer(field).save(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_network_of_half_precision_and_a_large_one_are_loaded(tmp_path):
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        field = tpf.Velocity(tpf.networks.MLP(2, 1500, 4).to(dtype), process(tpf.Linear()))
        field.save(tmp_path / "a")
        loaded = tpf.load_field(tmp_path / "a")
        assert loaded.net.embed_x.weight.dtype == dtype
        assert torch.equal(loaded.net.body[3].weight, field.net.body[3].weight)


def test_the_classes_of_a_file_are_those_of_the_process_that_reads_it(tmp_path):
    tpf.Velocity(tpf.networks.MLP(2, 4, 1), process(Learned())).save(tmp_path / "a")
    code = (
        "import sys, transportflows as tpf\n"
        "try:\n    tpf.load_field(sys.argv[1])\n"
        "except ValueError as error:\n    print(error)\n"
        "print('families' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "families.Learned, which is not known here" in run.stdout
    assert run.stdout.endswith("False\n")


class _Hostile:
    ran = False

    def __reduce__(self):
        return (_run, ())


def _run():
    _Hostile.ran = True
