"""A stand-in for a device without float64, such as an Apple GPU.

The device is called ``lean``. Its tensors are kept on the CPU, and whatever would give a float64
one is refused in the words of torch on an Apple GPU. Tensors of the CPU and of the device do not
mix, numbers aside, as on any device.
"""

import pytest
import torch
from torch.utils import _pytree as tree
from torch.utils import backend_registration

REFUSAL = (
    "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
    " Please use float32 instead."
)
_WIDE = (torch.float64, torch.complex128)
_Plain = torch.Generator
_library = None


class LeanTensor(torch.Tensor):
    """A tensor that says that it is on the device, around one of the CPU."""

    @staticmethod
    def __new__(cls, held):
        if held.dtype in _WIDE:
            raise TypeError(REFUSAL)
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device("lean", 0),
        )

    def __init__(self, held):
        self.held = held

    def __repr__(self):
        return f"{self.held!r} on lean"

    def __reduce_ex__(self, protocol):
        return torch.Tensor.to, (self.held.detach(), "lean")

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.tolist:
            return args[0].detach().cpu().tolist()
        if func is torch.Tensor.new_tensor:
            return torch.tensor(args[1], dtype=args[0].dtype).to("lean")
        return torch._C._disabled_torch_function_impl(func, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return _run(op, *args, **(kwargs or {}))


def _run(op, *args, **kwargs):
    """Run an operation on the tensors that are held, and put what comes of it on the device."""
    inner_args, inner = tree.tree_map_only(LeanTensor, lambda x: x.held, (args, kwargs))
    given = [x for x in tree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    wanted = kwargs.get("device")
    here = wanted.type == "lean" if wanted is not None else True
    copies = op in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
    if here and not copies:
        for x in given:
            if not isinstance(x, LeanTensor) and x.ndim:
                raise RuntimeError(
                    "Expected all tensors to be on the same device, but found at least two"
                    f" devices, lean:0 and cpu! ({op})"
                )
    if wanted is not None and here:
        inner["device"] = torch.device("cpu")
    if here and kwargs.get("dtype") in _WIDE:
        raise TypeError(REFUSAL)
    made = op(*inner_args, **inner)
    if op is torch.ops.aten.copy_.default:
        return args[0]
    known = {id(x.held): x for x in given if isinstance(x, LeanTensor)}

    def put(x):
        return known.get(id(x)) if id(x) in known else LeanTensor(x)

    return tree.tree_map_only(torch.Tensor, put, made) if here else made


class LeanGenerator(torch.Generator):
    """A generator of the device, which draws as one of the CPU."""

    def __new__(cls, device="lean"):
        return super().__new__(cls, "cpu")

    @property
    def device(self):
        return torch.device("lean", 0)

    def manual_seed(self, seed):
        super().manual_seed(seed)
        return self


class _AnyGenerator(type):
    def __call__(cls, device="cpu"):
        return (LeanGenerator if torch.device(device).type == "lean" else _Plain)(device)

    def __instancecheck__(cls, given):
        return isinstance(given, _Plain)


class _Generator(metaclass=_AnyGenerator):
    """What takes the place of ``torch.Generator``, which knows no devices made of Python."""


def _through_cpu(make):
    """``torch.tensor`` and the like, which cannot copy to a device made of Python themselves."""

    def made(data, *, device=None, **rest):
        if device is None or torch.device(device).type != "lean":
            return make(data, device=device, **rest)
        if rest.get("dtype") in _WIDE:
            raise TypeError(REFUSAL)
        if isinstance(data, torch.Tensor):
            return data.to(device, **rest)
        return make(data, **rest).to(device)

    return made


@pytest.fixture
def lean(monkeypatch):
    """The device; registered with torch at the first call, for the life of the process."""
    global _library
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch cannot have a device made of Python")
    if _library is None:
        backend_registration._setup_privateuseone_for_python_backend("lean")
        _library = torch.library.Library("_", "IMPL")
        _library.fallback(_run, "PrivateUse1")
    monkeypatch.setattr(torch, "Generator", _Generator)
    monkeypatch.setattr(torch, "tensor", _through_cpu(torch.tensor))
    monkeypatch.setattr(torch, "as_tensor", _through_cpu(torch.as_tensor))
    return torch.device("lean", 0)
