"""The wirings of Titans, one thing changed at a time: why do MAC, MAG and MAL learn to recall, or fail to?

The paper leaves open where residual paths go, what form the gate has, and how attention starts. Here each layer is
trained as the course has it, and again with one of these choices taken back. Task and models are those of the frontier
(frontier.py) at its middle size, three seeds each, all at one rate.

Of MAC and MAG the recording also says, at some steps of the training, what reaches the memory (`signals`):

    attention    root mean square of what attention adds, over that of the rows it is added to
    own, other   how alike the query of a question is to the key under which its pair was written, and to the keys of
                 the row's other pairs: means of cosines. A memory can only tell pairs apart if `own` is the larger
    gradient     norms of the loss's gradient in the weights of the memory, of attention and of their merging

A part is one layer from one seed:

    nl-course record wirings                                    everything that is missing
    python -m nl_course.record.wirings "mac, gate of vectors" middle 0
"""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nl_course.memories import Trace
from nl_course.memories.titans.hybrid import Hybrid
from nl_course.model import LanguageModel
from nl_course.record.frontier import Frontier
from nl_course.record.protocol import Trial
from nl_course.record.recipe import Part
from nl_course.tasks.recall import Recall, mqar, recall_loss
from nl_course.training import Run

GROUPS = {"memory": "neural.", "attention": "attention.", "merging": "merge."}  # beginnings of parameters' names
WATCHED_ROWS = 32


class Wirings(Frontier):
    """Recall of each wiring. A part is (layer, size, seed); a layer is named by what is changed in it."""

    name = "wirings"

    def trial(self, rate: float, seed: int, name: str, size: str) -> Trial:
        """As the frontier's. `attention_drawn` in the config: MAC's attention starts like any other linear layer."""
        trial = super().trial(rate, seed, name, size)
        if not self.config["models"][name].get("attention_drawn"):
            return trial
        drawn = partial(draw_attention, seed=seed)
        return replace(trial, taught={**trial.taught, "attention_drawn": True}, prepare=drawn)

    def make(self, folder: Path, name: str, size: str, seed: int) -> Part:
        """As the frontier's, with the signals on the way."""
        self.signals: list[dict[str, Any]] = []
        part = super().make(folder, name, size, seed)
        return {**part, "signals": self.signals}

    def trained(self, folder: Path, *key: Any) -> tuple[LanguageModel, Run]:
        """As the frontier's; looks at the model at some steps."""
        trial = self.reported(*key)
        looked_at = self.config["looked_at"]
        task = mqar(WATCHED_ROWS, trial.training.length, max(self.config["pairs"]), trial.shape.vocab, seed=10**9 + 1)

        def watch(model: LanguageModel, step: int) -> None:
            """Notes the signals in the first layer at the steps that are asked for, where it joins two parts."""
            if step in looked_at and hasattr(model.layers[0].memory, "merge"):
                self.signals.append({"step": step, **signals(model, task)})

        return trial.run(folder, self.device, watch)

    def kept_of_runs(self) -> tuple[str, ...]:
        """With the signals of each run."""
        return (*super().kept_of_runs(), "signals")


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Makes the parts that are missing; writes `runs/wirings.json`."""
    return Wirings(device, quick, assets).run(assets)


@torch.no_grad()
def draw_attention(model: LanguageModel, seed: int) -> None:
    """Draws N(0, 1/inputs) for the last matrix of attention, as `parts.begin` does for other linear layers."""
    weight = model.layers[0].memory.attention.output.weight  # (d, d)
    rng = torch.Generator().manual_seed(seed)
    weight.copy_(torch.randn(weight.shape, generator=rng) * weight.shape[1] ** -0.5)


# -- what reaches the memory -------------------------------------------------------------------------------------------
def signals(model: LanguageModel, task: Recall) -> dict[str, Any]:
    """What reaches the memory of a one-layer model with MAC or MAG; see the head of this file."""
    layer = model.layers[0].memory
    given: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, arguments: given.append(arguments[0].detach()))
    trace = Trace(only=("q", "k", "attended"))
    try:
        logits, _ = model(task.tokens, None, trace)
    finally:
        hook.remove()
    (x,) = given  # (b, t, d)
    loss = recall_loss(logits, task)
    own, other = likeness(trace["layers.0.q"], trace["layers.0.k"], task)
    return {
        "loss": round(loss.item(), 4),
        "attention": round(attention_share(layer, x, trace["layers.0.attended"]), 4),
        "own": round(own, 4),
        "other": round(other, 4),
        "gradient": gradients(layer, loss),
    }


def attention_share(layer: Hybrid, x: Tensor, y: Tensor) -> float:
    """Root mean square of what attention adds to x (b, t, d), over that of x. y (b, t, d) is what came of it."""
    added = y - x if layer.config.attention_residual else y
    return float(added.pow(2).mean().sqrt() / x.pow(2).mean().sqrt())


def likeness(q: Tensor, k: Tensor, task: Recall) -> tuple[float, float]:
    """Mean cosine of each question's query with the key at its own pair's value, and with the keys at the row's other
    values: q, k (b, t, h, f), of length 1. A value's key has its pair's key in it, by the convolution."""
    rows, asked_at = task.mask.nonzero(as_tuple=True)  # (questions,) each
    value_at = asked_at - task.age[rows, asked_at]  # (questions,)
    every_value = 2 * torch.arange(task.pairs) + 1  # (pairs,)
    asked = q[rows, asked_at]  # (questions, h, f)
    keys = k[rows][:, every_value]  # (questions, pairs, h, f)
    cosines = (asked[:, None] * keys).sum(-1).mean(-1)  # (questions, pairs)
    is_own = every_value == value_at[:, None]  # (questions, pairs)
    return float(cosines[is_own].mean()), float(cosines[~is_own].mean())


def gradients(layer: nn.Module, loss: Tensor) -> dict[str, float]:
    """The norm of the loss's gradient in each group of the layer's weights."""
    norms = {}
    for group, beginning in GROUPS.items():
        weights = [weight for name, weight in layer.named_parameters() if name.startswith(beginning)]
        found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
        squares = [float(gradient.pow(2).sum()) for gradient in found if gradient is not None]
        norms[group] = round(sum(squares) ** 0.5, 5)
    return norms


if __name__ == "__main__":
    which, of_size, *numbers = sys.argv[1:]
    for number in numbers:
        Wirings().part(which, of_size, int(number))
