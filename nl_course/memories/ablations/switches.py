"""The sceptic's switches: what a memory that learns while it reads must not care about, if it does not remember.

Liu et al. 2026, "Test-Time Training with KV Binding Is Secretly Linear Attention", arXiv 2602.21204, asks of memories
whose inner loss is "predict v from k" what happens when that loss is trained harder, is climbed instead of descended,
is read at another place. Each question is one field of `Switches`; every memory with such an inner loop obeys it, TTT,
Titans (also inside MAC, MAG, MAL) and self-modifying Titans, in every path, for reading and for training:

    with switched(model, Switches(sign=-1)):       # asked with it, then all as before
        logits, state = model(tokens)
    switch(model, Switches(read_with="key"))       # stays: train it so

Set them before a text begins: a state that was written under one rule and is read under another is nobody's memory.
(With more inner steps an open chunk that was written otherwise is refused; see more_steps.py, which defines them.)

A switch that a memory lacks (momentum in TTT, the last of one layer) is refused: a test that tests nothing would look
like a finding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

from torch import Tensor, nn

from nl_course.errors import CourseError, check_choice, check_int


@dataclass(frozen=True)
class Switches:
    """`inner_steps` n: the gradient step of a chunk is taken n times, each gradient where the last step arrived.
    `sign` -1 climbs the inner loss: the step's sign is flipped, not retention's, momentum's or an erase's (which in a
    linear self-modifying memory with a chunk of one then cancels against the step's own: -eta k^T v^ is left).
    `read_with` "key" reads the memory at k where q was. `last_layer_only` holds all other layers of the inner network
    as they are: not written, and not worn by retention. `per_token_rate` False gives every token the step that the
    gate's bias alone says (sigmoid(b) times the largest); retention and momentum stay a token's own. `momentum` False:
    the step goes into the weights and nowhere else (so it is no longer summed up to 1 / (1 - eta) times itself)."""

    inner_steps: int = 1
    sign: int = 1
    read_with: str = "query"
    last_layer_only: bool = False
    per_token_rate: bool = True
    momentum: bool = True

    def __post_init__(self):
        check_int("inner_steps", self.inner_steps, 1)
        if isinstance(self.sign, bool) or self.sign not in (1, -1):
            raise CourseError(f"sign must be 1 (descend) or -1 (climb), not {self.sign!r}.")
        check_choice("read_with", self.read_with, ("query", "key"))
        for name in ("last_layer_only", "per_token_rate", "momentum"):
            if not isinstance(getattr(self, name), bool):
                raise CourseError(f"{name} must be True or False, not {getattr(self, name)!r}.")

    @property
    def turned(self) -> tuple[str, ...]:
        """The switches that are not as usual, by name."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) != f.default)


class Doubted:
    """What a module with an inner loop inherits, beside nn.Module. Its own code asks `self.doubts`."""

    doubts = Switches()

    def lacks(self) -> dict[str, str]:
        """Switches that would change nothing here or are not to be had, by name, with the reason."""
        return {}

    def doubt(self, switches: Switches) -> None:
        """Obeys `switches` from now on. Raises CourseError for one that this memory lacks, and then changes nothing."""
        for name in switches.turned:
            if name in self.lacks():
                raise CourseError(f"{type(self).__name__} has no switch {name!r}: {self.lacks()[name]}.")
        self.doubts = switches
        if hasattr(self, "inner"):
            self.inner = replace(self.inner, last_only=switches.last_layer_only)

    # -- what most of them come to: other inputs for the same inner loop -----------------------------------------
    def asked_with(self, q: Tensor, k: Tensor) -> Tensor:
        """What the memory is read at."""
        return k if self.doubts.read_with == "key" else q

    def rate_logit(self, logit: Tensor, bias: Tensor) -> Tensor:
        """A step's logit (b, h, t) as it counts; bias (h,)."""
        return logit if self.doubts.per_token_rate else bias[:, None].expand_as(logit)


def switch(model: nn.Module, switches: Switches) -> None:
    """Turns the switches of every memory in `model` (a model, or a memory by itself) until they are turned again.
    Raises CourseError, and changes nothing, if no memory there has an inner loop or one lacks a switch."""
    memories, before = _memories(model, switches), []
    try:
        for memory in memories:
            before.append(memory.doubts)
            memory.doubt(switches)
    except CourseError:
        for memory, old in zip(memories, before):
            memory.doubt(old)
        raise


@contextmanager
def switched(model: nn.Module, switches: Switches) -> Iterator[nn.Module]:
    """The same for as long as the `with` lasts; afterwards every memory is as it was before, also after an error."""
    before = [(memory, memory.doubts) for memory in _memories(model, switches)]
    switch(model, switches)
    try:
        yield model
    finally:
        for memory, old in before:
            memory.doubt(old)


def _memories(model: nn.Module, switches: Switches) -> list:
    if not isinstance(switches, Switches):
        raise CourseError(f"switches must be Switches(...), not {switches!r}.")
    if not isinstance(model, nn.Module):
        raise CourseError(f"switches are for a model or a memory, not for {model!r}.")
    found = [module for module in model.modules() if isinstance(module, Doubted)]
    if not found:
        raise CourseError(f"{type(model).__name__} has no memory with an inner loop: there is nothing to switch.")
    return found
