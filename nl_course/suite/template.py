"""A memory of your own. This one is correct and poor: one running mean per channel, whatever the token asks.

    m_t = a m_{t-1} + (1 - a) v_t          a in (0, 1), one per channel, learned
    y_t = (m_t * silu(x_t W_gate)) W_out

It remembers roughly the last 1 / (1 - a) tokens, blurred, and cannot look anything up: there is no key. Make it better.
The suite: `nl-course check-memory my_memory.py`. Axes: b batch, t time, d width.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from nl_course.memories import Memory, State, Trace
from nl_course.roles import RATE, Roles


@dataclass(frozen=True)
class MyConfig:
    """`width` and `heads` come from the model; what you add needs a default."""

    width: int
    heads: int
    slowest: float = 0.99  # retention of the last channel at the start; the first begins at 0.5


@dataclass(frozen=True)
class MyState(State):
    """The running mean of every channel, (b, d)."""

    mean: Tensor


class MyMemory(Memory):
    """One running mean per channel."""

    # Optimizers ask what a parameter is. Layers of torch are known to them; of your own parameters you say it here.
    param_roles: ClassVar[Roles] = {"retention": RATE}

    def __init__(self, config: MyConfig, path: str = "auto"):
        super().__init__(config.width)
        self.config = config  # its states carry these settings, and a memory with others refuses them
        self.value = nn.Linear(config.width, config.width, bias=False)
        self.gate = nn.Linear(config.width, config.width, bias=False)
        self.output = nn.Linear(config.width, config.width, bias=False)
        # Kept as logits, so that every step of training leaves the retention between 0 and 1.
        self.retention = nn.Parameter(torch.linspace(0.5, config.slowest, config.width).logit())

    def init_state(self, batch_size: int) -> MyState:
        """Before the first token: a mean of 0."""
        return MyState(torch.zeros(batch_size, self.width, dtype=self.dtype, device=self.device))

    def advance(self, x: Tensor, state: State, trace: Trace | None) -> tuple[Tensor, State]:
        """x (b, t, d) -> y (b, t, d), and the state after the last token."""
        retention = self.retention.sigmoid()  # (d,)
        v = self.value(x)  # (b, t, d)
        # A new mean for each token: the state that was given is never written into, since others may hold it.
        mean = state.mean  # (b, d)
        means = [x[:, :0]]  # so that a text of no tokens is no special case
        for t in range(x.shape[1]):
            mean = retention * mean + (1 - retention) * v[:, t]
            means.append(mean[:, None])  # (b, 1, d)
        means = torch.cat(means, dim=1)  # (b, t, d)
        if trace is not None:
            trace.add("mean", means.detach())
        return self.output(means * silu(self.gate(x))), MyState(mean)

    def state_bytes(self, tokens: int, batch_size: int = 1) -> int:
        """d numbers, however long the text."""
        return batch_size * self.width * self.dtype.itemsize


MEMORY, CONFIG = MyMemory, MyConfig
