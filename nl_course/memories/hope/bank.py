"""What the memories of a self-modifying Titans are, and how several of them are computed as one.

    M(z) = z + act(z W_into) W_out       two layers with a residual path (eq. 89); step and retention answer with one
                                         number and have no residual path: act(z W_into) W_out
    M(z) = z W_out                       linear

(Behrouz et al. 2025, arXiv 2512.24695.) `Network` is one of them. All memories meet the same inputs, so those that move
at one clock stand in a `Bank`: one matrix product then serves them all. Their first layers are the columns of one
matrix `into`. Their second layers are stacked: `vector` holds those that answer with a vector, `scalar` those that
answer with one number.

Axes: b batch, h heads, n memories of a bank, t tokens, f head width, m hidden width. Rows are vectors, y = x W.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nl_course.memories.common.inner_model import ACTIVATIONS
from nl_course.memories.common.weights import Weights

VECTOR = ("key", "value", "query", "memory")  # memories that answer with a vector of the head's width
SCALAR = ("step", "retention")  # memories that answer with one number
TINY = 1e-6  # added to |a|^2 where a layer's input is scaled to length 1


class FastWeights(NamedTuple):
    """A bank's weights while it reads: at the last boundary (`anchor`), after the last token (`running`), and their
    `momentum`, empty without."""

    anchor: Weights
    running: Weights
    momentum: Weights


class Rule(NamedTuple):
    """How memories are written: `erase` "per-layer", "input" or "off"; the `momentum` beta; which gradients `stop`
    (config.py); the `sign` of the gradient's step, 1 or, to climb the loss instead, -1."""

    erase: str
    momentum: float
    stop: str
    sign: int = 1


class RankOneGrad(NamedTuple):
    """The gradient of each token's loss by one layer's weights, as the outer product that it is: input^T error.

    `input` (.., t, in) what the layer was given, `error` (.., t, out) what came back to it, and `output` (.., t, out),
    input @ W: what the layer gave, with its weights at the anchor."""

    input: Tensor
    error: Tensor
    output: Tensor


class Network(NamedTuple):
    """One memory M (eq. 89). Its weights: "into" (b, h, f, m) and "out" (b, h, m, f or 1); linear, "out" alone."""

    activation: str
    residual: bool

    def inputs(self, M: Weights, z: Tensor) -> Weights:
        """What each layer is given for z (b, h, t, f), by the layer's name: (b, h, t, f) and (b, h, t, m)."""
        if "into" not in M:
            return Weights(out=z)
        return Weights(into=z, out=ACTIVATIONS[self.activation].value(z @ M["into"]))

    def read(self, M: Weights, z: Tensor) -> Tensor:
        """M(z), (b, h, t, f or 1), for z (b, h, t, f)."""
        y = self.inputs(M, z)["out"] @ M["out"]
        return z + y if self.residual else y

    def loss(self, M: Weights, k: Tensor, target: Tensor) -> Tensor:
        """|M(k) - target|^2 / 2 of each token, (b, h, t): half the square, whose gradient is the one of eq. 93."""
        return (self.read(M, k) - target).square().sum(-1) / 2


@dataclass(frozen=True)
class Bank:
    """Memories at one clock, by name, those that answer with a vector first. Base of the two kinds below.

    `weights` is always the bank's own packing of its memories' weights, and `outputs` the same packing of answers."""

    names: tuple[str, ...]
    width: int

    @property
    def vectors(self) -> tuple[str, ...]:
        """The memories that answer with a vector."""
        return tuple(name for name in self.names if name in VECTOR)

    @property
    def scalars(self) -> tuple[str, ...]:
        """The memories that answer with one number."""
        return tuple(name for name in self.names if name in SCALAR)

    def network(self, name: str) -> Network:
        """The memory of that name by itself."""
        raise NotImplementedError

    def gather(self, memories: Mapping[str, Weights]) -> Weights:
        """The bank's weights from each memory's own, {"into" (.., f, m), "out" (.., m, f or 1)}."""
        raise NotImplementedError

    def spread(self, weights: Weights) -> dict[str, Weights]:
        """The inverse of `gather`: every memory's own weights by its name."""
        raise NotImplementedError

    def outputs(self, weights: Weights, z: Tensor) -> Weights:
        """All memories' answers to z (b, h, t, f), packed."""
        raise NotImplementedError

    def unpack(self, outputs: Weights) -> dict[str, Tensor]:
        """Each memory's own part of packed answers or targets, (b, h, t, f or 1) by name."""
        raise NotImplementedError

    def targets(self, v: Tensor, numbers: list[Tensor]) -> Weights:
        """Packed targets that all memories share: v (b, h, t, f), and for each memory that answers with one number
        what it shall answer (b, h, t)."""
        raise NotImplementedError

    def inputs(self, weights: Weights, k: Tensor) -> Weights:
        """What each layer is given for keys k (b, h, t, f), by its weights' name."""
        raise NotImplementedError

    def rank_one_grads(
        self, anchor: Weights, k: Tensor, v: Tensor | None, shared_targets: Weights | None, stop: bool
    ) -> dict[str, RankOneGrad]:
        """Every layer's gradients on the pairs k, v (b, h, t, f), by its weights' name, in closed form.

        The target of a memory is its own answer to v, or its part of `shared_targets` (then v is not looked at). It is
        a constant of the inner gradient, and with `stop` of the outer one too."""
        raise NotImplementedError

    def read_running(self, writes: Mapping, before: Weights, q: Tensor) -> Tensor:
        """What a bank of M_memory alone answers to q (b, h, t, f) with each token's own write in it, (b, h, t, f).
        `writes`: each layer's `LayerWrite` (chunk.py) by its weights' name; `before`: the weights before them, for a
        layer that is not written."""
        raise NotImplementedError

    def read(self, weights: Weights, z: Tensor) -> dict[str, Tensor]:
        """Every memory's answer to z (b, h, t, f): (b, h, t, f or 1) by name."""
        return self.unpack(self.outputs(weights, z))


