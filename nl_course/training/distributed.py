"""The outer loop on several processes: each reads its rows of every batch, and all make the same step.

    torchrun --nproc-per-node 8 -m nl_course train --preset 125m --parallel fsdp --out runs/large

`ddp`: every process holds the whole model. `fsdp`: each holds a part of every matrix, of its gradient and of what the
optimizer keeps, and a block's matrices come together when they are used (PyTorch's `fully_shard`; Zhao et al. 2023,
arXiv 2304.11277). N processes see the very rows that one sees, in N parts, and divide by the whole batch's count of
targets, so the loss curve is the single process's but for rounding.

Under `ddp` gradients are added up here, after the backward pass, and not by PyTorch's DistributedDataParallel: its
hooks expect one backward pass through each weight, and models with clocks differentiate twice. One sum at the end is
the same numbers for every model; what it gives up is that sending overlaps with computing. Models with clocks are
refused under `fsdp`: their levels take gradients of gathered matrices inside the forward pass, and no test proves that.

Processes meet as torchrun's environment says: gloo on processors, nccl on GPUs (gloo for what stays on processors).
On several machines the run's folder must be one that all of them see.
"""

import importlib
import os
import signal
import sys
import threading
import warnings
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nl_course.errors import CourseError, check_choice
from nl_course.nested import NestedLanguageModel
from nl_course.training.interrupts import Interrupts

PARALLEL = ("auto", "none", "ddp", "fsdp")
ELEMENTWISE = ("sgd", "momentum", "adam", "adamw")  # optimizers that need not see a matrix whole


def under_torchrun() -> bool:
    """Whether this process is one of several that torchrun started (or one: torchrun says so too)."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def local_device(device: torch.device) -> torch.device:
    """This process's own GPU where the device is a GPU, and several processes share the machine."""
    if device.type != "cuda" or not under_torchrun():
        return device
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return int(os.environ.get("RANK", "0")) == 0 if under_torchrun() else True


class Ranks:
    """The processes of one run, as one of them sees them. With a world of one it does nothing at all."""

    def __init__(self, mode: str = "none"):
        self.mode = mode
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if mode != "none" else (0, 1)

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def sharded(self) -> bool:
        return self.mode == "fsdp"

    # -- before the first step --
    def check(self, model: nn.Module, config) -> None:
        """Raises CourseError for a run that cannot be shared out so."""
        parts = self.world * config.accumulate
        if config.batch_size % parts:
            raise CourseError(
                f"batch_size {config.batch_size} does not split into {config.accumulate} equal micro-batches on each "
                f"of {self.world} processes; take a multiple of {parts}."
            )
        if not self.sharded:
            return
        if any(isinstance(m, NestedLanguageModel) for m in model.modules()):
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
        """The first process's weights for all of them; under fsdp each then keeps its part."""
        if self.mode == "none":
            return
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                if not _is_sharded(tensor):
                    dist.broadcast(tensor.data, src=0)
        if self.sharded and not any(_is_sharded(p) for p in model.parameters()):
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            # A block returns its state too, views among it; nothing downstream changes them in place.
            warnings.filterwarnings("ignore", message=".*returned a view tensor.*", category=UserWarning)
            mesh = init_device_mesh(next(model.parameters()).device.type, (self.world,))
            for layer in model.layers:
                fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)

    # -- a step --
    def rows(self, batch_size: int) -> tuple[int, int]:
        """The first of this process's rows of a batch, and how many it has."""
        return self.rank * (batch_size // self.world), batch_size // self.world

    def share(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """This process's rows of a batch that all have made."""
        if len(inputs) % self.world:
            raise CourseError(f"a batch of {len(inputs)} rows does not split between {self.world} processes.")
        first, count = self.rows(len(inputs))
        return inputs[first : first + count], targets[first : first + count]

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.mode != "none":
            value = value.clone()
            dist.all_reduce(value)
        return value

    @property
    def scale(self) -> float:
        """What a loss is multiplied with before the backward pass: fully_shard takes the mean over processes of
        gradients that are to be added up."""
        return float(self.world) if self.sharded else 1.0

    def add_gradients(self, model: nn.Module) -> None:
        """ddp: every gradient becomes the sum over all processes."""
        if self.mode == "ddp":
            wanted = [dist.all_reduce(p.grad, async_op=True) for p in model.parameters() if p.grad is not None]
            for work in wanted:
                work.wait()

    def clip(self, model: nn.Module, most: float) -> float:
        """Limits the norm of all gradients together, wherever they are; returns the norm before."""
        norm = nn.utils.clip_grad_norm_(model.parameters(), most)
        return (norm.full_tensor() if _is_sharded(norm) else norm).item()

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        if self.mode == "none":
            return flag
        said = torch.tensor([float(flag)])
        dist.all_reduce(said, op=dist.ReduceOp.MAX)
        return bool(said.item())

    def wait(self) -> None:
        if self.mode != "none":
            self.any(False)

    def interrupts(self) -> Interrupts:
        return Interrupts() if self.mode == "none" else AgreedInterrupts(self)


ALONE = Ranks()


class AgreedInterrupts(Interrupts):
    """ctrl-C, and the SIGTERM with which torchrun ends its processes, wait for the end of the step, and one process's
    is everyone's: all leave the loop after the same step, so that they can save together."""

    def __init__(self, ranks: Ranks):
        super().__init__()
        self._ranks, self._before = ranks, {}

    def __enter__(self) -> "AgreedInterrupts":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._arrived) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _arrived(self, *_) -> None:
        self._waiting = True

    def between_steps(self) -> None:
        if self._ranks.any(self._waiting):
            raise KeyboardInterrupt

    @contextmanager
    def hold(self):
        yield


def join(parallel: str, device: torch.device) -> Ranks:
    """The processes of this run. "auto" is "ddp" where torchrun started this process, else "none". Joining a second
    time is allowed. Raises CourseError where there is nobody to join."""
    check_choice("parallel", parallel, PARALLEL)
    if parallel == "auto":
        parallel = "ddp" if under_torchrun() else "none"
    if parallel == "none":
        return ALONE
    if not dist.is_initialized():
        if not under_torchrun():
            raise CourseError(
                f"--parallel {parallel} is for several processes; start them with "
                "`torchrun --nproc-per-node N -m nl_course train ...`."
            )
        # Its functions take the group of their time of import as a default. Imported later (an optimizer does), they
        # would hold the group, and gloo's threads, past `leave`, until Python's own end, where those threads crash.
        importlib.import_module("torch.distributed.nn.functional")
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    return Ranks(parallel)


def leave() -> None:
    """The end of the work of a program that may have joined."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def end(code: int) -> None:
    """The end of a program: where torchrun started it, without Python's own end. DTensor's caches hold the group, and
    so gloo's threads, which may still have a tensor to let go of; while Python ends, that ends the process with an
    abort, and torchrun reports a run that went well as failed."""
    if not under_torchrun():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _is_sharded(tensor: Tensor) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
