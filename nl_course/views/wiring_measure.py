"""What the wiring view measures on a real layer of LMM, MAC, MAG or MAL: who sees what, bytes by part, and each cut.

"Sees" is measured, not drawn: every word of the text in turn is replaced by noise where the layer reads it, and what
changes at the end of each word, in each part, is held against the layer's reading of the text as it stands.
"""

from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from nl_course.errors import CourseError, check_choice
from nl_course.files import asset
from nl_course.memories import Memory, Trace, build_memory
from nl_course.memories.ablations.switches import ablate, ablated
from nl_course.memories.titans.hybrid import Hybrid
from nl_course.model import LanguageModel, ModelConfig
from nl_course.seeding import seeded
from nl_course.tasks.needle import NeedleTask
from nl_course.tasks.needle_scores import needle_accuracy
from nl_course.tasks.text import encode
from nl_course.training.checkpoint import load_model
from nl_course.views.attention_reading import labels, words

KINDS = {"LMM": "titans", "MAC": "mac", "MAG": "mag", "MAL": "mal"}
CUTS = ("nothing", "memory", "attention", "persistent")
NEAR = 16  # bytes of a segment and of a window, in the untrained layers
LONGEST, MOST_WORDS = 160, 40
UNSEEN = 1e-10  # a relative change up to here is rounding

# What is looked at in each: a name, the trace it comes from ("" for the output), and the part it belongs to.
LOOKED_AT = {
    "LMM": (("memory, read after the write", "", "memory"),),
    "MAC": (
        ("1 retrieved, h", "retrieved", "memory"),
        ("2 attended, y", "attended", "attention"),
        ("4 read again, m", "remembered", "memory"),
        ("5 output", "", ""),
    ),
    "MAG": (("1 attended, y", "attended", "attention"), ("3 read, m", "remembered", "memory"), ("4 output", "", "")),
    "MAL": (("2 read, added to x", "remembered", "memory"), ("3 output of attention", "", "")),
}


def trained(name: str) -> bool:
    """Whether the course's recorded needle model of this kind is there."""
    try:
        return asset(f"checkpoints/needle-{KINDS[name]}.safetensors").exists()
    except CourseError:
        return False


@lru_cache(maxsize=8)
def model_of(name: str, learned: bool) -> LanguageModel:
    """The recorded needle model, or a small seeded one that has learned nothing."""
    kind = KINDS[check_choice("architecture", name, KINDS)]
    if learned:
        return load_model(asset(f"checkpoints/needle-{kind}.safetensors")).eval()
    near = {}
    if kind != "titans":
        near["segment" if kind == "mac" else "window"] = NEAR
    options = dict(layers=2, expansion=2, chunk=8, persistent=2, **near)
    config = ModelConfig(width=32, layers=1, heads=2, hidden=64, memory=kind, options=options)
    with seeded(0):
        model = LanguageModel(config).eval()
        model.layers[0].memory = build_memory(kind, 32, 2, **options)  # with weights large enough to see what they do
    return model


@dataclass(frozen=True)
class Measured:
    """One text in one layer. `seen` by part (g, g): the relative change of the part at the end of the reader's word
    (row) when a word (column) is another, NaN ahead of it; `bytes` by part; `change` of the output by what is cut.
    `residual`: there is a residual path around the layer's attention."""

    names: list[str]
    ends: np.ndarray
    seen: dict[str, np.ndarray]
    bytes: dict[str, int]
    cache: int
    change: dict[str, float]
    near: int
    residual: bool


def measure(name: str, learned: bool, cut: str, text: str) -> Measured:
    """All that one picture needs; another token in it costs nothing more, another cut only what that one changes."""
    tokens = encode(text).numpy()
    groups = words(tokens)
    if not 2 <= len(tokens) <= LONGEST or groups.max() + 1 > MOST_WORDS:
        raise CourseError(f"the text must have 2 to {LONGEST} bytes and at most {MOST_WORDS} words.")
    layer = model_of(name, learned).layers[0].memory
    near = getattr(layer.config, "segment", None) or getattr(layer.config, "window", len(tokens))
    return Measured(
        names=labels(tokens, groups),
        ends=np.array([np.flatnonzero(groups == g)[-1] for g in range(groups.max() + 1)]),
        seen=seen(name, learned, check_choice("cut", cut, CUTS) if isinstance(layer, Hybrid) else CUTS[0], text),
        bytes=bytes_by_part(name, learned, text),
        cache=2 * layer.config.width * len(tokens) * layer.dtype.itemsize,
        change=changes(name, learned, text),
        near=near,
        residual=getattr(layer.config, "attention_residual", False),
    )


