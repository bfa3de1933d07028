"""The outer loop on several processes: each reads its rows of every batch, and all make the same step.

    torchrun --nproc-per-node 8 -m nl_course train --preset 125m --parallel fsdp --out runs/large

`ddp`: every process holds the whole model. `fsdp`: each holds a part of every matrix, of its gradient and of what the
optimizer keeps, and a block's matrices are gathered when they are used (PyTorch's `fully_shard`; Zhao et al. 2023,
arXiv 2304.11277). N processes read the very rows that one process would read, in N parts, and divide by the number of
scored targets in the whole batch. The loss curve is therefore the single process's, up to rounding.

Under `ddp` gradients are added up here, after the backward pass, and not by PyTorch's DistributedDataParallel: its
hooks expect one backward pass through each weight, and models with clocks differentiate twice. One sum at the end is
right for every model. What it gives up is that sending overlaps with computing. Models with clocks are refused under
`fsdp`: their levels take gradients of gathered matrices inside the forward pass, and no test shows that this works.

Processes find each other through the environment that torchrun sets, and talk through gloo on processors and nccl on
GPUs (gloo for tensors that stay on processors). If some are missing, the others say so after a few seconds, and give up
after ten minutes (NL_COURSE_JOIN_SECONDS changes that). On several machines the run's folder must be one that all of
them see.

What goes wrong in one process ends all of them, and one tells of it. Where several do something that may fail, such as
writing a checkpoint, they do it inside `with ranks.together():`, so that none waits for one that has given up.
"""

import importlib
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nl_course.errors import CourseError, check_choice
from nl_course.nested import NestedLanguageModel
from nl_course.training.config import TrainingConfig
from nl_course.training.interrupts import Interrupts

PARALLEL = ("auto", "none", "ddp", "fsdp")
ELEMENTWISE = ("sgd", "momentum", "adam", "adamw")  # optimizers that need not see a matrix whole
SAY_AFTER = 5.0  # seconds of waiting for other processes, after which it is said
GIVE_UP_AFTER = 600.0  # seconds; NL_COURSE_JOIN_SECONDS comes first
TOLD_WITHIN = 10.0  # seconds in which the main process is expected to tell of an error that others have, too


def under_torchrun() -> bool:
    """Whether torchrun started this process, be it alone or one of several."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def local_device(device: torch.device) -> torch.device:
    """This process's own GPU where the device is a GPU and several processes share the machine; else `device`."""
    if device.type != "cuda" or not under_torchrun():
        return device
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


