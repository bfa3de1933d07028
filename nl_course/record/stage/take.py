"""A take: everything that the stage draws of one text, as JSON. The live view sends it, a recording stores it.

    {"format": 1, "text", "words": [[first, last], ...], "fact": {key, answer, first, last, answer_first, answer_last},
     "shown": {"memory", "head"},
     "memories": [{"name", "label", "parameters", "bytes": [after 0, 1, ... tokens], "turns": whether a kernel can turn
                   its gates,
                   "checkpoints": [{"step", "heads": [...], "next_loss", "answers": {at, probability, said},
                                    "outer": {mode: {loss, start, value, key, gates, ...}} for Titans}],
                   "cache": numbers of each token for attention}]}

A head has its numbers as {"shape", "f16"} or {"shape", "f32"}, base64 of little-endian floats: keys, values and caches
in half precision, which no picture can tell from more; gates, starts and losses in single precision.
"""

import base64
from typing import Any

import numpy as np
import torch

from nl_course.errors import CourseError
from nl_course.memories.attention.attention import Attention
from nl_course.memories.titans.lmm import Titans
from nl_course.model import LanguageModel
from nl_course.record.stage.gradient import MODES, WalkBack, can_walk_back, walk_back
from nl_course.record.stage.reading import Answers, Gains, Head, Reading, ask, gates_turned, read
from nl_course.record.stage.text import StageText
from nl_course.tasks.text import encode

FORMAT = 1
LABELS = {
    "titans": "Titans",
    "gated-delta": "Gated DeltaNet",
    "ttt-linear": "TTT-Linear",
    "self-modifying": "self-modifying",
    "attention": "attention",
}
NO_GAINS = Gains()


def packed(array: np.ndarray, kind: str = "f32") -> dict[str, Any]:
    """An array as JSON; `kind` is "f16" or "f32"."""
    numbers = np.ascontiguousarray(array, dtype={"f16": "<f2", "f32": "<f4"}[kind])
    return {"shape": list(numbers.shape), kind: base64.b64encode(numbers.tobytes()).decode("ascii")}


def unpacked(form: dict[str, Any]) -> np.ndarray:
    """The array that `packed` made, in float32."""
    kind = "f16" if "f16" in form else "f32"
    numbers = np.frombuffer(base64.b64decode(form[kind]), dtype={"f16": "<f2", "f32": "<f4"}[kind])
    return numbers.reshape(form["shape"]).astype(np.float32)


def head_form(head: Head) -> dict[str, Any]:
    """One head as JSON: what the recurrence needs, and no more."""
    return {
        "layer": head.layer + 1,
        "head": head.head + 1,
        "errors": head.errors,
        "key": packed(head.key, "f16"),
        "value": packed(head.value, "f16"),
        "step": packed(head.step),
        "momentum": packed(head.momentum),
        "keep": packed(head.keep),
        "start": packed(head.start),
    }


def answers_form(answers: Answers) -> dict[str, Any]:
    """The answers after each word: bytes read, probabilities, and what was said."""
    return {
        "at": list(answers.at),
        "probability": [float(f"{share:.4g}") for share in answers.probability],
        "said": list(answers.said),
    }


def checkpoint_form(
    model: LanguageModel, text: StageText, step: int, gains: Gains = NO_GAINS, outer: bool = True
) -> tuple[dict[str, Any], Reading]:
    """One model's reading of the text with its answers, and the reading itself."""
    tokens = encode(text.text)
    ends = [last + 1 for _, last in text.words]
    with gates_turned(model, gains):
        reading = read(model, tokens)
        answers = ask(model, tokens, ends, encode(text.question), encode(text.answer))
    form = {
        "step": step,
        "heads": [head_form(head) for head in reading.heads],
        "next_loss": packed(reading.next_loss),
        "answers": answers_form(answers),
    }
    if outer and can_walk_back(model):
        form["outer"] = outer_form(model, text)
    return form, reading