@lru_cache(maxsize=32)
@torch.no_grad()
def changes(name: str, learned: bool, text: str) -> dict[str, float]:
    """By part, |output without it - output| / |output| over the whole text; {} where there is nothing to cut."""
    layer, x = _layer_and_input(name, learned, text)
    whole, found = layer(x)[0], {}
    for part in CUTS[1:] if isinstance(layer, Hybrid) else ():
        ablate(layer, without=(part,))
        found[part] = float((layer(x)[0] - whole).norm() / whole.norm())
    return found


@lru_cache(maxsize=64)
@torch.no_grad()
def seen(name: str, learned: bool, cut: str, text: str) -> dict[str, np.ndarray]:
    """See `Measured`. The text and, as further rows of one batch, the text with one word replaced each."""
    layer, x = _layer_and_input(name, learned, text)
    if cut != CUTS[0]:
        ablate(layer, without=(cut,))
    groups = words(encode(text).numpy())
    count, noise = groups.max() + 1, torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    replaced = torch.from_numpy(np.arange(count)[:, None] == groups)[..., None]
    rows = torch.cat([x, torch.where(replaced, noise * x.square().mean().sqrt(), x)])
    trace = Trace([source for _, source, _ in LOOKED_AT[name] if source])
    y, _ = layer(rows, None, trace)
    ends = [int(np.flatnonzero(groups == g)[-1]) for g in range(count)]
    found = {}
    for looked_at, source, part in LOOKED_AT[name]:
        at = (trace[source] if source else y)[:, ends]  # (1 + words replaced, words reading, d)
        change = ((at[1:] - at[:1]).norm(dim=-1) / at[:1].norm(dim=-1).clamp_min(1e-12)).T.numpy()
        ahead = np.triu(np.ones_like(change, dtype=bool), 1) & (change <= UNSEEN)
        found[looked_at] = np.where(ahead | (part == cut), np.nan, np.where(change > UNSEEN, change, 0.0))
    return found


def _layer_and_input(name: str, learned: bool, text: str) -> tuple[Memory, Tensor]:
    """A copy of the first layer's memory in double precision, and what it is given for the text, (1, t, d)."""
    model, given = model_of(name, learned), []
    hook = model.layers[0].memory.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    model(encode(text)[None])
    hook.remove()
    return deepcopy(model.layers[0].memory).double(), given[0].double()


@lru_cache(maxsize=32)
@torch.no_grad()
def bytes_by_part(name: str, learned: bool, text: str) -> dict[str, int]:
    """Bytes of the layer's state after the text, by the part that keeps them, in the precision of the model."""
    _, state = model_of(name, learned)(encode(text)[None])
    found = {"memory": 0, "attention": 0, "persistent": 0, "convolutions": 0}
    for path, tensor in state.memory(0).tensors().items():
        if path.startswith(("neural", "segment_memory")):
            part = "memory"
        elif "conv_state" in path:
            part = "convolutions"
        elif "prefix" in path:
            part = "persistent"
        else:
            part = "attention"
        found[part] += tensor.numel() * tensor.element_size()
    return found


@lru_cache(maxsize=32)
def recall(name: str, cut: str, length: int, rows: int = 8) -> float:
    """The share of pass keys in `length` bytes that the trained model says exactly, with one part cut in all layers."""
    model = model_of(name, True)
    with ablated(model, without=() if cut == CUTS[0] else (cut,)):
        return needle_accuracy(model, NeedleTask("passkey", length=length), rows=rows, batch=rows)[0].accuracy
