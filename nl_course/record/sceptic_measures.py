"""What the sceptic's lab measures on a model: answers, text loss, the inner loss before and after writes, q beside k.

Axes: b rows, t tokens, h heads, f head width. Models have one memory with an inner loop in each layer.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from nl_course.memories import TTT, Memory, SelfModifying, State, Titans, Trace
from nl_course.model import BlockState, LanguageModel
from nl_course.tasks.recall import Recall, mqar, recall_loss
from nl_course.tasks.text import library
from nl_course.training import evaluate_windows, token_losses


def number(value: Tensor | float) -> float | None:
    """Four digits behind the point; None for what is no number any more, as where an inner loop ran away."""
    return round(float(value), 4) if math.isfinite(value) else None


# -- outside the memory --------------------------------------------------------------------------------------------
def questions_of(about: dict) -> Recall:
    """The questions of a recall task: pairs that no model was trained on."""
    return mqar(about["asked_rows"], about["training"]["length"], about["asked_pairs"], about["vocab"], seed=10**9)


def recall_of(model: LanguageModel, about: dict, rows: int) -> tuple[dict, Tensor]:
    """`recall`, `loss` and the number of `questions`; and the tokens read."""
    task = questions_of(about)
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
class Chunk(NamedTuple):
    """Queries, keys and values of a chunk as a memory meets them, (b, h, t, f); and its answers, functions of (b, h, t,
    f), with the weights before the chunk and after it."""

    q: Tensor
    k: Tensor
    v: Tensor
    before: Callable[[Tensor], Tensor]
    after: Callable[[Tensor], Tensor]


def read_function(memory: Memory, state: State) -> Callable[[Tensor], Tensor]:
    """What the memory answers to keys (b, h, t, f), with its weights as they stand: nothing is written."""
    if isinstance(memory, TTT):
        weights = memory.weights(state)
        return lambda x: memory.inner.read(weights, x, memory.norm)
    if isinstance(memory, Titans):
        return lambda x: memory.recall(state, x)
    bank, weights = memory._memory, {"memory": memory.weights(state)["memory"]}
    return lambda x: bank.read(bank.gather(weights), x)["memory"]


def memory_state(state: State) -> State:
    """A block's state, without its convolution's."""
    return state.memory if isinstance(state, BlockState) else state


def chunk_of(memory: Memory) -> int:
    """The tokens of one chunk."""
    return memory.config.mini_batch if isinstance(memory, TTT) else memory.config.chunk


def chunks(model: LanguageModel, tokens: Tensor) -> Iterator[Chunk]:
    """Every chunk of the text (b, t) in every layer; a last one that is not full is left out."""
    memories = [layer.memory for layer in model.layers]
    size, state = chunk_of(memories[0]), model.init_state(len(tokens))
    names = ("query", "key", "value") if isinstance(memories[0], SelfModifying) else ("q", "k", "v")
    for piece in tokens.split(size, dim=1):
        if piece.shape[1] < size:
            return
        trace = Trace(names)
        _, after = model(piece, state, trace)
        for i, memory in enumerate(memories):
            q, k, v = (trace[f"layers.{i}.{name}"].transpose(1, 2) for name in names)  # (b, h, t, f)
            before = read_function(memory, memory_state(state.layers[i]))
            # Self-modifying Titans make the target themselves, at the boundary.
            target = before(v) if isinstance(memory, SelfModifying) else v
            yield Chunk(q, k, target, before, read_function(memory, memory_state(after.layers[i])))
        state = after


@torch.no_grad()
def inner_losses(model: LanguageModel, tokens: Tensor) -> dict[str, float | None]:
    """|f(x) - v|^2 over |v|^2 before and after each chunk's write, at its keys and at its queries."""
    sums = dict.fromkeys(("before_k", "after_k", "before_q", "after_q"), 0.0)
    whole = 0.0
    for chunk in chunks(model, tokens):
        whole += chunk.v.square().sum()
        for when, read in (("before", chunk.before), ("after", chunk.after)):
            for where, x in (("k", chunk.k), ("q", chunk.q)):
                sums[f"{when}_{where}"] += (read(x) - chunk.v).square().sum()
    return {name: number(total / whole) for name, total in sums.items()}


@torch.no_grad()
def distances(model: LanguageModel, tokens: Tensor, about: dict) -> dict[str, float | None]:
    """How far queries lie from keys; `units` of the recording says what each number is."""
    every = list(chunks(model, tokens))
    q = torch.cat([chunk.q for chunk in every], dim=2).double()  # (b, h, t, f)
    k = torch.cat([chunk.k for chunk in every], dim=2).double()
    measured = {
        "frechet": number(frechet(q, k)),
        "frechet_keys": number(frechet(*k[: len(k) // 2 * 2].chunk(2))),
        "cosine": number(cosine_similarity(q, k, dim=-1).mean()),
    }
    if about["kind"] == "recall" and len(model.layers) == 1:
        measured |= asked_and_written(q, k, questions_of(about))
    return measured


def asked_and_written(q: Tensor, k: Tensor, task: Recall) -> dict[str, float | None]:
    """Cosines of a question's query and the keys that stand where values were written: its own value's, the others'."""
    written = k[:, :, 1 : 2 * task.pairs : 2]  # pair after pair: a key's token, its value's
    to_own, to_others = [], []
    for row, position in task.mask.nonzero().tolist():
        cosines = cosine_similarity(q[row, :, position, None], written[row], dim=-1)  # (h, pairs)
        pair = (position - int(task.age[row, position]) - 1) // 2
        to_own.append(cosines[:, pair])
        to_others.append((cosines.sum(1) - cosines[:, pair]) / (task.pairs - 1))
    return {"cosine_asked": number(torch.cat(to_own).mean()), "cosine_others": number(torch.cat(to_others).mean())}


def frechet(one: Tensor, other: Tensor) -> Tensor:
    """|m - n|^2 + tr(C + D - 2 (C D)^(1/2)), the squared 2-Wasserstein distance of Gaussians, over the mean of both
    sets' mean square; (b, h, t, f) each, the mean over heads."""
    # One row per token, for each head: (h, b t, f).
    per_head = zip(one.transpose(0, 1).flatten(1, 2), other.transpose(0, 1).flatten(1, 2))
    shares = []
    for x, y in per_head:
        C, D = torch.cov(x.T, correction=0), torch.cov(y.T, correction=0)  # (f, f)
        size = (x.square().sum(1).mean() + y.square().sum(1).mean()) / 2
        root = torch.linalg.eigvals(C @ D).real.clamp_min(0).sqrt().sum()  # tr (C D)^(1/2)
        distance = (x.mean(0) - y.mean(0)).square().sum() + C.trace() + D.trace() - 2 * root
        shares.append(distance / size)
    return torch.stack(shares).mean()