def memory_form(
    name: str, models: dict[int, LanguageModel], text: StageText, gains: Gains = NO_GAINS, outer: bool = True
) -> tuple[dict[str, Any], dict[int, Reading]]:
    """One memory: its models by outer step, first to last, as they read the text; and the readings."""
    checkpoints, readings = [], {}
    for step, model in models.items():
        form, readings[step] = checkpoint_form(model, text, step, gains, outer)
        checkpoints.append(form)
    last = list(models.values())[-1]
    form = {
        "name": name,
        "label": LABELS.get(name, name),
        "parameters": last.parameter_count(),
        "bytes": [int(count) for count in readings[list(models)[-1]].state_bytes],
        "turns": isinstance(last.layers[0].memory, Titans),
        "checkpoints": checkpoints,
    }
    if isinstance(last.layers[0].memory, Attention):
        form["cache"] = packed(cache_columns(last, text), "f16")
    return form, readings


@torch.no_grad()
def cache_columns(model: LanguageModel, text: StageText) -> np.ndarray:
    """What attention keeps of each token in its first layer, (t, 2, numbers): keys, then values."""
    _, state = model(encode(text.text)[None], None)
    inner = state.layers[0]
    inner = getattr(inner, "memory", inner)  # inside a BlockState where there is a convolution
    columns = [cache.columns[0].transpose(0, 1).flatten(1) for cache in (inner.key, inner.value)]  # (t, g d) each
    return torch.stack(columns, dim=1).numpy()


def outer_form(model: LanguageModel, text: StageText) -> dict[str, Any]:
    """The gradient of the answer's loss, walked back through every write, in each mode."""
    tokens, question, answer = encode(text.text), encode(text.question), encode(text.answer)
    return {mode: walk_form(walk_back(model, tokens, question, answer, mode)) for mode in MODES}


def walk_form(walk: WalkBack) -> dict[str, Any]:
    """A `WalkBack` as JSON."""
    form: dict[str, Any] = {"loss": float(f"{walk.loss:.4g}"), "start": float(f"{walk.start:.4g}")}
    for name in ("value", "key", "gates", "value_weights", "key_weights"):
        form[name] = packed(getattr(walk, name))
    return form


def shown_head(readings: dict[int, Reading], text: StageText) -> int:
    """The head to open with: the one whose writes at the answer stand out most from its writes elsewhere."""
    last = readings[max(readings)]
    first, stop = text.answer_at
    inside = np.zeros(len(encode(text.text)), dtype=bool)
    inside[first:stop] = True
    contrasts = []
    for head in last.heads:
        moved = np.diff(np.concatenate([head.start[None], head.matrices()]), axis=0)
        sizes = np.linalg.norm(moved, axis=(1, 2))  # (t,)
        contrasts.append(sizes[inside].mean() / (sizes[~inside].mean() + 1e-9))
    return int(np.argmax(contrasts)) if contrasts else 0


def take(
    text: StageText,
    models: dict[str, dict[int, LanguageModel]],
    gains: Gains = NO_GAINS,
    outer: bool = True,
) -> dict[str, Any]:
    """The whole take: `models` has each memory's models by outer step; the first one is shown at first."""
    memories, head = [], None
    for name, by_step in models.items():
        turned = gains if isinstance(by_step[max(by_step)].layers[0].memory, Titans) else NO_GAINS
        form, readings = memory_form(name, by_step, text, turned, outer)
        memories.append(form)
        if head is None:
            head = shown_head(readings, text)
    first, *_ = models
    if gains and not memories[0]["turns"]:
        raise CourseError("only the gates of Titans can be turned on the stage.")
    return {
        "format": FORMAT,
        "text": text.text,
        "words": [list(word) for word in text.words],
        "fact": {
            "key": text.key,
            "answer": text.answer,
            "question": text.question.strip(),
            "first": text.fact[0],
            "last": text.fact[1] - 1,
            "answer_first": text.answer_at[0],
            "answer_last": text.answer_at[1] - 1,
        },
        "shown": {"memory": first, "head": head},
        "memories": memories,
    }
