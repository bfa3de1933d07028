"""One text read once by a small model: every number of every write, as arrays that a picture can replay.

The stage draws memories whose head is one matrix W (m, f) with one write per token. All of them are cases of

    e_t = k_t W - v_t                            the prediction less the value
    S_t = momentum_t S_{t-1} - step_t k_t^T e_t
    W_t = keep_t W_{t-1} + S_t

so that keys, values, three gates per token and the first W are the whole story. They come from the model's own
trace: nothing here is computed a second time. `errors` says where W stands when it predicts: at W_{t-1} ("before", as
in Titans), or at keep_t W_{t-1} ("faded", as in Gated DeltaNet). In self-modifying Titans the write also takes away
what stood under the key ("erased"): S_t = -step_t k_t^T (e_t + k_t W). Its value is what the memory itself makes of v.

Axes: t tokens, m width of a key, f width of a value. Rows are vectors.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nl_course.errors import CourseError, check_int, check_min
from nl_course.memories import Trace
from nl_course.memories.base import Memory
from nl_course.memories.hope.layer import SelfModifying
from nl_course.memories.joining import join, position_period
from nl_course.memories.linear.layer import MatrixMemory
from nl_course.memories.titans.chunk import Gates
from nl_course.memories.titans.lmm import Titans
from nl_course.model import LanguageModel

LONGEST = 400  # bytes of a text on the stage
MOST_MOMENTUM = 0.99


@dataclass(frozen=True)
class Head:
    """One head of one layer (both from 0) at work: key (t, m) and value (t, f), the gates step, momentum and keep (t,),
    the matrix that it starts with (m, f), and, for comparison, prediction and error (t, f), the loss before and after
    each write, and how far the write moves W (t,), all from the model's trace."""

    layer: int
    head: int
    errors: str
    key: np.ndarray
    value: np.ndarray
    step: np.ndarray
    momentum: np.ndarray
    keep: np.ndarray
    start: np.ndarray
    prediction: np.ndarray
    error: np.ndarray
    loss_before: np.ndarray
    loss_after: np.ndarray

    def matrices(self) -> np.ndarray:
        """W after each token, (t, m, f), by the recurrence above."""
        W = self.start.astype(np.float64)
        S = np.zeros_like(W)
        after = []
        for t in range(len(self.key)):
            faded = self.keep[t] * W
            prediction = self.key[t] @ (faded if self.errors == "faded" else W)
            error = prediction - self.value[t]
            written = error + prediction if self.errors == "erased" else error
            S = self.momentum[t] * S - self.step[t] * np.outer(self.key[t], written)
            W = faded + S
            after.append(W)
        return np.stack(after)

    def surprise(self) -> np.ndarray:
        """The norm of each token's gradient k^T e, (t,)."""
        return np.linalg.norm(self.key, axis=1) * np.linalg.norm(self.error, axis=1)


@dataclass(frozen=True)
class Reading:
    """One text, read: the heads of the memory that the stage draws, the loss on each next byte (t - 1,) in nats, and
    the bytes of state after 0, 1, ... t tokens."""

    heads: tuple[Head, ...]
    next_loss: np.ndarray
    state_bytes: np.ndarray


@torch.no_grad()
def read(model: LanguageModel, tokens: Tensor) -> Reading:
    """`model` reads tokens (t,) once, from its learned start. Raises CourseError for a text that is too short or long,
    and for a Titans memory of another form than one plain matrix per head."""
    if not 2 <= len(tokens) <= LONGEST:
        raise CourseError(f"the text must have 2 to {LONGEST} bytes, not {len(tokens)} (é and the like take two).")
    trace = Trace()
    logits, _ = model(tokens[None], None, trace)
    losses = -logits[0, :-1].log_softmax(-1).gather(1, tokens[1:, None])[:, 0]  # (t - 1,)
    heads = []
    for number, layer in enumerate(model.layers):
        heads += _heads(layer.memory, number, trace.scope(f"layers.{number}"))
    sizes = [model.state_bytes(count) for count in range(len(tokens) + 1)]
    return Reading(tuple(heads), losses.numpy(), np.array(sizes))


