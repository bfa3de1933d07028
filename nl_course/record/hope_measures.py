"""What is measured on a trained model of the HOPE recording, and again with parts of it held still.

Whether HOPE "improves how it takes notes": a row of pairs is shown once each, in the layout of the recall task. Beside
that row, each pair is written 0, 1, 2, ... times into a copy of the state of its moment and then asked at once: so what
one write of the i-th fact is worth is known for every i, and how many writes the i-th fact needs. If the memory learns
how to write this kind of fact, later ones need fewer; if it only fills up, they need more.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from nl_course.memories import SelfModifying, Trace
from nl_course.memories.ablations.switches import ablated
from nl_course.nested import NestedLanguageModel
from nl_course.record.inner_loop import by_bin
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


def conditions(model: nn.Module, measure) -> dict:
    """{condition: measure(model)}: as it is, and for self-modifying models with each of FROZEN held still."""
    found = {}
    for name, memories in FROZEN.items():
        with held_still(model, memories) as possible:
            if possible:
                found[name] = measure(model)
    return found


def levels_held(model: NestedLanguageModel) -> NestedLanguageModel:
    """The same model with levels that never move."""
    levels = tuple(tuple(replace(level, chunk=0) for level in block) for block in model.config.levels)
    still = NestedLanguageModel(replace(model.config, levels=levels))
    still.load_state_dict({n: w for n, w in model.state_dict().items() if not n.endswith("log_rate")})
    return still.eval()


# -- text ------------------------------------------------------------------------------------------------------------
@torch.no_grad()
def measure_text(model: nn.Module, about: dict) -> dict:
    """Loss by place of held-out windows, as trained and held still; what holding still costs, window by window."""
    stream = library("prose").stream("held_out")
    starts = evaluate_windows(stream, about["window"], about["windows"])
    windows = torch.stack([stream[s : s + about["window"] + 1] for s in starts]).long()

    def losses(one: nn.Module) -> Tensor:
        return torch.cat([token_losses(one, w[:, :-1], w[:, 1:]) for w in windows.split(8)])

    rows = conditions(model, losses)
    if isinstance(model, NestedLanguageModel) and model.clocked:
        rows["levels"] = losses(levels_held(model))
    plain, bins = rows.pop("nothing"), about["bins"]
    return {
        "loss": by_bin(plain, bins, about["resamples"]),
        "frozen": {name: by_bin(found - plain, bins, about["resamples"]) for name, found in rows.items()},
    }


# -- recall ----------------------------------------------------------------------------------------------------------
@torch.no_grad()
def measure_recall(model: nn.Module, about: dict) -> dict:
    """Right answers by pairs in the row, as trained and held still; and the later facts."""

    def right(one: nn.Module) -> list[dict]:
        found = []
        for pairs, length in zip(about["asked_pairs"], about["asked_lengths"], strict=True):
            task = mqar(about["asked_rows"], length, pairs, about["vocab"], seed=10**9)
            share = accuracy(one, task, edges=[pairs])[0]
            found.append({"pairs": pairs, "length": length, "asked": share.asked, "right": share.right})
        return found

    rows = conditions(model, right)
    plain = rows.pop("nothing")
    later = {"nothing": later_facts(model, about)}
    if rows:
        with held_still(model, FROZEN["all four"]):
            later["all four"] = later_facts(model, about)
    return {"recall": plain, "frozen": rows, "later_facts": later}


@torch.no_grad()
def later_facts(model: nn.Module, about: dict) -> dict:
    """For the i-th of `facts` pairs: `right` and `loss` (nats, of the answer), one a number of writes, 0, 1, ...;
    `needed`, the mean number of writes until the first right answer (one more than all if there is none); and how
    `early` and `late` facts, the first and the last third, differ in it, with an interval over rows. For
    self-modifying memories also the share of its own error at a value that a write leaves, `error_left`."""
    rows, facts, most = about["fact_rows"], about["facts"], about["writes"]
    task = mqar(rows, 4 * facts, facts, about["vocab"], noise=False, seed=10**9 + 1)
    pairs = task.tokens[:, : 2 * facts].unflatten(1, (facts, 2))
    right, loss = torch.zeros(facts, most + 1, rows), torch.zeros(facts, most + 1, rows)
    state = model.init_state(rows)
    for i, pair in enumerate(pairs.unbind(1)):
        now, answer = state, pair[:, 1:]
        for writes in range(most + 1):
            scores = log_softmax(model(pair[:, :1], now)[0][:, -1], dim=-1)
            right[i, writes] = (scores.argmax(-1) == answer[:, 0]).float()
            loss[i, writes] = -scores.gather(1, answer)[:, 0]
            if writes < most:
                now = model(pair, now)[1]
                state = now if writes == 0 else state
    asked = right[:, 1:]
    needed = torch.where(asked.any(1), 1 + asked.argmax(1), most + 1).double()  # (facts, rows)
    third = max(1, facts // 3)
    change = (needed[-third:].mean(0) - needed[:third].mean(0))[:, None]
    found = {
        "right": [[round(x, 4) for x in one.tolist()] for one in right.mean(-1)],
        "loss": [[round(x, 4) for x in one.tolist()] for one in loss.mean(-1)],
        "needed": [round(x, 4) for x in needed.mean(1).tolist()],
        "late_less_early": by_bin(change, [0, 1], about["resamples"])[0],
    }
    if any(isinstance(module, SelfModifying) for module in model.modules()):
        found["error_left"] = error_left(model, pairs)
    return found


def error_left(model: nn.Module, pairs: Tensor) -> list[float]:
    """|M(k) - v^|^2 of M_memory in the first layer after the write of a value over that before it, by the pair's
    number: sums over rows and heads."""
    names = ("layers.0.memory.loss_before", "layers.0.memory.loss_after")
    trace = Trace(names)
    model(pairs.flatten(1), trace=trace)
    before, after = (trace[name].flatten(2).sum((0, 2))[1::2] for name in names)
    return [round(x, 4) for x in (after / before).tolist()]


# -- parity ----------------------------------------------------------------------------------------------------------
def measure_parity(model: nn.Module, about: dict) -> dict:
    """Strings without a mistake, and right places, at the lengths trained with and beyond."""
    task = FormalTask("parity", tuple(about["lengths"]), rows=about["asked_rows"])
    bins = [tuple(about["lengths"]), *((length, length) for length in about["asked_lengths"])]

    def right(one: nn.Module) -> list[dict]:
        return [
            {
                "low": b.low,
                "high": b.high,
                "strings": b.strings,
                "accuracy": b.accuracy,
                "by_place": round(b.by_place, 4),
            }
            for b in formal_accuracy(one, task, bins, steps=about["asked_steps"])
        ]

    rows = conditions(model, right)
    return {"parity": rows.pop("nothing"), "frozen": rows}


MEASURES = {"text": measure_text, "recall": measure_recall, "parity": measure_parity}
