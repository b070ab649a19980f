"""How long processes wait for one another, and what is said when one does not come.

Whatever waits for other processes, the sums and gathers of this library and those of torch's
engines under it (DistributedDataParallel, ``fully_shard``), is an operation of one group of
processes, and the bound of that group ends it: ``Patience.limit`` in a group that the library
makes, the ``timeout`` of ``torch.distributed.init_process_group`` in one that a script, Accelerate
or Lightning made before. So nothing waits forever. On a CPU (gloo) the wait itself fails; on cards
(nccl) torch's watchdog ends the process, with a message of its own.

Who was waited for is asked when it is too late, so that it costs nothing before: each process that
gives up says so in the store that all share, and those that are silent are the ones.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

__all__ = ["Patience", "WorkerError"]

T = TypeVar("T")
_ANSWERS = 3.0  # seconds in which the others say that they gave up too


class WorkerError(RuntimeError):
    """Another process of a data-parallel run failed, or did not come; what is known of it."""


class Patience:
    """The bound on all waits of this process, and what it says and asks at their end.

    Attributes:
        limit: how long processes wait for one another in a group that the library makes.
        made: whether the library made the group.
        joined: how often it did; an error closes a group, and the next call makes another.
        stretch: which stretch of common work this is; the processes count them alike.
        doing: tells how far it is.
    """

    limit = timedelta(minutes=10)
    made = False
    joined = 0
    stretch = 0
    doing: Callable[[], str] | None = None

    @classmethod
    def seconds(cls) -> float:
        """The bound of the group that is there, in seconds."""
        try:
            group = dist.distributed_c10d._get_default_group()
            device = "cuda" if "nccl" in str(dist.get_backend()) else "cpu"
            options = group._get_backend(torch.device(device)).options
            return float(options._timeout.total_seconds())
        except Exception:  # a backend that does not tell it
            return cls.limit.total_seconds()

    @classmethod
    def tell(cls, message: str) -> None:
        """Leave a failure in the store that all share."""
        _within(lambda: _store().set(cls._key("failure"), message), None)

    @classmethod
    def broken(cls, error: BaseException) -> bool:
        """Whether an error is one of the connections between processes, from any engine."""
        kind = getattr(dist, "DistError", None)
        if kind is not None and isinstance(error, kind):
            return True
        words = ("gloo/", "NCCL", "Connection closed by peer", "Connection reset by peer")
        return isinstance(error, RuntimeError) and any(word in str(error) for word in words)

    @classmethod
    def why(cls, error: BaseException, rank: int, size: int, what: str) -> str:
        """What happened to a wait that failed.

        Args:
            error: of the connection.
            rank: number of this process.
            size: number of processes.
            what: was waited for.
        """
        what += "" if cls.doing is None else f", {cls.doing()}"
        said, silent = _within(lambda: cls._ask(rank, size), ("", list(range(size))))
        if said:
            return f"another process of this run failed, and the run ends: {said}"
        silent = [k for k in silent if k != rank]
        who = f"process{'es' if len(silent) > 1 else ''} {', '.join(map(str, silent))}"
        who = who if silent else "the others"
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        late = "imed out" in str(error) or "imeout" in str(error)
        if late:
            told = (
                f"it waited {cls.seconds():g} s for {who}, which did not come. If they were at work"
                " by themselves (a callback, the reading of data), let all wait longer, with"
                " torch.distributed.init_process_group(timeout=datetime.timedelta(hours=1)) before"
                " the first call; if they hang, py-spy dump --pid or faulthandler say where"
            )
        else:
            told = (
                f"{who} ended without a word: killed, perhaps, or out of memory; torchrun tells"
                " their exit codes, and with checkpoints= and resume=True the run goes on from the"
                " last one"
            )
        return (
            f"process {rank} of {size} could not talk to the others in {what}, and the run ends:"
            f" {told}. The connection said: {first}"
        )

    @classmethod
    def close(cls) -> None:
        """Close the connections that the library made, so that no process waits for this one."""
        try:
            if not (cls.made and dist.is_initialized()):
                return
            abort = getattr(dist.distributed_c10d, "_abort_process_group", None)
            if abort is not None and "nccl" in str(dist.get_backend_config()):
                abort()  # to destroy the group would wait for what runs on the card
            else:
                dist.destroy_process_group()
        except Exception:  # what waits in the group is lost in any case
            pass

    @classmethod
    def _key(cls, word: object) -> str:
        return f"transportflows/{cls.stretch}/{word}"

    @classmethod
    def _ask(cls, rank: int, size: int) -> tuple[str, list[int]]:
        """What a process said that failed, and the processes that said nothing at all."""
        store, silent = _store(), list(range(size))
        store.set(cls._key(rank), "gave up")
        until = time.monotonic() + _ANSWERS
        while True:
            if store.check([cls._key("failure")]):
                return store.get(cls._key("failure")).decode(), []
            silent = [k for k in silent if not store.check([cls._key(k)])]
            if time.monotonic() > until:
                return "", silent
            time.sleep(0.05)


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()


def _within(ask: Callable[[], T], otherwise: T) -> T:
    """What is answered soon; the store may have died, or hang, with the process that holds it."""
    answers: list[T] = []

    def call() -> None:
        with suppress(Exception):  # there is nobody left to ask
            answers.append(ask())

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(2 * _ANSWERS)
    return answers[0] if answers else otherwise
