"""The networks of the library: zero at first, right in every mode of torch, told of conditions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import transportflows as tpf
from transportflows.networks import layers

N = tpf.networks
VECTORS, IMAGES = {"place": 2, "angle": 1}, {"mask": 1, "seen": 2}


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def unet(size=(9, 7), **how):
    given = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (0, -1)}
    given |= {"head_channels": 4, "labels": 3, "vectors": VECTORS, "images": IMAGES}
    return N.UNet((2, *size), **(given | how), generator=gen())


def patched(size=(8, 6), **how):
    return unet(size, **({"patch": 2} | how))


def mlp(size=(9, 7), **how):
    given = {"width": 16, "depth": 3, "labels": 3, "vectors": VECTORS, "residual": True}
    return N.MLP((2, *size), **(given | how), generator=gen())


def dit(size=(8, 6), **how):
    given = {"width": 16, "depth": 2, "attention_heads": 2, "labels": 3, "vectors": VECTORS}
    return N.DiT((2, *size), **(given | {"images": IMAGES} | how), generator=gen())


def sequence(**how):
    given = {"width": 16, "depth": 2, "attention_heads": 2, "labels": 3, "vectors": VECTORS}
    return N.SequenceDiT(2, **(given | how), generator=gen())


MADE = {"UNet": unet, "patched": patched, "MLP": mlp, "DiT": dit, "SequenceDiT": sequence}
EVENTS = {"UNet": (2, 9, 7), "MLP": (2, 9, 7), "DiT": (2, 8, 6), "SequenceDiT": (5, 2)}
EVENTS["patched"] = (2, 8, 6)


def drawn(net, std=0.2):
    """The network in float64, with weights that are nowhere zero."""
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=std, generator=gen(parameter.numel()))
    return net.double()


def given(net, rows=4):
    """Times, states, and conditions of which some rows are none."""
    name = type(net).__name__
    shape = EVENTS["patched" if name == "UNet" and net.patch > 1 else name]
    size = shape[1:]
    x = torch.randn(rows, *shape, generator=gen(1), dtype=torch.float64)
    t = torch.rand(rows, generator=gen(2), dtype=torch.float64)
    place = torch.randn(rows, 2, generator=gen(3), dtype=torch.float64)
    place[2] = math.nan
    cond = {"label": torch.tensor([0, 2, -1, 1])[:rows], "place": place}
    cond["angle"] = torch.rand(rows, generator=gen(6), dtype=torch.float64)
    cond["angle"][-1] = math.nan
    if "mask" in net.nulls:
        cond["mask"] = torch.rand(rows, 1, *size, generator=gen(4)) > 0.5
        seen = torch.randn(rows, 2, *size, generator=gen(5), dtype=torch.float64)
        seen[1] = math.nan
        cond["seen"] = seen
    return t, x, cond


def rows_of(value, k):
    return {name: c[k : k + 1] for name, c in value.items()}


@pytest.fixture(params=MADE)
def net(request):
    return drawn(MADE[request.param]())


@pytest.mark.parametrize("name", MADE)
def test_the_first_output_is_zero_and_can_be_learned(name):
    net = MADE[name]()
    t, x, cond = given(net)
    cond = {key: c.float() if c.is_floating_point() else c for key, c in cond.items()}
    out = net(t.float(), x.float(), **cond)
    assert torch.equal(out, torch.zeros_like(out))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(3):  # what stands before a layer of zeros moves one step after it
        optimizer.zero_grad()
        (net(t.float(), x.float(), **cond) - 1).square().mean().backward()
        optimizer.step()
    told = net(t.float(), x.float(), **{**cond, "label": torch.tensor([1, 1, 1, 1])})
    assert not torch.equal(told, net(t.float(), x.float(), **cond))
    still = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


def test_rows_do_not_see_each_other_and_one_time_serves_for_all(net):
    t, x, cond = given(net)
    whole = net(t, x, **cond)
    for k in range(len(x)):
        alone = net(t[k : k + 1], x[k : k + 1], **rows_of(cond, k))
        assert torch.allclose(alone, whole[k : k + 1], atol=1e-12)
    one = net(t[0], x, **cond)
    assert torch.allclose(one, net(t[:1].expand(4), x, **cond), atol=1e-12)


def test_forward_mode_agrees_with_reverse_mode_twice(net):
    """J v from torch.func.jvp, and from the gradient of ⟨J^T u, u'⟩, for channels-last too."""
    t, x, cond = given(net)
    dt, dx = torch.rand_like(t), torch.randn(x.shape, generator=gen(9), dtype=x.dtype)
    images = x.ndim == 4
    for memory in (torch.contiguous_format, *([torch.channels_last] if images else [])):
        at = x.contiguous(memory_format=memory)
        f = lambda t, x: net(t, x, **cond)  # noqa: E731
        value, change = torch.func.jvp(f, (t, at), (dt, dx))
        assert torch.allclose(value, net(t, x, **cond), atol=1e-12)
        u = torch.zeros_like(x, requires_grad=True)
        _, back = torch.func.vjp(f, t, x)
        both = back(u)
        twice = sum((g * v).sum() for g, v in zip(both, (dt, dx), strict=True))
        (expected,) = torch.autograd.grad(twice, u)
        assert torch.allclose(change, expected, atol=1e-10 * expected.abs().max().item())


