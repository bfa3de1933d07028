"""Any composition of the four choices, one token at a time: the definition, and the only path there is.

    kept = fade(M_{t-1})                                              retention
    g_t  = sum over the last c pairs of step_i * grad loss(M; k_i, v_i)   inner loss; c = 1 is one pair per token
    M_t  = kept - g_t                                                 optimizer "descent"
    S_t  = eta_t S_{t-1} - g_t,    M_t = kept + S_t                   optimizer "momentum"
    S_t  = eta_t S_{t-1} - g_t,    M_t = kept + step_t NS(S_t)        optimizer "muon"
    y_t  = M_t(q_t)

The sum over the last c pairs is the Omega rule of ATLAS (Behrouz et al. 2025, arXiv 2505.23735, eq. 9); a pair keeps
the step that its own token chose, as its weight in the sum. With "muon" that step also is the length of the write (eqs.
32 and 33). NS is Newton-Schulz, the same function as in the optimizer Muon.

The four choices leave a fifth one open: at which weights the gradient is taken. `forget` "first" takes it at what
forgetting left, as Gated DeltaNet does; "last" takes it at the memory as it was, as Titans, MIRAS and ATLAS do.

Losses of a pair, with e = M(k) - v:

    inner-product   -<M(k), v>                                  linear attention
    squared         |e|^2 / 2                                   the delta rule, TTT, Titans
    huber           |e|^2 / 2 up to |e| = threshold, then threshold (|e| - threshold / 2)      MIRAS, for Yaad
    l3              sum |e_i|^3 / 3                             MIRAS, for Moneta with p = 3

The equations of MIRAS and ATLAS were read in notes and code by others, not in the papers.

Axes: b batch, h heads, t tokens, c pairs of the window, f head width, `in` and `out` the widths of a layer.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nl_course.errors import CourseError, check_choice, check_int, check_positive
from nl_course.memories.common.inner_model import InnerModel, grad_loss
from nl_course.memories.common.weights import Weights
from nl_course.newton_schulz import newton_schulz

MEMORIES = ("matrix", "mlp")
RETENTIONS = ("none", "scalar", "channel", "to-start")
OPTIMIZERS = ("descent", "momentum", "muon")
FORGET = ("first", "last")

# The last pairs that were read: keys and values (b, h, c - 1, f), steps (b, h, c - 1); () for a window of one pair.
Recent = tuple[Tensor, ...]


def inner_product(answer: Tensor, v: Tensor, threshold: float) -> Tensor:
    """-<M(k), v>: answer, v (b, h, c, f) -> (b, h, c)."""
    return -(answer * v).sum(-1)


def squared(answer: Tensor, v: Tensor, threshold: float) -> Tensor:
    """|M(k) - v|^2 / 2."""
    return (answer - v).square().sum(-1) / 2


def huber(answer: Tensor, v: Tensor, threshold: float) -> Tensor:
    """|e|^2 / 2 up to |e| = threshold, then a straight line: no write is longer than that of an error `threshold`."""
    square = (answer - v).square().sum(-1)  # (b, h, c)
    # A root has no slope at 0. Where it is used, the square is at least threshold^2.
    length = square.clamp(min=threshold**2).sqrt()
    return torch.where(square <= threshold**2, square / 2, threshold * (length - threshold / 2))


def l3(answer: Tensor, v: Tensor, threshold: float) -> Tensor:
    """sum |e_i|^3 / 3: large errors write with their square."""
    return (answer - v).abs().pow(3).sum(-1) / 3


LOSSES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "inner-product": inner_product,
    "squared": squared,
    "huber": huber,
    "l3": l3,
}


@dataclass(frozen=True)
class ComposedConfig:
    """The four choices, and the sizes. Raises CourseError for a choice that there is not.

    * `memory`: "matrix", or "mlp": two layers with SiLU between them, hidden width `expansion` times the head's;
    * `loss`: see LOSSES; `threshold` is where Huber's loss turns straight; `window` is how many of the last pairs it
      is summed over (1: the pair at hand; more: ATLAS' Omega rule);
    * `retention`: "none"; "scalar", one gate per token and head; "channel", one per channel as well (of a matrix its
      rows, of an MLP the inputs of the first layer and the outputs of the second); "to-start", one gate that draws the
      weights back to their learned start instead of to zero;
    * `optimizer`: "descent", "momentum", or "muon", Newton-Schulz of the momentum;
    * `forget`: whether the gradient is taken after forgetting ("first") or before ("last");
    * `max_step` bounds the step that a token may choose (None: 1 / window, at which unit keys cannot overshoot in a
      matrix without momentum).
    """

    width: int
    heads: int
    memory: str = "matrix"
    loss: str = "squared"
    retention: str = "none"
    optimizer: str = "descent"
    window: int = 1
    forget: str = "last"
    threshold: float = 1.0
    expansion: int = 4
    max_step: float | None = None

    def __post_init__(self):
        for name in ("width", "heads", "window", "expansion"):
            check_int(name, getattr(self, name), 1)
        if self.width % self.heads:
            raise CourseError(f"width {self.width} is not a multiple of heads {self.heads}.")
        check_choice("memory", self.memory, MEMORIES)
        check_choice("loss", self.loss, LOSSES)
        check_choice("retention", self.retention, RETENTIONS)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("forget", self.forget, FORGET)
        check_positive("threshold", self.threshold)
        if self.max_step is not None:
            check_positive("max_step", self.max_step)

    @property
    def head_dim(self) -> int:
        """The width of a head, f."""
        return self.width // self.heads

    @property
    def network(self) -> InnerModel:
        """What answers: y = x W, or y = SiLU(x W1) W2."""
        layers = 1 if self.memory == "matrix" else 2
        return InnerModel(layers, self.expansion, "silu", bias=False, norm=False, residual=False)

    @property
    def largest_step(self) -> float:
        """The bound of a token's step."""
        return 1 / self.window if self.max_step is None else self.max_step

    @property
    def has_momentum(self) -> bool:
        """Whether the optimizer carries a memory of gradients."""
        return self.optimizer != "descent"


def fade(config: ComposedConfig, M: Weights, M_0: Weights, keep: Tensor | None) -> Weights:
    """The weights after forgetting. `keep` is the share that is kept, (b, h, 1), or (b, h, f) with "channel"."""
    if config.retention == "none":
        return M
    if config.retention == "scalar":
        return keep[..., None] * M
    if config.retention == "to-start":
        return M_0 + keep[..., None] * (M - M_0)
    faded = Weights(M)
    faded["W1"] = keep[..., :, None] * M["W1"]  # (b, h, f, out): by rows
    if "W2" in M:
        faded["W2"] = keep[..., None, :] * M["W2"]  # (b, h, in, f): by columns
    return faded


def composed(
    config: ComposedConfig,
    M: Weights,
    S: Weights,
    M_0: Weights,
    recent: Recent,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    step: Tensor,
    momentum: Tensor | None = None,
    keep: Tensor | None = None,
    create_graph: bool = True,
) -> tuple[Tensor, Weights, Weights, Recent]:
    """Writes and reads every token. Returns y (b, h, t, f), and M, S and `recent` after the last token.

    q, k, v (b, h, t, f); step and momentum (b, h, t); keep (b, h, t, 1), or (b, h, t, f) with "channel". M_0 is the
    learned start. Without `create_graph` the outer loop treats inner gradients as constants.
    """
    f, pair_loss = config.network, LOSSES[config.loss]

    def loss(weights: Weights, keys: Tensor, values: Tensor, steps: Tensor) -> Tensor:
        """The weighted loss of each pair of the window, (b, h, c)."""
        return steps * pair_loss(f.read(weights, keys, None), values, config.threshold)

    y = []
    for t in range(q.shape[2]):
        q_t, k_t, v_t = (x[:, :, t : t + 1] for x in (q, k, v))  # (b, h, 1, f)
        step_t = step[:, :, t : t + 1]  # (b, h, 1)
        pairs = (k_t, v_t, step_t)
        if recent:
            # Oldest first: (b, h, c, f) twice, (b, h, c).
            pairs = tuple(torch.cat([old, new], dim=2) for old, new in zip(recent, pairs))
            recent = tuple(x[:, :, 1:] for x in pairs)

        kept = fade(config, M, M_0, None if keep is None else keep[:, :, t])
        at = kept if config.forget == "first" else M
        g = grad_loss(loss, at, *pairs, create_graph=create_graph)
        if config.has_momentum:
            S = momentum[:, :, t, None, None] * S - g
        if config.optimizer == "descent":
            M = kept - g
        elif config.optimizer == "momentum":
            M = kept + S
        else:
            M = kept + step_t[..., None] * S.map(newton_schulz)
        y.append(f.read(M, q_t, None))  # (b, h, 1, f)
    return torch.cat(y, dim=2), M, S, recent
