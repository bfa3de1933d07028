"""One decoder language model around any memory.

    h = embed(tokens);   per layer:  h = h + memory(norm(h)),  h = h + mlp(norm(h));   logits = norm(h) embed^T

With `conv` each layer begins with h = h + conv(norm(h)), a short causal convolution (the TTT paper's models do).

Pre-norm RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467), SwiGLU (Shazeer 2020, arXiv 2002.05202), tied
embeddings. Its state is one state per layer; reading a text in any split gives the same logits.
Axes: B batch, T time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from torch.utils.checkpoint import checkpoint

from nl_course.errors import CourseError, check_bool, check_choice, check_int, check_min
from nl_course.memories import MEMORIES, Memory, State, Trace, build_memory, check_options, saved_options
from nl_course.memories.common.conv import CausalConv
from nl_course.memories.owner import StateOwner, fitted, is_trusted, trusted
from nl_course.renamed import translate
from nl_course.roles import HEAD, INTO_STREAM, Roles, param_roles


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a language model: `vocab` tokens, `layers` blocks of `width`, a SwiGLU MLP of width `hidden`, and in
    every block the `memory` of that name with `heads` heads and further `options` (see its config class). `conv` is
    the width of a causal convolution before each memory, 0 for none; `tied` False gives the output its own weights;
    `norm_eps` is what the RMSNorms of the blocks and before the output add to the mean square (a memory's own norms are
    its own matter). Raises CourseError for sizes that do not fit and for a memory that there is not."""

    vocab: int = 256
    width: int = 128
    layers: int = 4
    heads: int = 4
    hidden: int = 352
    memory: str = "attention"
    options: Mapping = field(default_factory=dict)
    conv: int = 0
    tied: bool = True
    norm_eps: float = 1e-6

    def __post_init__(self):
        for name in ("vocab", "width", "layers", "heads", "hidden"):
            check_int(name, getattr(self, name), 1)
        check_int("conv", self.conv, 0)
        check_min("norm_eps", self.norm_eps, 0)
        check_bool("tied", self.tied)
        check_choice("memory", self.memory, MEMORIES)
        check_options(self.options)

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, as JSON holds them."""
        return {**asdict(self), "options": saved_options(self.memory, self.options)}

    @classmethod
    def from_dict(cls, values: Mapping) -> "ModelConfig":
        """The config saved by `to_dict`, also by an older version; raises CourseError for a field it does not know."""
        _, values = translate("ModelConfig", values)
        for name in values:
            check_choice("model setting", name, [f.name for f in fields(cls)])
        return cls(**values)


@dataclass(frozen=True)
class BlockState(State):
    """The state of a block with a convolution: its memory's own, and the convolution's last inputs (B, conv - 1,
    width)."""

    memory: State
    conv_state: Tensor


@dataclass(frozen=True)
class ModelState(State):
    """One state per layer, first layer first: its memory's own, or a `BlockState` around it."""

    layers: tuple[State, ...]

    def memory(self, layer: int) -> State:
        """The state of that layer's memory."""
        state = self.layers[layer]
        return state.memory if isinstance(state, BlockState) else state