def test_vmap_gives_what_a_batch_gives(net):
    t, x, cond = given(net)

    def one(t, x, *values):
        named = zip(cond, values, strict=True)
        return net(t, x[None], **{name: value[None] for name, value in named})[0]

    found = torch.vmap(one)(t, x, *cond.values())
    assert torch.allclose(found, net(t, x, **cond), atol=1e-12)
    jacobian = torch.func.vmap(torch.func.jacfwd(one, argnums=0))(t, x, *cond.values())
    change = torch.func.jvp(lambda t: net(t, x, **cond), (t,), (torch.ones_like(t),))[1]
    assert torch.allclose(jacobian, change, atol=1e-9 * change.abs().max().item())


def test_compiled_without_breaks_of_the_graph(net):
    t, x, cond = given(net)
    compiled = torch.compile(net, fullgraph=True, backend="eager", dynamic=False)
    assert torch.allclose(compiled(t, x, **cond), net(t, x, **cond), atol=1e-12)
    torch._dynamo.reset()


# -------------------------------------------------------------------------------------- conditions


@pytest.mark.parametrize("name", ["label", "place", "mask", "seen"])
def test_none_in_a_row_is_none_at_all(net, name):
    if name not in net.nulls:
        pytest.skip("it takes no images")
    t, x, cond = given(net)
    if not cond[name].is_floating_point() and name != "label":
        cond[name] = cond[name].double()
    none = torch.full_like(cond[name], net.nulls[name])
    rest = {key: c for key, c in cond.items() if key != name}
    whole, without = net(t, x, **{**rest, name: none}), net(t, x, **rest)
    assert torch.allclose(whole, without, atol=1e-12)
    assert (net(t, x, **cond) - without).flatten(1).abs().amax(1).gt(1e-6).sum() >= 2
    mixed = cond[name].clone()
    mixed[0] = net.nulls[name]
    half = net(t, x, **{**rest, name: mixed})
    assert torch.allclose(half[0], without[0], atol=1e-12)
    assert torch.allclose(half[1:], net(t, x, **cond)[1:], atol=1e-12)


@pytest.mark.parametrize("name", ["place", "seen"])
def test_a_row_that_is_partly_nan_is_not_taken_for_none(net, name):
    if name not in net.nulls:
        pytest.skip("it takes no images")
    t, x, cond = given(net)
    cond[name][0].view(-1)[0] = math.nan
    out = net(t, x, **cond)
    assert out[0].isnan().any()
    assert out[1:].isfinite().all()


def test_an_image_of_zeros_is_not_none():
    net = drawn(unet())
    t, x, cond = given(net)
    zero = {**cond, "seen": torch.zeros_like(cond["seen"])}
    none = {**cond, "seen": torch.full_like(cond["seen"], math.nan)}
    assert (net(t, x, **zero) - net(t, x, **none)).abs().max() > 1e-6


