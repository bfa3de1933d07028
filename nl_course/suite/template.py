"""A memory of your own. This one is correct and poor: one running mean a channel, whatever the token asks.

    m_t = a m_{t-1} + (1 - a) v_t          a in (0, 1), one a channel, learned
    y_t = (m_t * silu(x_t W_gate)) W_out

It remembers roughly the last 1 / (1 - a) tokens, blurred, and cannot look anything up: there is no key. Make it better.
The suite: `nl-course check-memory my_memory.py`. Axes: b batch, t time, d width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from nl_course.memories import Memory, State, Trace


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
    """A running mean a channel."""

    def __init__(self, config: MyConfig, path: str = "auto"):
        super().__init__(config.width)
        self.value, self.gate, self.output = (nn.Linear(config.width, config.width, bias=False) for _ in range(3))
        self.retention = nn.Parameter(torch.linspace(0.5, config.slowest, config.width).logit())

    def init_state(self, batch_size: int) -> MyState:
        return MyState(torch.zeros(batch_size, self.width, dtype=self.dtype, device=self.device))

    def advance(self, x: Tensor, state: State, trace: Trace | None) -> tuple[Tensor, State]:
        keep, v = self.retention.sigmoid(), self.value(x)  # (d,), (b, t, d)
        mean, means = state.mean, [x[:, :0]]
        for t in range(x.shape[1]):
            mean = keep * mean + (1 - keep) * v[:, t]
            means.append(mean[:, None])
        means = torch.cat(means, dim=1)  # (b, t, d)
        if trace is not None:
            trace.add("mean", means.detach())
        return self.output(means * silu(self.gate(x))), MyState(mean)

    def state_bytes(self, tokens: int, batch_size: int = 1) -> int:
        return batch_size * self.width * self.dtype.itemsize


MEMORY, CONFIG = MyMemory, MyConfig