class SwiGLU(nn.Module):
    """x (B, T, width) -> (silu(x W_gate) * x W_up) W_down, no biases (arXiv 2002.05202, eq. 6)."""

    param_roles: ClassVar[Roles] = {"down.weight": INTO_STREAM}

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, width) -> the same shape."""
        return self.down(silu(self.gate(x)) * self.up(x))  # (B, T, hidden) inside


class MixingBlock(nn.Module):
    """The part of a block in which tokens meet: a memory on a normalized copy, added back; before it, if the config has
    one, a short causal convolution in the same way. What follows it is the subclass's."""

    def __init__(self, config: Any, path: str):
        """`config`: a `ModelConfig`, or another one that has width, heads, memory, options, conv and norm_eps."""
        super().__init__()
        self.conv = CausalConv(config.width, config.conv) if config.conv else None
        self.conv_norm = nn.RMSNorm(config.width, eps=config.norm_eps) if config.conv else None
        self.memory_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.memory = build_memory(config.memory, config.width, config.heads, path, **config.options)
        self.memory.checks_numbers = False
        self.memory_post_norm = None  # a norm on what the memory says, where a subclass puts one

    def init_state(self, batch_size: int) -> State:
        """The memory's own before the first token; around it a `BlockState` where there is a convolution."""
        state = self.memory.init_state(batch_size)
        if self.conv is None:
            return state
        return BlockState(state, self.conv.init_state(batch_size))

    def state_bytes(self, tokens: int, batch_size: int = 1) -> int:
        """The memory's own bytes, and conv - 1 columns of the width for the convolution."""
        return self.memory.state_bytes(tokens, batch_size) + self.conv_state_bytes(batch_size)

    def conv_state_bytes(self, batch_size: int = 1) -> int:
        """Bytes of the convolution's last inputs."""
        if self.conv is None:
            return 0
        return batch_size * self.conv.state_size * self.conv.weight.dtype.itemsize

    def mix(self, h: Tensor, state: State, trace: Trace | None) -> tuple[Tensor, State]:
        """h (B, T, width) -> the same after convolution and memory, and the state after the last token."""
        if self.conv is None:
            return self._read(h, state, trace)
        if not (isinstance(state, BlockState) and is_trusted(state, h)):
            state = fitted(self, state, h, inside=True)
        convolved, conv_state = self.conv(self.conv_norm(h), state.conv_state)
        h, memory = self._read(h + convolved, state.memory, trace)
        return h, trusted(BlockState(memory, conv_state), h)

    def _read(self, h: Tensor, state: State, trace: Trace | None) -> tuple[Tensor, State]:
        """h with what the memory says of it added, and the memory's next state."""
        mixed, state = self.memory(self.memory_norm(h), state, trace)
        if self.memory_post_norm is not None:
            mixed = self.memory_post_norm(mixed)
        return h + mixed, state


class Block(MixingBlock):
    """A memory that mixes tokens, then an MLP that does not, each on a normalized copy and added back.

    With `checkpoint`, which may be set at any time, training keeps of a block only what went into it and computes it a
    second time for its gradient; not where a trace is wanted."""

    def __init__(self, config: ModelConfig, path: str):
        super().__init__(config, path)
        self.checkpoint = False
        self.mlp_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.mlp = SwiGLU(config.width, config.hidden)

    def forward(self, h: Tensor, state: State | None, trace: Trace | None) -> tuple[Tensor, State]:
        """h (B, T, width) -> the same shape, and the state after the last token."""
        if self.checkpoint and trace is None and torch.is_grad_enabled():
            return checkpoint(self._run, h, state, None, use_reentrant=False)
        return self._run(h, state, trace)

    def _run(self, h: Tensor, state: State | None, trace: Trace | None) -> tuple[Tensor, State]:
        """`forward`, computed once."""
        # Here, and not by the model: of a sharded model only the block that runs has whole weights to start from.
        if state is None:
            state = self.init_state(h.shape[0])
        h, state = self.mix(h, state, trace)
        return h + self.mlp(self.mlp_norm(h)), state