def test_none_in_a_row_gives_gradients_that_are_numbers(net):
    t, x, cond = given(net)
    net(t, x, **cond).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"label": torch.tensor([0, 1, 3, 0])}, r"holds 3.*classes 0 to 2.*labels=4"),
        ({"label": torch.tensor([0, 1, -2, 0])}, r"holds -2"),
        ({"label": torch.zeros(4)}, r"label.long\(\)"),
        ({"label": torch.zeros(4, 1, dtype=torch.long)}, r"label is \(4,\), one a row"),
        ({"place": torch.zeros(4, 3).double()}, r"'place'.*\(B, 2\).*got shape \(4, 3\)"),
        ({"plaze": torch.zeros(4, 2)}, r"'plaze'"),
    ],
)
def test_bad_conditions_are_refused(name, wrong, message):
    net = MADE[name]().double()
    t, x, _ = given(net)
    with pytest.raises((TypeError, ValueError), match=message):
        net(t, x, **wrong)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: unet(images={"mask": 0}), r"images\['mask'\]"),
        (lambda: unet(images={"label": 1}), "there twice"),
        (lambda: unet(images={"place": 1}), "there twice"),
        (lambda: unet(vectors={"x": 1}), "cannot be called 'x'"),
        (lambda: unet(vectors={"my place": 1}), "by keyword"),
        (lambda: unet(vectors=[2]), "vectors"),
        (lambda: unet(multipliers=()), "multipliers is empty"),
        (lambda: unet(attention=(2,)), "attention must be levels of 2, -2 to 1"),
        (lambda: unet(dropout=1.0), "dropout"),
        (lambda: unet(labels=0), "labels"),
        (lambda: N.UNet((2, 3)), "SequenceDiT"),
        (lambda: N.DiT((2, 3)), "SequenceDiT"),
        (lambda: dit((9, 6)), "patches of 2 x 2 do not fill images of 9 x 6"),
        (lambda: dit(width=18, attention_heads=3), "divisible by 4"),
        (lambda: dit(width=16, attention_heads=3), "attention_heads, got 16 and 3.*width=18"),
        (lambda: sequence(order="bag"), "order"),
        (lambda: sequence(vectors={"mask": 5}), "'mask' says"),
        (lambda: sequence(depth=0), "depth"),
        (lambda: N.MLP(2, vectors={"t": 1}), "cannot be called 't'"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_images_of_other_shapes_are_refused():
    net = unet().double()
    t, x, cond = given(net)
    with pytest.raises(ValueError, match=r"images \(B, 2, H, W\).*write UNet\(\(3, 9, 7\)"):
        net(t, torch.zeros(4, 3, 9, 7).double())
    with pytest.raises(ValueError, match=r"'mask'.*\(4, 1, 9, 6\).*it is \(4, 1, 9, 7\)"):
        net(t, x, mask=cond["mask"][..., :6])


# --------------------------------------------------------------------------------- sets, sequences


def test_what_is_masked_is_not_seen_and_gives_zero():
    for order in ("set", "sequence"):
        net = drawn(sequence(order=order))
        t, x, cond = given(net)
        mask = torch.arange(5) < torch.tensor([5, 3, 1, 4])[:, None]
        out = net(t, x, mask=mask, **cond)
        other = torch.where(mask[..., None], x, torch.full_like(x, math.inf))
        assert torch.equal(net(t, other, mask=mask.double(), **cond), out)
        assert torch.equal(out[~mask], torch.zeros_like(out[~mask]))
        for k, length in enumerate([5, 3, 1, 4]):
            alone = net(t[k : k + 1], x[k : k + 1, :length], **rows_of(cond, k))
            assert torch.allclose(alone[0], out[k, :length], atol=1e-12)
        fused = drawn(sequence(order=order, fused=True))
        assert torch.allclose(fused(t, x, mask=mask, **cond), out, atol=1e-12)
        assert (out - net(t, x, **cond))[1].abs().max() > 1e-6
        f = lambda x, net=net, t=t, given={"mask": mask, **cond}: net(t, x, **given)  # noqa: E731
        change = torch.func.jvp(f, (x,), (x,))[1]
        step = (f(x * (1 + 1e-6)) - f(x * (1 - 1e-6))) / 2e-6
        assert torch.allclose(change, step, atol=1e-7 * (1 + change.abs().max().item()))


def test_a_set_has_no_order_and_a_sequence_has():
    other = torch.randperm(5, generator=gen(5))
    for order in ("set", "sequence"):
        net = drawn(sequence(order=order))
        t, x, cond = given(net)
        moved, out = net(t, x[:, other], **cond), net(t, x, **cond)[:, other]
        assert torch.allclose(moved, out, atol=1e-12) is (order == "set")


@pytest.mark.parametrize("bad", [0.5, 2.0, -1.0, math.nan])
def test_a_mask_holds_booleans_or_0_and_1(bad):
    net, x, t = sequence(), torch.randn(4, 5, 2, generator=gen()), torch.rand(4, generator=gen(1))
    mask = torch.arange(5) < torch.tensor([5, 3, 1, 4])[:, None]
    with torch.no_grad():
        for kind in (torch.float32, torch.int64, torch.uint8):
            assert torch.equal(net(t, x, mask=mask.to(kind)), net(t, x, mask=mask))
    wrong = mask.float()
    wrong[1, 2] = bad
    with pytest.raises(ValueError, match=rf"this one holds {bad:g}; write mask > 0\.5"):
        net(t, x, mask=wrong)
    if bad == 2:
        with pytest.raises(ValueError, match="this one holds 2"):
            net(t, x, mask=wrong.long())


@pytest.mark.parametrize("make", [mlp, unet, dit], ids=lambda make: make.__name__)
def test_conditions_of_other_rows_are_refused(make):
    net = make()
    size = (8, 6) if make is dit else (9, 7)
    x, t = torch.randn(3, 2, *size, generator=gen()), torch.rand(3, generator=gen(1))
    with pytest.raises(ValueError, match=r"label is \(3,\), one a row of x.*got shape \(2,\)"):
        net(t, x, label=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"'place' has 2 rows for 3 of x; give one a row"):
        net(t, x, place=torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"'angle' has 2 rows for 3 of x"):
        net(t, x, angle=torch.zeros(2))
    one = net(t, x, label=torch.tensor([1]), place=torch.ones(1, 2))
    assert torch.equal(one, net(t, x, label=torch.ones(3).long(), place=torch.ones(3, 2)))


def test_a_name_that_networks_have_is_refused_with_the_argument():
    for name in ("x", "t", "s"):
        with pytest.raises(
            ValueError, match=rf"vectors=\{{'{name}': 2\}} cannot be.*vectors=\{{'c'"
        ):
            N.MLP(2, 8, 1, vectors={name: 2})
    with pytest.raises(ValueError, match=r"images=\{'x': 1\} cannot be"):
        unet(images={"x": 1})


def test_a_vector_that_is_called_label_is_a_vector():
    net = N.MLP(2, 8, 1, vectors={"label": 2})
    assert math.isnan(net.nulls["label"])
    assert N.MLP(2, 8, 1, labels=2).nulls == {"label": -1}


def test_a_mask_of_another_length_is_refused():
    net = sequence().double()
    t, x, cond = given(net)
    with pytest.raises(ValueError, match=r"mask is \(4, 5\)"):
        net(t, x, mask=torch.ones(4, 6, dtype=torch.bool), **cond)
    with pytest.raises(ValueError, match=r"rows \(B, N, 2\).*write SequenceDiT\(3\)"):
        net(t, torch.zeros(4, 5, 3).double())


def test_patches_come_back_where_they_were():
    """With the blocks and places left out a DiT is one map of each patch."""
    net = drawn(dit(labels=None, vectors=None, images=None, depth=1))
    x = torch.randn(1, 2, 8, 6, generator=gen(), dtype=torch.float64)
    near = x.clone()
    near[..., 4:6, 2:4] += 1
    for block in net.body.blocks:
        block.proj.weight.data.zero_()  # no token sees another
        block.proj.bias.data.zero_()
    t = torch.tensor(0.5, dtype=torch.float64)
    changed = (net(t, near) - net(t, x)).abs().amax((0, 1)) > 1e-9
    expected = torch.zeros(8, 6, dtype=torch.bool)
    expected[4:6, 2:4] = True
    assert torch.equal(changed, expected)
    with pytest.raises(ValueError, match="do not fill images of 7 x 6"):
        net(t, x[..., :7, :])


def test_a_dit_knows_where_a_patch_is():
    net = drawn(dit(labels=None, vectors=None, images=None))
    flat = torch.ones(1, 2, 8, 6, dtype=torch.float64)
    out = net(torch.tensor(0.5, dtype=torch.float64), flat)[0, 0, ::2, ::2].flatten()
    assert len(out.unique()) == 12


# ------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (5, 12), (1, 1), (2, 3), (28, 28)])
def test_a_unet_takes_images_of_any_size(size):
    net = drawn(unet(multipliers=(1, 2, 2), images=None))
    x = torch.randn(2, 2, *size, generator=gen(), dtype=torch.float64)
    out = net(torch.rand(2, dtype=torch.float64), x)
    assert out.shape == x.shape
    assert out.isfinite().all()


def test_a_unet_moves_with_the_image_but_for_its_edges():
    """A shift by the coarsest pixel shifts the output: nothing knows where it is."""
    net = drawn(unet(multipliers=(1, 1), images=None, attention=()), 0.1)
    net.middle[0].attention = None
    for module in net.modules():  # norms see the whole image, also what a shift leaves out
        if isinstance(module, layers.ModulatedNorm):
            module.forward = lambda x, e=None: x
    x = torch.zeros(1, 2, 128, 128, dtype=torch.float64)
    x[..., 60:66, 60:66] = torch.randn(6, 6, generator=gen(), dtype=torch.float64)
    t = torch.tensor(0.3, dtype=torch.float64)
    quiet, here = net(t, torch.zeros_like(x)), net(t, x)
    there = net(t, x.roll((2, 4), (-2, -1)))
    change = (here - quiet).roll((2, 4), (-2, -1))
    assert change.abs().max() > 1e-3
    assert torch.allclose(there - quiet, change, atol=1e-10)


@pytest.mark.parametrize(
    ("how", "low", "high"),
    [
        ({"width": 16, "multipliers": (1, 2, 2), "blocks": 1}, 0.28e6, 0.35e6),
        ({}, 9e6, 11e6),
        ({"width": 128, "multipliers": (1, 2, 2, 3)}, 50e6, 60e6),
    ],
)
def test_sizes_that_the_docstring_tells(how, low, high):
    with torch.device("meta"):
        net = N.UNet(3, **how)
    assert low < sum(p.numel() for p in net.parameters()) < high


def test_patches_are_a_rearrangement_of_pixels():
    """Patches of 2 x 2: a U-Net on images of half the size with four times the channels."""
    net = drawn(patched(labels=None, vectors=None, images={"seen": 2}))
    inner = N.UNet((8, 4, 3), 8, (1, 2), 1, attention=(0, -1), head_channels=4)
    inner.entry = nn.Conv2d(
        20, 8, 3, padding=1
    )  # 8 channels of x, 8 of the image, 4 that it is there
    inner.double().load_state_dict(net.state_dict())
    x, seen = torch.randn(2, 3, 2, 8, 6, generator=gen(), dtype=torch.float64)
    t = torch.rand(3, generator=gen(1), dtype=torch.float64)

    def small(x):  # pixel (2i + a, 2j + b) of channel c is pixel (i, j) of channel 4c + 2a + b
        return x.reshape(3, -1, 4, 2, 3, 2).permute(0, 1, 3, 5, 2, 4).reshape(3, -1, 4, 3)

    inner._with_images = lambda x, cond: torch.cat([x, small(seen), torch.ones_like(x[:, :4])], 1)
    assert torch.allclose(small(net(t, x, seen=seen)), inner(t, small(x)), atol=1e-12)
    with pytest.raises(ValueError, match=r"patches of 2 x 2 do not fill images of 9 x 6.*patch=1"):
        net(t, torch.zeros(3, 2, 9, 6, dtype=torch.float64))
    heads = drawn(patched(heads=2))(t, x)
    assert [head.shape for head in heads] == [x.shape, x.shape]


@pytest.mark.parametrize("name", MADE)
def test_files_give_the_same_network_back(name, tmp_path):
    net = drawn(MADE[name]())
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian(EVENTS[name]))
    tpf.Velocity(net, process).save(tmp_path / "field.tpf")
    again = tpf.load_field(tmp_path / "field.tpf").net
    assert type(again) is type(net)
    assert again.config() == net.config()
    t, x, cond = given(net)
    assert torch.equal(again(t, x, **cond), net(t, x, **cond))