@dataclass(frozen=True)
class LinearBank(Bank):
    """Linear memories. Weights: out (b, h, f, columns), the answers of all memories side by side."""

    def network(self, name: str) -> Network:
        """One matrix; no activation follows it and no residual path goes around it."""
        return Network(activation="silu", residual=False)

    def gather(self, memories: Mapping[str, Weights]) -> Weights:
        """The matrices of all memories side by side."""
        return Weights(out=torch.cat([memories[name]["out"] for name in self.names], dim=-1))

    def spread(self, weights: Weights) -> dict[str, Weights]:
        """Each memory's own columns."""
        return {name: Weights(out=own) for name, own in self.unpack(weights).items()}

    def outputs(self, weights: Weights, z: Tensor) -> Weights:
        """All memories' answers to z (b, h, t, f), side by side."""
        return Weights(out=z @ weights["out"])  # (b, h, t, columns)

    def unpack(self, outputs: Weights) -> dict[str, Tensor]:
        """Each memory's own columns of answers, targets or weights (.., columns)."""
        sizes = [self.width] * len(self.vectors) + [1] * len(self.scalars)
        return dict(zip(self.names, outputs["out"].split(sizes, dim=-1)))

    def targets(self, v: Tensor, numbers: list[Tensor]) -> Weights:
        """v (b, h, t, f) once for each memory that answers with a vector, then the `numbers` (b, h, t)."""
        columns = [v] * len(self.vectors) + [number[..., None] for number in numbers]
        return Weights(out=torch.cat(columns, dim=-1))  # (b, h, t, columns)

    def inputs(self, weights: Weights, k: Tensor) -> Weights:
        """The keys themselves."""
        return Weights(out=k)

    def rank_one_grads(
        self, anchor: Weights, k: Tensor, v: Tensor | None, shared_targets: Weights | None, stop: bool
    ) -> dict[str, RankOneGrad]:
        """One gradient for the whole matrix: its error (b, h, t, columns) is that of all memories side by side."""
        if shared_targets:
            target, output = shared_targets["out"], k @ anchor["out"]  # (b, h, t, columns)
        else:
            # One product answers for values and keys alike.
            target, output = (torch.cat([v, k], dim=2) @ anchor["out"]).chunk(2, dim=2)
        if stop:
            target = target.detach()
        return {"out": RankOneGrad(input=k, error=output - target, output=output)}

    def read_running(self, writes: Mapping, before: Weights, q: Tensor) -> Tensor:
        """M_memory's answer to each query with that token's own write in it, (b, h, t, f)."""
        return writes["out"].read(q)