class LanguageModel(StateOwner):
    """Tokens in, next-token logits out, with a memory in every block.

    `path` picks each memory's implementation ("auto", "reference", ...). Weights start as N(0, 0.02), those that
    write into the residual stream smaller by sqrt(2 layers) (Radford et al. 2019, section 2.3).
    """

    param_roles: ClassVar[Roles] = {"head.weight": HEAD}

    def __init__(self, config: ModelConfig, path: str = "auto"):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab, config.width)
        self.layers = nn.ModuleList(self._blocks(config, path))
        self.norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.head = None if config.tied else nn.Linear(config.width, config.vocab, bias=False)
        self.apply(_start)
        # Two parts of every layer add to the residual stream, so that its variance would grow with the depth.
        roles = param_roles(self)
        for name, module in self.named_modules():
            # Parts that are no linear layers, such as levels, begin all their parameters themselves.
            if isinstance(module, nn.Linear) and roles[f"{name}.weight"].into_stream:
                nn.init.normal_(module.weight, std=0.02 / (2 * config.layers) ** 0.5)
        for module in self.modules():
            if isinstance(module, Memory):
                module.begin_in_model()

    def _blocks(self, config: Any, path: str) -> list[MixingBlock]:
        """The layers, first one first; a subclass makes its own."""
        return [Block(config, path) for _ in range(config.layers)]

    def init_state(self, batch_size: int) -> ModelState:
        """What the model knows before the first token, for `batch_size` texts."""
        return ModelState(tuple(layer.init_state(batch_size) for layer in self.layers))

    def state_settings(self) -> dict[str, Any]:
        """Those of the config, with all options of its memory."""
        return super().state_settings() | {"options": self.layers[0].memory.state_settings()}

    def default_settings(self) -> dict[str, Any]:
        """The defaults of the config and of its memory."""
        return super().default_settings() | {"options": self.layers[0].memory.default_settings()}

    def state_bytes(self, tokens: int, batch_size: int = 1) -> int:
        """The formula for `state.nbytes` after `tokens` tokens: the layers' own, added up."""
        return sum(layer.state_bytes(tokens, batch_size) for layer in self.layers)

    def parameter_count(self) -> int:
        """Numbers in all parameters; tied weights count once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(
        self, tokens: Tensor, state: ModelState | None = None, trace: Trace | None = None
    ) -> tuple[Tensor, ModelState]:
        """tokens (B, T) of integers below `vocab` -> logits (B, T, vocab), and the state after the last token.

        Traces of layer i are named `layers.i.*`. Raises CourseError for tokens of a wrong shape, type, device or
        range, and for a state of another model.
        """
        self._check(tokens)
        states = (None,) * len(self.layers) if state is None else self._states_of(state)
        next_states = []
        h = self.embedding(tokens)  # (B, T, width)
        for i, (layer, before) in enumerate(zip(self.layers, states, strict=True)):
            scope = None if trace is None else trace.scope(f"layers.{i}")
            h, after = layer(h, before, scope)
            next_states.append(after)
        return self.logits(h), self.owned(ModelState(tuple(next_states)))

    def _states_of(self, state: ModelState) -> tuple[State, ...]:
        """One state per layer, whose insides the layers check themselves. Raises CourseError for another model's."""
        if not isinstance(state, ModelState):
            raise CourseError(
                f"{self.owner_name} takes a ModelState that it has returned, not a {type(state).__name__}."
            )
        self.check_owner(state)
        layers = state.layers if isinstance(state.layers, tuple) else ()
        count = sum(isinstance(layer, State) for layer in layers)
        if not count == len(layers) == len(self.layers):
            raise CourseError(f"this state has states of {count} layers, and the model has {len(self.layers)} layers.")
        return state.layers

    def logits(self, h: Tensor) -> Tensor:
        """What the last block leaves, (B, T, width) -> (B, T, vocab)."""
        output = self.embedding.weight if self.head is None else self.head.weight
        return self.norm(h) @ output.T  # (B, T, vocab)

    def generate(
        self,
        prompt: Tensor,
        tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int | None = None,
        state: ModelState | None = None,
    ) -> Iterator[Tensor]:
        """Streams `tokens` new tokens, (B,) each, after prompt (B, T), T >= 1.

        `temperature` and `top_k` are those of `sample`; `seed` makes the text repeatable, and every row draws for
        itself, whatever stands beside it. `state` is what was read before the prompt. Each new token is read once:
        nothing is recomputed. Raises CourseError for an empty prompt, and for logits that are not finite.
        """
        check_int("tokens", tokens, 0)
        _check_sampling(temperature, top_k)
        if seed is not None:
            check_int("seed", seed)
        self._check(prompt)
        if prompt.shape[1] == 0:
            raise CourseError(f"the prompt must be (batch, time) with at least one token, not {tuple(prompt.shape)}.")
        return self._stream(prompt, tokens, temperature, top_k, seed, state)

    def _stream(
        self,
        unread: Tensor,
        tokens: int,
        temperature: float,
        top_k: int | None,
        seed: int | None,
        state: ModelState | None,
    ) -> Iterator[Tensor]:
        """The generator behind `generate`, which checks its arguments before the first token is asked for."""
        generators = None if seed is None else _row_generators(seed, len(unread), unread.device)
        for _ in range(tokens):
            # Only around the model: a generator that pauses inside `no_grad` would switch it off for its caller.
            with torch.no_grad():
                logits, state = self(unread, state)  # (B, T, vocab)
                token = _sample_rows(logits[:, -1], temperature, top_k, generators)  # (B,)
            yield token
            unread = token[:, None]  # (B, 1)

    def _check(self, tokens: Tensor) -> None:
        """Raises CourseError for tokens that the embedding would refuse with an index of its own, or not at all."""
        if not isinstance(tokens, Tensor):
            raise CourseError(f"tokens must be a tensor (batch, time) of whole numbers, not a {type(tokens).__name__}.")
        if tokens.dim() != 2 or tokens.is_floating_point() or tokens.is_complex():
            raise CourseError(f"tokens must be whole numbers (batch, time), not {tokens.dtype} {tuple(tokens.shape)}.")
        if tokens.dtype not in (torch.int64, torch.int32):
            raise CourseError(f"tokens must be int64 or int32, not {tokens.dtype}: use tokens.long().")
        if tokens.device != self.embedding.weight.device:
            raise CourseError(f"the model is on {self.embedding.weight.device} and the tokens on {tokens.device}.")
        # On an accelerator the comparison would wait for the device at every call.
        if tokens.numel() and not torch.compiler.is_compiling() and tokens.device.type == "cpu":
            low, high = tokens.aminmax()
            if low < 0 or high >= self.config.vocab:
                raise CourseError(f"tokens must lie in 0 .. {self.config.vocab - 1}; got {int(low)} .. {int(high)}.")