@pytest.mark.parametrize("name", MADE)
def test_a_generator_fixes_the_weights_and_disturbs_no_other(name):
    before = torch.random.get_rng_state()
    one, two = MADE[name](), MADE[name]()
    assert torch.equal(before, torch.random.get_rng_state())
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", MADE)
def test_several_heads_give_a_pair(name):
    net = drawn(MADE[name](heads=2))
    t, x, cond = given(net)
    first, second = net(t, x, **cond)
    assert first.shape == second.shape == x.shape
    assert (first - second).abs().max() > 1e-6


# -------------------------------------------------------------------------------------- the layers


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_that_of_torch(masked):
    q, k, v = torch.randn(3, 2, 4, 6, 5, generator=gen(), dtype=torch.float64)
    mask = torch.rand(2, 1, 1, 6, generator=gen()) > 0.4 if masked else None
    found = layers.attention(q, k, v, mask)
    assert torch.allclose(found, layers.attention(q, k, v, mask, fused=True), atol=1e-12)
    if mask is not None:
        none = layers.attention(q, k, v, torch.zeros_like(mask))
        assert torch.equal(none, torch.zeros_like(none))


def test_group_norm_is_that_of_torch_in_any_memory():
    x = torch.randn(3, 12, 5, 4, generator=gen(), dtype=torch.float64)
    weight, bias = torch.randn(2, 12, generator=gen(), dtype=torch.float64)
    expected = nn.functional.group_norm(x, 3, weight, bias)
    other = x.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(layers.group_norm(other, 3, weight, bias), expected, atol=1e-12)
    assert torch.allclose(layers.group_norm(x, 3, weight, bias), expected, atol=1e-12)