def _heads(memory: Memory, layer: int, trace: Trace) -> list[Head]:
    """The heads of one layer's memory, from what it traced; none for one that is not such a matrix."""
    if isinstance(memory, Titans):
        return _titans_heads(memory, layer, trace)
    if isinstance(memory, MatrixMemory):
        return _matrix_heads(memory, layer, trace)
    if isinstance(memory, SelfModifying) and can_draw(memory):
        return _self_modifying_heads(memory, layer, trace)
    return []


def can_draw(memory: Memory) -> bool:
    """Whether each head of a memory is one matrix that every token writes."""
    if isinstance(memory, SelfModifying):
        config = memory.config
        one = config.kind == "linear" and config.chunk == config.chunk_others == 1
        return one and config.erase != "off" and not config.momentum
    return isinstance(memory, (Titans, MatrixMemory))


def _titans_heads(memory: Titans, layer: int, trace: Trace) -> list[Head]:
    config = memory.config
    plain = not (config.norm or config.residual or config.bias)
    if config.layers != 1 or config.chunk != 1 or config.persistent or not plain:
        raise CourseError(
            "the stage draws Titans with one plain matrix per head and a write per token: layers=1, chunk=1, "
            "persistent=0, and no norm, residual or bias."
        )
    start = memory.neural.start["W1"]  # (h, m, f)
    names = {"key": "k", "value": "v", "step": "step_size", "momentum": "momentum", "keep": "retention"}
    same = ("prediction", "error", "loss_before", "loss_after")
    rows = _rows(trace, names | {name: name for name in same})
    return [Head(layer, h, "before", start=start[h].numpy(), **rows[h]) for h in range(config.heads)]


def _matrix_heads(memory: MatrixMemory, layer: int, trace: Trace) -> list[Head]:
    """The delta rules: the error is that of the matrix as it stands after it faded."""
    names = {"key": "key", "value": "value", "step": "step_size", "keep": "retention"}
    rows = _rows(trace, names | {name: name for name in ("loss_before", "loss_after")})
    heads = []
    for h, row in enumerate(rows):
        start = np.zeros((row["key"].shape[1], row["value"].shape[1]), dtype=np.float32)
        momentum = np.zeros_like(row["step"])
        head = Head(layer, h, "faded", start=start, momentum=momentum, prediction=None, error=None, **row)
        predictions = _predictions(head)
        heads.append(Head(**{**vars(head), "prediction": predictions, "error": predictions - head.value}))
    return heads


def _self_modifying_heads(memory: SelfModifying, layer: int, trace: Trace) -> list[Head]:
    """The memory that is read; those of keys, values, step and retention are seen in what they say of each token."""
    names = {"key": "key", "step": "step_size", "keep": "retention"}
    own = {"value": "target", "prediction": "prediction", "loss_before": "loss_before", "loss_after": "loss_after"}
    rows = _rows(trace, names | {name: f"memory.{traced}" for name, traced in own.items()})
    heads = []
    for h, row in enumerate(rows):
        start = memory.start["memory_out"][h].numpy()
        momentum = np.zeros_like(row["step"])
        error = row["prediction"] - row["value"]
        heads.append(Head(layer, h, "erased", start=start, momentum=momentum, error=error, **row))
    return heads


def _predictions(head: Head) -> np.ndarray:
    """What W says of each key just before its write, (t, f)."""
    before = np.concatenate([head.start[None], head.matrices()[:-1]])  # (t, m, f)
    faded = head.keep[:, None, None] * before if head.errors == "faded" else before
    return np.einsum("tm,tmf->tf", head.key, faded).astype(np.float32)


