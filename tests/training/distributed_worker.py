"""What test_distributed.py has torchrun run: every process goes through the same list of runs, each a call of `train`.

    torchrun ... tests/training/distributed_worker.py TASKS.json RESULTS.json

A task: {"name", "model", "config", "parallel", "folder", "resume", "stop" (a step), "kill" and "term" ([rank, step]),
"by_shape" (whether the optimizer groups parameters as earlier versions did),
"no_pickle" (whatever reads or writes one in a file fails)}.
The first process writes name -> the curve, or {"error": ...}. Runs in one process too, without torchrun.
"""

import json
import os
import pickle
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed.checkpoint as dcp

from nl_course.errors import CourseError
from nl_course.model import LanguageModel, ModelConfig
from nl_course.nested import LevelConfig, NestedConfig, NestedLanguageModel
from nl_course.optimizers.groups import groups_by_shape
from nl_course.training import TrainingConfig, train
from nl_course.training.distributed import end, leave

STREAM = (torch.arange(4000) * 7 % 11 + torch.arange(4000) // 500).to(torch.uint8)
SIZES = dict(vocab=32, width=16, layers=2, heads=2)
LEVELS = (LevelConfig(16, 4, 0.1), LevelConfig(16, 8, 0.1))
RUN = dict(
    steps=6, batch_size=4, length=12, learning_rate=0.02, warmup=1, save_every=2, evaluate_every=3, clip=0.5, seed=3
)


def build(name: str, seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    if name == "nested":
        return NestedLanguageModel(NestedConfig(**SIZES, levels=LEVELS))
    return LanguageModel(ModelConfig(**SIZES, hidden=24, memory=name, conv=4 if name == "titans" else 0))


def curve(run) -> list[dict]:
    names = ("step", "loss", "grad_norm", "learning_rate", "tokens", "held_out_loss")
    return [{name: line[name] for name in names if name in line} for line in run.metrics]


def data(step: int):
    """Batches from a function, of which each process takes its rows; a third of the targets are not asked."""
    rows = STREAM[step * 50 : step * 50 + 52].view(4, 13).long()
    targets = rows[:, 1:].clone()
    targets[0, :] = targets[1, 3:] = -100
    return rows[:, :-1], targets


def grouped_by_shape(net, config: TrainingConfig) -> torch.optim.Optimizer:
    groups = groups_by_shape(torch.optim.AdamW, net)
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, betas=config.betas)


def do(task: dict):
    def on_step(metrics):
        for what, number in (("kill", signal.SIGKILL), ("term", signal.SIGTERM)):
            if task.get(what) == [int(os.environ.get("RANK", 0)), metrics["step"]]:
                os.kill(os.getpid(), number)
        if task.get("block") == [int(os.environ.get("RANK", 0)), metrics["step"]]:
            (Path(task["folder"]) / "model.safetensors").mkdir()

    with ExitStack() as stack:
        if task.get("no_pickle"):
            forbid_pickles(stack)
        if task.get("disk", [None])[0] == int(os.environ.get("RANK", 0)):
            limit_files(stack, task["disk"][1])
        return run(task, on_step)


def limit_files(stack: ExitStack, largest: int) -> None:
    """Lets all fail that writes a file of more bytes, as on a full disk."""
    import resource  # only POSIX has it

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
    stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE, before)


def forbid_pickles(stack: ExitStack) -> None:
    """Lets all fail that reads or writes a pickle in a file: Python's, torch's, and torch's sharded checkpoints."""

    def forbidden(*args, **options):
        raise AssertionError("a pickle was read or written")

    for module, name in ((pickle, "load"), (pickle, "dump"), (torch, "load"), (torch, "save"), (dcp, "load")):
        stack.enter_context(patch.object(module, name, forbidden))
    stack.enter_context(patch.object(dcp, "save", forbidden))


def run(task: dict, on_step):
    net = build(task["model"], task.get("seed", 0) + int(os.environ.get("RANK", 0)))  # the first process's counts
    result = train(
        net,
        data if task.get("function") else STREAM,
        TrainingConfig(**{**RUN, **task.get("config", {})}),
        held_out=STREAM[:300],
        folder=task.get("folder"),
        resume=task.get("resume", False),
        on_step=on_step,
        stop=lambda metrics: metrics["step"] == task.get("stop"),
        optimizer=grouped_by_shape if task.get("by_shape") else None,
        progress=False,
        parallel=task.get("parallel", "auto"),
    )
    parts = sum(p.to_local().numel() if hasattr(p, "to_local") else p.numel() for p in net.parameters())
    return {
        "curve": curve(result),
        "interrupted": result.interrupted,
        "held_here": parts,
        "parameters": net.parameter_count(),
    }


def main(tasks: str, results: str) -> None:
    torch.set_num_threads(1)
    outcomes = {}
    for task in json.loads(Path(tasks).read_text()):
        try:
            outcomes[task["name"]] = do(task)
        except CourseError as error:
            outcomes[task["name"]] = {"error": str(error)}
    leave()
    if int(os.environ.get("RANK", "0")) == 0:
        Path(results).write_text(json.dumps(outcomes))
    end(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