def test_channels_last_stays_channels_last():
    net = drawn(unet()).to(memory_format=torch.channels_last)
    t, x, cond = given(net)
    seen = []
    hook = lambda module, given, out: seen.append(  # noqa: E731
        out.is_contiguous(memory_format=torch.channels_last)
    )
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(hook)
    net(t, x.contiguous(memory_format=torch.channels_last), **cond)
    assert len(seen) > 10
    assert all(seen)


def test_bfloat16_keeps_its_phases():
    """Features of time are made in float32, whatever the weights are."""
    net = unet()
    fine = net.embed_t(torch.tensor([0.4, 0.405]), torch.float32)
    rough = net.to(torch.bfloat16).embed_t(torch.tensor([0.4, 0.405]), torch.bfloat16)
    assert torch.allclose(rough.float(), fine, atol=0.05)


def test_time_features_are_those_of_the_formula():
    """Cosines and sines of 2π ω t, by numpy: ω = 1 .. K in an MLP, 1/8 to 64 cycles in a U-Net."""
    t = torch.tensor([0.0, 0.1, 0.37, 1.0], dtype=torch.float64)
    seen = []
    mlp = N.MLP(2, 8, 1, frequencies=3).double()
    mlp.embed_t.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    mlp(t, torch.zeros(4, 2, dtype=torch.float64))
    net = N.UNet((1, 8, 8), width=8, multipliers=(1,), blocks=1, head_channels=4).double()
    (embedding,) = (part for part in net.modules() if isinstance(part, N.embedding.TimeEmbedding))
    embedding.first.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    net(t, torch.zeros(4, 1, 8, 8, dtype=torch.float64))
    cycles = np.arange(1, 4), np.geomspace(1 / 8, 64, embedding.frequencies)
    for found, omega in zip((seen[0][:, 1:], seen[1]), cycles, strict=True):
        phase = 2 * np.pi * np.outer(t.numpy(), omega)
        expected = np.concatenate([np.cos(phase), np.sin(phase)], 1)
        np.testing.assert_allclose(found.detach().numpy(), expected, atol=3e-6)
    assert torch.equal(seen[0][:, 0], t)