def _rows(trace: Trace, names: dict[str, str]) -> list[dict[str, np.ndarray]]:
    """Of each head, every trace (1, t, h, ...) in `names` as an array (t, ...)."""
    rows: list[dict[str, np.ndarray]] = []
    for name, traced in names.items():
        values = trace[traced][0].transpose(0, 1).numpy()  # (h, t, ...)
        for h, value in enumerate(values):
            if len(rows) <= h:
                rows.append({})
            rows[h][name] = value
    return rows


# -- the gates, turned by hand -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Gains:
    """Factors on what each token decides: its step, its momentum (never above 0.99), and what is kept per token.
    Raises CourseError for factors below 0, and for a keep above 1."""

    step: float = 1.0
    momentum: float = 1.0
    keep: float = 1.0

    def __post_init__(self):
        for name in ("step", "momentum", "keep"):
            check_min(name, getattr(self, name), 0)
        if self.keep > 1:
            raise CourseError(f"keep must be at most 1, not {self.keep}: above it the memory would grow by itself.")

    def __bool__(self) -> bool:
        return self != Gains()


@contextmanager
def gates_turned(model: LanguageModel, gains: Gains) -> Iterator[LanguageModel]:
    """`model` with the gates of all its Titans memories turned, as long as the `with` lasts."""
    memories = [layer.memory.neural for layer in model.layers if isinstance(layer.memory, Titans)]
    if gains and not memories:
        raise CourseError("only the gates of Titans can be turned on the stage.")
    if gains and not all(neural.config.momentum and neural.config.retention for neural in memories):
        raise CourseError("only the gates of Titans with momentum and retention can be turned on the stage.")
    for neural in memories if gains else []:
        # An attribute of the object hides the class's method, and taking it away brings that back.
        object.__setattr__(neural, "gates", _turned_gates(neural.gates, gains))
    try:
        yield model
    finally:
        for neural in memories:
            vars(neural).pop("gates", None)


def _turned_gates(gates: Callable[[Tensor], Gates], gains: Gains) -> Callable[[Tensor], Gates]:
    def with_gains(x: Tensor) -> Gates:
        step, log_momentum, log_retention = gates(x)
        momentum = (log_momentum.exp() * gains.momentum).clamp(1e-12, MOST_MOMENTUM)
        return Gates(step * gains.step, momentum.log(), log_retention + math.log(max(gains.keep, 1e-12)))

    return with_gains


# -- questions ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Answers:
    """What a model answers to one question after each of some bytes: `at` (n,), the probability of the right answer
    (n,), all of its bytes together, and what it says instead of it, the likeliest byte each time."""

    at: tuple[int, ...]
    probability: np.ndarray
    said: tuple[str, ...]


@torch.no_grad()
def ask(model: LanguageModel, tokens: Tensor, ends: list[int], question: Tensor, answer: Tensor) -> Answers:
    """Reads tokens (t,) once. After each of the bytes `ends` (counted from 1) it asks on a branch, so that the reading
    itself never meets a question: the answer's probability, given question (n,) and its own earlier bytes."""
    asked = torch.cat([question, answer])[None, :-1]  # the last byte of the answer is only predicted
    first = len(question) - 1
    state, last = model.init_state(1), 0
    states = []
    for end in ends:
        check_int("end", end, 1, len(tokens))
        _, state = model(tokens[None, last:end], state)
        last = end
        states.append(state)
    if position_period(model) == 1:
        # A memory that counts no positions answers on all branches at once.
        logits, _ = model(asked.expand(len(states), -1), join(model, states))  # (n, t, vocab)
    else:
        logits = torch.cat([model(asked, state)[0] for state in states])
    shares = logits[:, first:].softmax(-1)  # (n, answer, vocab)
    right = shares.gather(2, answer.expand(len(states), -1)[..., None])[..., 0]  # (n, answer)
    said = [bytes(row).decode("latin-1") for row in shares.argmax(-1).tolist()]
    return Answers(tuple(ends), right.prod(dim=1).numpy(), tuple(said))