class Ranks:
    """The processes of one run, as one of them sees them: `rank` is its number, `world_size` how many there are.

    `mode` is "none", "ddp" or "fsdp". With "none" there is one process and every method does nothing.
    """

    def __init__(self, mode: str = "none"):
        self.mode = mode
        self.rank = 0
        self.world_size = 1
        if mode != "none":
            self.rank = dist.get_rank()
            self.world_size = dist.get_world_size()

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that prints and writes files."""
        return self.rank == 0

    @property
    def sharded(self) -> bool:
        """Whether each process holds only a part of the weights."""
        return self.mode == "fsdp"

    # -- before the first step --
    def check(self, model: nn.Module, config: TrainingConfig) -> None:
        """Raises CourseError for a run that cannot be divided between these processes."""
        parts = self.world_size * config.accumulate
        if config.batch_size % parts:
            raise CourseError(
                f"batch_size {config.batch_size} does not split into {config.accumulate} equal micro-batches on each "
                f"of {self.world_size} processes; take a multiple of {parts}."
            )
        if not self.sharded:
            return
        if config.reset_at is not None:
            raise CourseError(
                "rows that are cut at the ends of documents cannot be sharded (processes would take different numbers "
                "of forward passes); use --parallel ddp."
            )
        if any(isinstance(module, NestedLanguageModel) for module in model.modules()):
            raise CourseError(
                "a model with clocks cannot be sharded (its levels take gradients inside the forward pass); "
                "use --parallel ddp."
            )
        if not isinstance(getattr(model, "layers", None), nn.ModuleList):
            raise CourseError(f"{type(model).__name__} has no `layers` to shard; use --parallel ddp.")
        if config.optimizer not in ELEMENTWISE:
            raise CourseError(
                f"{config.optimizer} needs whole matrices, which fsdp splits; use --parallel ddp, or one of: "
                f"{', '.join(ELEMENTWISE)}."
            )

    def prepare(self, model: nn.Module) -> None:
        """Gives all processes the weights of the main one; under fsdp each then keeps its part of them."""
        if self.mode == "none":
            return
        # Processes may have drawn different initial weights. From equal weights, equal steps keep them equal.
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                if not _is_sharded(tensor):
                    dist.broadcast(tensor.data, src=0)
        if self.sharded and not any(_is_sharded(parameter) for parameter in model.parameters()):
            self._shard(model)

    def _shard(self, model: nn.Module) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        # A block returns its state too, which has views in it. The warning is about changing them in place, which
        # nothing here does.
        warnings.filterwarnings("ignore", message=".*returned a view tensor.*", category=UserWarning)
        mesh = init_device_mesh(next(model.parameters()).device.type, (self.world_size,))
        # Block by block, so that only one block's whole matrices are in memory at a time; then what is left.
        for layer in model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)

    # -- within a step --
    def rows(self, batch_size: int) -> tuple[int, int]:
        """The first of this process's rows of a batch, and how many it has."""
        rows_each = batch_size // self.world_size
        return self.rank * rows_each, rows_each

    def share(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """This process's rows of a whole batch, (b, t) each, that every process has at hand.

        Raises CourseError if the rows do not split evenly.
        """
        if len(inputs) % self.world_size:
            raise CourseError(f"a batch of {len(inputs)} rows does not split between {self.world_size} processes.")
        first, count = self.rows(len(inputs))
        return inputs[first : first + count], targets[first : first + count]  # (b / world_size, t) each

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """The sum of `value` over all processes; `value` itself is left as it was."""
        if self.mode == "none":
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value

    @property
    def loss_scale(self) -> float:
        """What a loss is multiplied by before the backward pass. `fully_shard` averages gradients over processes; here
        they must be added, because every process divides by the targets of the whole batch already."""
        return float(self.world_size) if self.sharded else 1.0

    def all_reduce_gradients(self, model: nn.Module) -> None:
        """Under ddp, makes every gradient the sum over all processes. Under fsdp the backward pass has done so."""
        if self.mode != "ddp":
            return
        # All are sent off before any is waited for, so that their transfers overlap.
        pending = [dist.all_reduce(p.grad, async_op=True) for p in model.parameters() if p.grad is not None]
        for work in pending:
            work.wait()

    def clip(self, model: nn.Module, most: float) -> float:
        """Scales all gradients so that their common norm is at most `most`; returns the norm before that."""
        norm = nn.utils.clip_grad_norm_(model.parameters(), most)
        if _is_sharded(norm):
            norm = norm.full_tensor()  # each process has seen its own part only
        return norm.item()

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process. All must call it, and all wait for each other."""
        if self.mode == "none":
            return flag
        largest = torch.tensor([float(flag)])
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return bool(largest.item())

    def barrier(self) -> None:
        """Waits until all processes are here. A sum on the processor serves for it: nccl's own barrier needs a GPU."""
        if self.mode != "none":
            self.any(False)

    def agree(self, failure: Exception | None) -> None:
        """Raises in every process what went wrong in any of them; all must call it, each with its own failure or None.

        A process raises its own failure, unchanged. One that has none raises a CourseError with the words of the first
        process that has one.
        """
        if self.mode == "none":
            if failure is not None:
                raise failure
            return
        own = None if failure is None else str(failure) or type(failure).__name__
        reports: list[str | None] = [None] * self.world_size
        dist.all_gather_object(reports, own)
        if failure is not None:
            raise failure
        for report in reports:
            if report is not None:
                raise CourseError(report)

    @contextmanager
    def together(self) -> Iterator[None]:
        """`with ranks.together():` around what may fail in one process only, e.g. since only the main one does it. All
        processes leave the block together: all go on, or all raise (see `agree`).

        Nothing inside the block may wait for other processes after something in it may have failed.
        """
        failure: Exception | None = None
        try:
            yield
        except (CourseError, OSError) as error:
            failure = error
        self.agree(failure)

    def interrupts(self) -> Interrupts:
        """How ctrl-C is handled during the run: alone, or by agreement of all processes."""
        return Interrupts() if self.mode == "none" else AgreedInterrupts(self)


SINGLE_PROCESS = Ranks()


class AgreedInterrupts(Interrupts):
    """Signals wait for the end of the step, and what reaches one process counts for all: they leave the loop after the
    same step, so that they can save together. torchrun ends its processes with SIGTERM; ctrl-C reaches them twice, from
    the terminal and from torchrun. So a second signal changes nothing here, and torchrun kills those that take long."""

    def __init__(self, ranks: Ranks):
        super().__init__()
        self._ranks = ranks

    def _may_replace(self, handler: Any) -> bool:
        # `nohup` ignores SIGHUP, so that the run goes on. None: somebody has set it who does not write Python.
        return handler not in (signal.SIG_IGN, None)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        self._waiting = True

    def between_steps(self) -> None:
        """Raises KeyboardInterrupt in every process if a signal has reached any of them."""
        if self._ranks.any(self._waiting):
            raise KeyboardInterrupt

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Nothing to do: signals wait for `between_steps` anyway."""
        yield


def join(parallel: str, device: torch.device) -> Ranks:
    """Makes this process one of the run's processes; joining a second time is allowed.

    "auto" is "ddp" where torchrun started this process, else "none". Raises CourseError where "ddp" or "fsdp" is wanted
    and torchrun has started nothing.
    """
    check_choice("parallel", parallel, PARALLEL)
    if parallel == "auto":
        parallel = "ddp" if under_torchrun() else "none"
    if parallel == "none":
        return SINGLE_PROCESS
    if not dist.is_initialized():
        if not under_torchrun():
            raise CourseError(
                f"--parallel {parallel} is for several processes; start them with "
                "`torchrun --nproc-per-node N -m nl_course train ...`."
            )
        # The functions in this module take the process group as a default value at the time of their import. If it
        # were imported later (an optimizer does that), they would keep the group, and gloo's threads, alive past
        # `leave` until Python ends, and those threads would crash there.
        importlib.import_module("torch.distributed.nn.functional")
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        place = MeetingPlace(1 if MeetingPlace.last is None else MeetingPlace.last.number + 1)
        MeetingPlace.last = place
        dist.init_process_group(backend, store=place.meet(), rank=place.rank, world_size=place.world_size)
    return Ranks(parallel)


class MeetingPlace:
    """Where the processes of a run find each other: a small store of keys that one of them, or torchrun, serves.

    torch's own way of meeting there waits without a word, and cannot be interrupted.
    """

    last: "MeetingPlace | None" = None  # where this process has met the others last

    def __init__(self, number: int = 1):
        """Reads the environment that torchrun sets. Raises CourseError where it is incomplete.

        `number` counts the meetings of these processes: each has keys of its own in the store.
        """
        self.number = number
        try:
            self.rank = int(os.environ["RANK"])
            self.world_size = int(os.environ["WORLD_SIZE"])
            self.host = os.environ["MASTER_ADDR"]
            self.port = int(os.environ["MASTER_PORT"])
            self.limit = float(os.environ.get("NL_COURSE_JOIN_SECONDS", GIVE_UP_AFTER))
        except (KeyError, ValueError) as error:
            raise CourseError(
                f"the environment does not say where to find the other processes ({error}); start them with torchrun."
            ) from error
        # torchrun serves the store itself, so that it outlives any process of the run.
        self.serves = self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        # One process per machine speaks of waiting.
        self.speaks = self.rank == 0 or os.environ.get("LOCAL_RANK", "0") == "0"
        self.store: dist.Store | None = None

    def meet(self) -> "dist.Store":
        """The store, once all processes are there. Raises CourseError if some are missing at the end."""
        patience = Patience(self.limit, self.speaks)
        server = self._reach(patience)
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.store = dist.PrefixStore(f"nl_course/{restart}/{self.number}", server)
        here = self.store.add("here", 1)
        while here < self.world_size:
            waiting = f"{here} of {self.world_size} processes are at {self.host}:{self.port}"
            if patience.is_over(f"waiting: {waiting}") or self.store.check(["given up"]):
                self.store.set("given up", "")
                time.sleep(1.0)  # the store may end with this process, and the others should read that first
                raise CourseError(
                    f"gave up waiting after {self.limit:g} seconds: {waiting}. Start the others with the same "
                    "MASTER_ADDR and MASTER_PORT, and see that they can reach that address."
                )
            time.sleep(0.1)
            here = self.store.add("here", 0)
        return self.store

    def _reach(self, patience: "Patience") -> "dist.Store":
        """The store itself: served by this process, or elsewhere as soon as there is somebody who serves it."""
        # A plain connection tells whether somebody is there: torch would print pages about nobody being there.
        while not self.serves:
            try:
                socket.create_connection((self.host, self.port), timeout=1.0).close()
                break
            except OSError as error:
                nobody = f"nothing answers at {self.host}:{self.port} ({error.strerror or error})"
                if patience.is_over(f"waiting: {nobody}"):
                    raise CourseError(
                        f"gave up waiting after {self.limit:g} seconds: {nobody}. The process with RANK=0 has to be "
                        "started too, and this machine has to reach it there."
                    ) from error
            time.sleep(0.1)
        try:
            timeout = timedelta(seconds=max(self.limit, 1.0))
            return dist.TCPStore(
                self.host, self.port, is_master=self.serves, wait_for_workers=False, timeout=timeout, multi_tenant=True
            )
        except dist.DistError as error:
            doing = "serve" if self.serves else "reach"
            raise CourseError(f"cannot {doing} the run's meeting place {self.host}:{self.port}: {error}") from error

    def main_ends(self) -> None:
        """Tells the others that the main process has said what there is to say, and ends now."""
        if self.store is not None and self.rank == 0 and self.world_size > 1:
            self.store.set("main ends", "")
            if self.serves:
                time.sleep(1.0)  # the store ends with this process

    def has_main_ended(self) -> bool:
        """Whether the main process ends (see `main_ends`) within TOLD_WITHIN seconds."""
        until = time.monotonic() + TOLD_WITHIN
        while time.monotonic() < until:
            try:
                if self.store.check(["main ends"]):
                    return True
            except dist.DistError:  # whoever served the store is gone
                return True
            time.sleep(0.1)
        return False


class Patience:
    """How long something is waited for. After SAY_AFTER seconds, and whenever it changes, is said what for."""

    def __init__(self, limit: float, speaks: bool):
        self._started = time.monotonic()
        self._limit = limit
        self._speaks = speaks
        self._said = ""

    def is_over(self, waiting: str) -> bool:
        """Whether the limit is reached. `waiting` is what may be said on stderr meanwhile."""
        waited = time.monotonic() - self._started
        if waited >= SAY_AFTER and self._speaks and waiting != self._said:
            print(f"nl-course: {waiting} (for at most {self._limit:g} seconds)", file=sys.stderr, flush=True)
            self._said = waiting
        return waited >= self._limit


def main_tells() -> bool:
    """Whether another process tells of the error that this one is about to end with.

    Where all processes have the same error, it should stand there once. torchrun ends all processes as soon as one has
    ended. So those that are not the main one wait here until that one has spoken. Where it does not, e.g. because the
    error is not one that it has, the answer is no.
    """
    if not under_torchrun() or os.environ["RANK"] == "0":
        return False
    place = MeetingPlace.last
    if place is not None and place.store is not None:
        return place.has_main_ended()
    # The main process was never met, so one on each machine tells.
    is_neighbor = os.environ.get("LOCAL_RANK", "0") != "0"
    if is_neighbor:
        time.sleep(1.0)  # until the other one has spoken
    return is_neighbor


def leave() -> None:
    """Undoes `join`, if this process has joined. Call it when the work is done."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def end(code: int) -> None:
    """Ends the program with an exit code; under torchrun without Python's own clean-up.

    DTensor's caches keep the process group, and so gloo's threads, which may still hold a tensor. When they let go of
    it while Python shuts down, the process aborts, and torchrun would report a run that went well as failed.
    """
    if not under_torchrun():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    if MeetingPlace.last is not None:
        MeetingPlace.last.main_ends()
    os._exit(code)


def _is_sharded(tensor: Tensor) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