def sample(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    """One token per row from logits (B, vocab) -> (B,).

    `temperature` 0, or one too small for float32, takes the likeliest. `top_k` draws among exactly k, the likeliest; of
    equal logits the one with the lower index counts as likelier. Raises CourseError for logits that are not finite.
    """
    _check_sampling(temperature, top_k)
    if not logits.isfinite().all():
        raise CourseError(
            "the logits are not finite, so no token can be drawn: weights or states have overflowed. "
            "Read the text from a fresh state, or load a checkpoint from before."
        )
    if temperature < torch.finfo(torch.float32).tiny:
        return logits.argmax(dim=-1)  # the first of equals
    if top_k is not None:
        logits = logits.masked_fill(~_likeliest(logits, min(top_k, logits.shape[-1])), -torch.inf)
    # With 0 for the largest, a small temperature leads to minus infinity and never to infinity.
    logits = logits.float() - logits.float().amax(dim=-1, keepdim=True)
    return torch.multinomial((logits / temperature).softmax(dim=-1), 1, generator=generator)[:, 0]


def _check_sampling(temperature: float, top_k: int | None) -> None:
    check_min("temperature", temperature, 0)
    if top_k is not None:
        check_int("top_k", top_k, 1)


def _likeliest(logits: Tensor, count: int) -> Tensor:
    """True for exactly `count` largest logits of each row (B, vocab), those with lower indices among equal ones."""
    least = logits.topk(count).values[:, -1:]  # (B, 1)
    above = logits > least
    equal = logits == least
    places_left = count - above.sum(dim=-1, keepdim=True)  # (B, 1)
    return above | (equal & (equal.cumsum(dim=-1) <= places_left))


def _sample_rows(
    logits: Tensor, temperature: float, top_k: int | None, generators: list[torch.Generator] | None
) -> Tensor:
    """`sample` for logits (B, vocab), each row with its own generator; without any the rows share the global one."""
    if generators is None:
        return sample(logits, temperature, top_k, None)
    rows = zip(logits.split(1), generators)  # (1, vocab) each
    return torch.cat([sample(row, temperature, top_k, generator) for row, generator in rows])  # (B,)


def _row_generators(seed: int, rows: int, device: torch.device) -> list[torch.Generator]:
    """One generator per row. Seeds lie far apart, so that the rows of one seed are not those of the next."""
    step = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio
    return [torch.Generator(device).manual_seed((seed + row * step) % 2**64) for row in range(rows)]


def _start(module: nn.Module) -> None:
    """N(0, 0.02) for linear layers and embeddings; memories begin their other parameters themselves."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
