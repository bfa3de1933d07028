"""What is measured on a trained model of the HOPE recording, and again with parts of it held still.

Whether HOPE "improves how it takes notes": a row of pairs is shown once each, in the layout of the recall task. Beside
that row, each pair is written 0, 1, 2, ... times into a copy of the state of its moment and then asked at once: so what
one write of the i-th fact is worth is known for every i, and how many writes the i-th fact needs. If the memory learns
how to write this kind of fact, later ones need fewer; if it only fills up, they need more.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from nl_course.memories import SelfModifying, Trace
from nl_course.memories.ablations.switches import ablated
from nl_course.nested import NestedLanguageModel
from nl_course.record.inner_loop import by_bin
from nl_course.seeding import seeded
from nl_course.tasks.formal import FormalTask, formal_accuracy
from nl_course.tasks.recall import accuracy, mqar
from nl_course.tasks.text import library
from nl_course.training import evaluate_windows, token_losses

FROZEN = {  # what is held still at test, by the condition's name
    "nothing": (),
    "key": ("key",),
    "value": ("value",),
    "step": ("step",),
    "retention": ("retention",),
    "all four": ("key", "value", "step", "retention"),
    "memory": ("memory",),
}


@contextmanager
def held_still(model: nn.Module, memories: tuple[str, ...]) -> Iterator[bool]:
    """The model with these memories of every layer frozen; yields whether it has any that can be."""
    possible = not memories
    with ExitStack() as stack:
        for layer in model.modules():
            if isinstance(layer, SelfModifying):
                names = tuple(name for name in memories if name in layer.config.names)
                stack.enter_context(ablated(layer, frozen=names))
                possible = possible or bool(names)
        yield possible


def conditions(model: nn.Module, measure: Callable[[nn.Module], Any]) -> dict[str, Any]:
    """{condition: measure(model)}: as it is, and for self-modifying models with each of FROZEN held still."""
    measured = {}
    for name, memories in FROZEN.items():
        with held_still(model, memories) as possible:
            if possible:
                measured[name] = measure(model)
    return measured


def levels_held(model: NestedLanguageModel) -> NestedLanguageModel:
    """The same model with levels that never move."""
    blocks = []
    for block in model.config.levels:
        blocks.append(tuple(replace(level, chunk=0) for level in block))
    with seeded(0):  # what is drawn here is overwritten
        still = NestedLanguageModel(replace(model.config, levels=tuple(blocks)))
    # A level that never moves has no rate.
    still.load_state_dict({name: w for name, w in model.state_dict().items() if not name.endswith("log_rate")})
    return still.eval()


# -- text ------------------------------------------------------------------------------------------------------------
@torch.no_grad()
def measure_text(model: nn.Module, about: dict) -> dict:
    """Loss by place of held-out windows, as trained and held still; what holding still costs, window by window."""
    stream = library("prose").stream("held_out")
    starts = evaluate_windows(stream, about["window"], about["windows"])
    windows = torch.stack([stream[s : s + about["window"] + 1] for s in starts]).long()

    def losses(one: nn.Module) -> Tensor:
        """The loss of each token in each window, (windows, window), in nats."""
        return torch.cat([token_losses(one, w[:, :-1], w[:, 1:]) for w in windows.split(8)])

    by_condition = conditions(model, losses)  # (windows, window) each
    if isinstance(model, NestedLanguageModel) and model.clocked:
        by_condition["levels"] = losses(levels_held(model))
    plain = by_condition.pop("nothing")
    # Differences of the same windows: what all of them have in common does not widen the intervals.
    differences = {name: held - plain for name, held in by_condition.items()}
    bins, resamples = about["bins"], about["resamples"]
    return {
        "loss": by_bin(plain, bins, resamples),
        "frozen": {name: by_bin(difference, bins, resamples) for name, difference in differences.items()},
    }


# -- recall ----------------------------------------------------------------------------------------------------------
@torch.no_grad()
def measure_recall(model: nn.Module, about: dict) -> dict:
    """Right answers by pairs in the row, as trained and held still; and the later facts."""

    def right(one: nn.Module) -> list[dict]:
        """The share of right answers for each number of pairs."""
        shares = []
        for pairs, length in zip(about["asked_pairs"], about["asked_lengths"], strict=True):
            task = mqar(about["asked_rows"], length, pairs, about["vocab"], seed=10**9)
            share = accuracy(one, task, edges=[pairs])[0]
            shares.append({"pairs": pairs, "length": length, "asked": share.asked, "right": share.right})
        return shares

    by_condition = conditions(model, right)
    plain = by_condition.pop("nothing")
    later = {"nothing": later_facts(model, about)}
    if by_condition:
        with held_still(model, FROZEN["all four"]):
            later["all four"] = later_facts(model, about)
    return {"recall": plain, "frozen": by_condition, "later_facts": later}


@torch.no_grad()
def later_facts(model: nn.Module, about: dict) -> dict:
    """For the i-th of `facts` pairs: `right` and `loss` (nats, of the answer), one a number of writes, 0, 1, ...;
    `needed`, the mean number of writes until the first right answer (one more than all if there is none); and how
    `early` and `late` facts, the first and the last third, differ in it, with an interval over rows. For
    self-modifying memories also the share of its own error at a value that a write leaves, `error_left`."""
    rows, facts, most = about["fact_rows"], about["facts"], about["writes"]
    task = mqar(rows, 4 * facts, facts, about["vocab"], filler="blank", seed=10**9 + 1)
    pairs = task.tokens[:, : 2 * facts].unflatten(1, (facts, 2))  # (rows, facts, key and value)
    right, loss = torch.zeros(facts, most + 1, rows), torch.zeros(facts, most + 1, rows)
    state = model.init_state(rows)
    for i, pair in enumerate(pairs.unbind(1)):
        # The row itself goes on with one write of each pair; a copy of its state takes more of them.
        branch, answer = state, pair[:, 1:]
        for writes in range(most + 1):
            scores = log_softmax(model(pair[:, :1], branch)[0][:, -1], dim=-1)  # (rows, vocab)
            right[i, writes] = (scores.argmax(-1) == answer[:, 0]).float()
            loss[i, writes] = -scores.gather(1, answer)[:, 0]
            if writes < most:
                branch = model(pair, branch)[1]
                state = branch if writes == 0 else state
    after_writes = right[:, 1:]  # what is right without a write was guessed
    needed = torch.where(after_writes.any(1), 1 + after_writes.argmax(1), most + 1).double()  # (facts, rows)
    third = max(1, facts // 3)
    change = (needed[-third:].mean(0) - needed[:third].mean(0))[:, None]  # (rows, 1)
    measured = {
        "right": [_rounded(by_writes) for by_writes in right.mean(-1)],
        "loss": [_rounded(by_writes) for by_writes in loss.mean(-1)],
        "needed": _rounded(needed.mean(1)),
        "late_less_early": by_bin(change, [0, 1], about["resamples"])[0],
    }
    if any(isinstance(module, SelfModifying) for module in model.modules()):
        measured["error_left"] = error_left(model, pairs)
    return measured


def _rounded(numbers: Tensor) -> list[float]:
    """To four decimals, as recordings keep them."""
    return [round(x, 4) for x in numbers.tolist()]


def error_left(model: nn.Module, pairs: Tensor) -> list[float]:
    """|M(k) - v_hat|^2 of M_memory in the first layer after the write of a value over that before it, by the pair's
    number: sums over rows and heads. pairs (rows, facts, 2)."""
    names = ("layers.0.memory.loss_before", "layers.0.memory.loss_after")
    trace = Trace(names)
    model(pairs.flatten(1), trace=trace)
    # Every second token is a value: only there a fact is complete.
    before, after = (trace[name].flatten(2).sum((0, 2))[1::2] for name in names)  # (facts,)
    return _rounded(after / before)


# -- parity ----------------------------------------------------------------------------------------------------------
def measure_parity(model: nn.Module, about: dict) -> dict:
    """Strings without a mistake, and right places, at the lengths trained with and beyond."""
    task = FormalTask("parity", tuple(about["lengths"]), rows=about["asked_rows"])
    bins = [tuple(about["lengths"]), *((length, length) for length in about["asked_lengths"])]

    def right(one: nn.Module) -> list[dict]:
        """The shares of faultless strings and of right places, for each range of lengths."""
        shares = []
        for share in formal_accuracy(one, task, bins, steps=about["asked_steps"]):
            row = {name: getattr(share, name) for name in ("low", "high", "strings", "accuracy")}
            shares.append({**row, "by_place": round(share.by_place, 4)})
        return shares

    by_condition = conditions(model, right)
    return {"parity": by_condition.pop("nothing"), "frozen": by_condition}


MEASURES = {"text": measure_text, "recall": measure_recall, "parity": measure_parity}
