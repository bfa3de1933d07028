"""What the sceptic's lab measures on a model: answers, text loss, the inner loss before and after writes, q beside k.

Axes: b rows, t tokens, h heads, f head width. Models have one memory with an inner loop in each layer.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from nl_course.memories import TTT, SelfModifying, Titans, Trace
from nl_course.model import BlockState, LanguageModel
from nl_course.tasks.recall import Recall, mqar, recall_loss
from nl_course.tasks.text import library
from nl_course.training import evaluate_windows, token_losses


def number(value: Tensor | float) -> float | None:
    """Four digits behind the point; None for what is no number any more, as where an inner loop ran away."""
    return round(float(value), 4) if math.isfinite(value) else None


# -- outside the memory --------------------------------------------------------------------------------------------
def asked_of(about: dict) -> Recall:
    """The questions of a recall task: pairs that no model was trained on."""
    return mqar(about["asked_rows"], about["training"]["length"], about["asked_pairs"], about["vocab"], seed=10**9)


def recall_of(model: LanguageModel, about: dict, rows: int) -> tuple[dict, Tensor]:
    """`recall`, `loss` and the number of `questions`; and the tokens read."""
    task = asked_of(about)
    logits = torch.cat([model(piece)[0] for piece in task.tokens.split(rows)])
    right = (logits.argmax(-1) == task.targets)[task.mask].float().mean()
    recall = number(right) if logits.isfinite().all() else None
    return {"recall": recall, "loss": number(recall_loss(logits, task)), "questions": int(task.mask.sum())}, task.tokens


def text_of(model: LanguageModel, about: dict, rows: int) -> tuple[dict, Tensor]:
    """`loss` of held-out windows, and the windows' bytes."""
    stream = library("prose").stream("held_out")
    starts = evaluate_windows(stream, about["window"], about["windows"])
    windows = torch.stack([stream[s : s + about["window"] + 1] for s in starts]).long()
    losses = torch.cat([token_losses(model, w[:, :-1], w[:, 1:]) for w in windows.split(rows)])
    return {"loss": number(losses.mean())}, windows[:, :-1]


# -- inside it -----------------------------------------------------------------------------------------------------
class Met(NamedTuple):
    """Queries, keys and values of a piece as a memory meets them, (b, h, t, f); and its answers, functions of (b, h, t,
    f), with the weights before the piece and after it."""

    q: Tensor
    k: Tensor
    v: Tensor
    before: callable
    after: callable


def answers(memory, state):
    """What the memory says, with its weights as they stand."""
    if isinstance(memory, TTT):
        weights = memory.weights(state)
        return lambda x: memory.inner.read(weights, x, memory.norm)
    if isinstance(memory, Titans):
        return lambda x: memory.recall(state, x)
    bank, weights = memory._memory, {"memory": memory.weights(state)["memory"]}
    return lambda x: bank.read(bank.gather(weights), x)["memory"]


def own(state):
    """A block's state, without its convolution's."""
    return state.memory if isinstance(state, BlockState) else state


def chunk_of(memory) -> int:
    return memory.config.mini_batch if isinstance(memory, TTT) else memory.config.chunk


def met(model: LanguageModel, tokens: Tensor) -> Iterator[Met]:
    """Every chunk of the text in every layer; a last one that is not full is left out."""
    memories = [layer.memory for layer in model.layers]
    chunk, state = chunk_of(memories[0]), model.init_state(len(tokens))
    names = ("query", "key", "value") if isinstance(memories[0], SelfModifying) else ("q", "k", "v")
    for piece in tokens.split(chunk, dim=1):
        if piece.shape[1] < chunk:
            return
        trace = Trace(names)
        _, after = model(piece, state, trace)
        for i, memory in enumerate(memories):
            q, k, v = (trace[f"layers.{i}.{name}"].transpose(1, 2) for name in names)
            before = answers(memory, own(state.layers[i]))
            # Self-modifying Titans make the target themselves, at the boundary.
            target = before(v) if isinstance(memory, SelfModifying) else v
            yield Met(q, k, target, before, answers(memory, own(after.layers[i])))
        state = after


@torch.no_grad()
def inner_losses(model: LanguageModel, tokens: Tensor) -> dict[str, float | None]:
    """|f(x) - v|^2 over |v|^2 before and after each chunk's write, at its keys and at its queries."""
    sums, whole = dict.fromkeys(("before_k", "after_k", "before_q", "after_q"), 0.0), 0.0
    for one in met(model, tokens):
        whole += one.v.square().sum()
        for name, said in (("before", one.before), ("after", one.after)):
            for at, x in (("k", one.k), ("q", one.q)):
                sums[f"{name}_{at}"] += (said(x) - one.v).square().sum()
    return {name: number(total / whole) for name, total in sums.items()}


@torch.no_grad()
def distances(model: LanguageModel, tokens: Tensor, about: dict) -> dict[str, float | None]:
    """How far queries lie from keys; `units` of the recording says what each number is."""
    pieces = list(met(model, tokens))
    q, k = (torch.cat([one[i] for one in pieces], dim=2).double() for i in (0, 1))
    found = {
        "frechet": number(frechet(q, k)),
        "frechet_keys": number(frechet(*k[: len(k) // 2 * 2].chunk(2))),
        "cosine": number(cosine_similarity(q, k, dim=-1).mean()),
    }
    if about["kind"] == "recall" and len(model.layers) == 1:
        found |= asked_and_written(q, k, asked_of(about))
    return found


def asked_and_written(q: Tensor, k: Tensor, task: Recall) -> dict[str, float | None]:
    """Cosines of a question's query and the keys that stand where values were written: its own value's, the others'."""
    written = k[:, :, 1 : 2 * task.pairs : 2]  # pair after pair: a key's token, its value's
    same, other = [], []
    for row, place in task.mask.nonzero().tolist():
        near = cosine_similarity(q[row, :, place, None], written[row], dim=-1)  # (h, pairs)
        own = (place - int(task.age[row, place]) - 1) // 2
        same.append(near[:, own])
        other.append((near.sum(1) - near[:, own]) / (task.pairs - 1))
    return {"cosine_asked": number(torch.cat(same).mean()), "cosine_others": number(torch.cat(other).mean())}


def frechet(one: Tensor, other: Tensor) -> Tensor:
    """|m - n|^2 + tr(C + D - 2 (C D)^(1/2)), the squared 2-Wasserstein distance of Gaussians, over the mean of both
    sets' mean square; (b, h, t, f) each, the mean over heads."""
    found = []
    for x, y in zip(one.transpose(0, 1).flatten(1, 2), other.transpose(0, 1).flatten(1, 2)):
        C, D = (torch.cov(u.T, correction=0) for u in (x, y))
        size = (x.square().sum(1).mean() + y.square().sum(1).mean()) / 2
        root = torch.linalg.eigvals(C @ D).real.clamp_min(0).sqrt().sum()  # tr (C D)^(1/2)
        found.append(((x.mean(0) - y.mean(0)).square().sum() + C.trace() + D.trace() - 2 * root) / size)
    return torch.stack(found).mean()
