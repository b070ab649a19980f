"""What of a field goes into a file, and into a ``state_dict``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .._core import container
from .._core.condition import STATE_NAME, Condition, from_bytes, to_bytes, to_storable, weights_of
from .._core.registry import Storable, encode, told
from .._core.shards import holds_shards, whole
from .._core.signatures import checked
from ..process import Process
from ..transforms import Standardize
from .calls import Network

__all__ = ["FILE_FORMAT", "FILE_KIND", "FILE_NAME", "Saved"]

FILE_KIND = "transportflows field"
FILE_FORMAT = 1
FILE_NAME = "field.safetensors"  # of a field in a folder of its own


@checked
class Saved(Storable, nn.Module):
    """A module of networks that is written to files; :class:`Field` is one.

    Attributes:
        outputs: what the networks predict.
        process: the law of x_t.
        transform: between the units of the data and of the networks.
        conditions: what it was trained with, by name.
    """

    outputs: tuple[str, ...]
    process: Process
    transform: Standardize | None
    conditions: Mapping[str, Condition] | None

    @property
    def networks(self) -> tuple[Network, ...]:
        """The networks, without repetition."""
        raise NotImplementedError

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, process and transform to a file, for inference; see :func:`load_field`.

        The file is replaced atomically. Objects of the library, and of your own classes that have a
        ``config()``, are stored by name and arguments; others by name only, to be given to
        ``load_field``. The rows of an :class:`~transportflows.distributions.Empirical` base are
        stored too, since sampling starts from them. A plan of whole data is not, which is for
        training: what is loaded has the coupling ``Paired()`` in its place, to which pairs of the
        plan can be fitted, ``plan.sample(n)``, or give ``load_field(path, process=...)`` the plan.

        Raises:
            ValueError: if the field has no networks, if its class takes arguments and does not
                tell them by ``config()``, or if it holds NaN or infinite weights, with which
                :func:`load_field` would refuse it, or lies in shards on several processes.
            TypeError: if ``config()`` or ``state_dict()`` hold what a file without code cannot.
            OSError: if the file cannot be written.
        """
        if holds_shards(self):
            raise ValueError(
                "the networks lie in shards on several processes; write a checkpoint,"
                " trainer.save(path), which gathers them, and in one process with whole networks"
                " trainer.load(path) and trainer.field.save(...)"
            )
        described, heads = encode(self, stored=True), self.networks
        if not heads or "custom" in described:
            raise ValueError(
                f"a {type(self).__name__} cannot be saved: files hold fields that have networks and"
                " whose config() gives their constructor arguments; save its parts, or use"
                " torch.save(field.state_dict(), path)"
            )
        self.check_finite()
        given = self.config().items()
        tree = {
            "field": described,
            "networks": [name for name, value in given if any(value is net for net in heads)],
            "outputs": list(self.outputs),
            "state": weights_of(self),
            "conditions": to_storable(self.conditions),
        }
        container.write(path, self._header(described["class"]), tree)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write a folder: the file of :meth:`save`, and a ``config.json`` for people.

        The file is ``field.safetensors``, which :func:`transportflows.fields.from_pretrained` and
        :func:`load_field` read. Nothing reads ``config.json`` back: it says what the file's own
        header says. Such a folder is what a model hub stores, ``huggingface_hub.upload_folder``.

        Args:
            folder: where to; made if it is not there. What else is in it is left as it is.

        Raises:
            ValueError: as :meth:`save`.
            TypeError: as :meth:`save`.
            OSError: if the folder or its files cannot be written.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        self.save(place / FILE_NAME)
        header = self._header(encode(self, stored=True)["class"])
        text = json.dumps({"library_name": "transportflows", **header}, indent=2)
        (place / "config.json").write_text(f"{text}\n", encoding="utf-8")

    def _header(self, name: str) -> dict[str, Any]:
        """What a file tells people, of a field of this class."""
        return {
            "kind": FILE_KIND,
            "format": FILE_FORMAT,
            "class": name,
            "outputs": list(self.outputs),
            "networks": [told(net) for net in self.networks],
            "parameters": sum(p.numel() for p in self.parameters()),
            "process": told(self.process),
            "transform": told(self.transform),
            "conditions": {name: str(known) for name, known in (self.conditions or {}).items()},
        }

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if vars(self).get("conditions"):
            destination[prefix + STATE_NAME] = to_bytes(vars(self)["conditions"])

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        told = state_dict.pop(prefix + STATE_NAME, None)
        if told is not None:
            self.conditions = from_bytes(told)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def check_finite(self) -> None:
        """Refuse weights that are no numbers any more.

        Raises:
            ValueError: for NaN in what is saved, or infinite parameters.
        """
        tensors = [(k, x) for k, x in self.state_dict().items() if isinstance(x, Tensor)]
        bad = [name for name, tensor in tensors if bool(whole(tensor.isnan().any()))]
        bad += [name for name, p in self.named_parameters() if not bool(whole(p.isfinite().all()))]
        if bad:
            raise ValueError(
                f"{bad[0]} of the {type(self).__name__} holds NaN or infinite values, and a file of"
                " it would be refused; go on from an earlier checkpoint, or use"
                " torch.save(field.state_dict(), path)"
            )