@dataclass(frozen=True)
class MLPBank(Bank):
    """Memories of two layers, `hidden` numbers wide between them.

    Weights: into (b, h, f, n m), vector (b, h, n, m, f), scalar (b, h, n, m, 1), each n its own number of memories."""

    hidden: int
    activation: str = "silu"

    def network(self, name: str) -> Network:
        """Two layers; a residual path where the answer is a vector."""
        return Network(activation=self.activation, residual=name in VECTOR)

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """The memories in each stack of second layers, by the stack's name; a stack without memories is left out."""
        stacks = {"vector": self.vectors, "scalar": self.scalars}
        return {part: names for part, names in stacks.items() if names}

    def gather(self, memories: Mapping[str, Weights]) -> Weights:
        """First layers side by side, second layers stacked."""
        weights = Weights(into=torch.cat([memories[name]["into"] for name in self.names], dim=-1))  # (.., f, n m)
        for part, names in self.parts.items():
            weights[part] = torch.stack([memories[name]["out"] for name in names], dim=-3)  # (.., n, m, f or 1)
        return weights

    def spread(self, weights: Weights) -> dict[str, Weights]:
        """Each memory's own two layers."""
        first = weights["into"].split(self.hidden, dim=-1)  # n of (.., f, m)
        second = [own for part in self.parts for own in weights[part].unbind(-3)]  # n of (.., m, f or 1)
        return {name: Weights(into=into, out=out) for name, into, out in zip(self.names, first, second)}

    def outputs(self, weights: Weights, z: Tensor) -> Weights:
        """Answers to z (b, h, t, f): vector (b, h, n, t, f), scalar (b, h, n, t, 1)."""
        _, features = self._first_layers(weights, z)
        return self._add_residual(self._second_layers(weights, features), z)

    def unpack(self, outputs: Weights) -> dict[str, Tensor]:
        """Each memory's own layer of the stacks, (b, h, t, f or 1)."""
        answers = []
        for part, names in self.parts.items():
            # A target that memories share is there once: (b, h, 1, t, f).
            stack = outputs[part].expand(-1, -1, len(names), -1, -1)  # (b, h, n, t, f or 1)
            answers.extend(stack.unbind(2))  # n of (b, h, t, f or 1)
        return dict(zip(self.names, answers))

    def targets(self, v: Tensor, numbers: list[Tensor]) -> Weights:
        """vector (b, h, 1, t, f), once for all memories; scalar (b, h, n, t, 1)."""
        targets = Weights()
        if self.vectors:
            targets["vector"] = v[:, :, None]  # (b, h, 1, t, f)
        if self.scalars:
            targets["scalar"] = torch.stack(numbers, dim=2)[..., None]  # (b, h, n, t, 1)
        return targets

    def inputs(self, weights: Weights, k: Tensor) -> Weights:
        """into (b, h, t, f): the keys; vector and scalar (b, h, n, t, m): what the first layers make of them."""
        _, features = self._first_layers(weights, k)
        return Weights(into=k, **features)

    def rank_one_grads(
        self, anchor: Weights, k: Tensor, v: Tensor | None, shared_targets: Weights | None, stop: bool
    ) -> dict[str, RankOneGrad]:
        """By backpropagation written out: the errors of the second layers come back through them to the first."""
        # Where memories make their own targets, values go through the same products as keys, in rows before theirs.
        rows = k if shared_targets else torch.cat([v, k], dim=2)  # (b, h, t or 2t, f)
        hidden, features = self._first_layers(anchor, rows)
        layer_outputs = self._second_layers(anchor, features)
        answers = self._add_residual(layer_outputs, rows)
        if shared_targets:
            targets = shared_targets
        else:
            values, keys = slice(None, k.shape[2]), slice(k.shape[2], None)
            targets = _rows(answers, values)
            hidden = hidden[:, :, keys]  # (b, h, t, n m)
            features, layer_outputs = _rows(features, keys), _rows(layer_outputs, keys)  # (b, h, n, t, ..)
            answers = _rows(answers, keys)
        gradients, errors_back = {}, []
        for part, answer in answers.items():
            target = targets[part].detach() if stop else targets[part]
            error = answer - target  # of |answer - target|^2 / 2, (b, h, n, t, f or 1)
            gradients[part] = RankOneGrad(input=features[part], error=error, output=layer_outputs[part])
            errors_back.append(error @ anchor[part].mT)  # (b, h, n, t, m)
        # The errors of all memories, side by side like the columns of `into`.
        error = _joined(errors_back, dim=2).transpose(2, 3).flatten(3)  # (b, h, t, n m)
        error = error * ACTIVATIONS[self.activation].slope(hidden)
        return {"into": RankOneGrad(input=k, error=error, output=hidden), **gradients}

    def read_running(self, writes: Mapping, before: Weights, q: Tensor) -> Tensor:
        """M_memory's answer to each query with that token's own write in it, (b, h, t, f)."""
        hidden = writes["into"].read(q) if "into" in writes else q @ before["into"]  # (b, h, t, m), of one memory
        features = self._apart(ACTIVATIONS[self.activation].value(hidden))  # (b, h, 1, t, m)
        return writes["vector"].read(features).squeeze(2) + q  # (b, h, t, f)

    def _first_layers(self, weights: Weights, z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """z W_into (b, h, t, n m), and act of it for each stack, (b, h, n, t, m)."""
        hidden = z @ weights["into"]
        features = self._apart(ACTIVATIONS[self.activation].value(hidden))  # (b, h, n, t, m)
        counts = [len(names) for names in self.parts.values()]
        return hidden, dict(zip(self.parts, features.split(counts, dim=2)))

    def _second_layers(self, weights: Weights, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each stack's features @ W_out, (b, h, n, t, f or 1), without the residual path."""
        return {part: a @ weights[part] for part, a in features.items()}

    def _add_residual(self, outputs: Mapping[str, Tensor], z: Tensor) -> Weights:
        """z is added where the answer is a vector: one number has no place for it."""
        answers = Weights(outputs)
        if "vector" in answers:
            answers["vector"] = answers["vector"] + z[:, :, None]  # (b, h, n, t, f)
        return answers

    def _apart(self, x: Tensor) -> Tensor:
        """(b, h, t, n m) -> (b, h, n, t, m)."""
        return x.unflatten(-1, (-1, self.hidden)).transpose(2, 3)


def _rows(packed: Mapping[str, Tensor], rows: slice) -> dict[str, Tensor]:
    """Some tokens of packed outputs (b, h, n, t, ..)."""
    return {part: y[..., rows, :] for part, y in packed.items()}


def _joined(tensors: list[Tensor], dim: int) -> Tensor:
    """`torch.cat`, without the copy where there is only one."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim=dim)
