"""Ablations: a memory that learns while it reads, with one part of its inner loop changed or left out.

Liu et al. 2026, "Test-Time Training with KV Binding Is Secretly Linear Attention", arXiv 2602.21204, asks of memories
whose inner loss is "predict v from k" what happens when that loss is trained harder, is climbed instead of descended,
or when the memory is read at another place. Each question is one option of `ablated`, for TTT, Titans (also inside
MAC, MAG and MAL) and self-modifying Titans, for reading and for training:

    with ablated(model, sign=-1):                  # asked with it; afterwards all is as before
        logits, state = model(tokens)
    ablate(model, read_with="key")                 # stays until `restore(model)`: train it so

The memories know nothing of this. An ablation takes hold of two public methods of one memory object, its seams: what
its tokens write and ask (`write_inputs`), and the inner loop (`learn`). per_memory.py has both for every memory.

Begin an ablation before a text begins: a state that was written under one rule and is read under another is nobody's
memory. An option that a memory lacks (momentum in TTT, the last of one layer) is refused: a test that tests nothing
would look like a finding. So are compiled models, whose compiled code may not see the change.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import nn

from nl_course.errors import CourseError
from nl_course.memories.ablations.ablation import Ablation
from nl_course.memories.ablations.per_memory import ADAPTERS, Adapter
from nl_course.memories.titans.hybrid import Hybrid
from nl_course.memories.titans.lmm import Titans
from nl_course.memories.titans.mag import MAG
from nl_course.memories.titans.mal import MAL


@contextmanager
def ablated(model: nn.Module, ablation: Ablation | None = None, **options) -> Iterator[nn.Module]:
    """`model` (a model, or a memory by itself) with an `Ablation`, or with its options, as long as the `with` lasts.
    Afterwards every memory is as it was before, also after an error. Raises CourseError as `ablate` does."""
    before = [(memory, ablation_of(memory)) for memory in _memories(model)]
    ablate(model, ablation, **options)
    try:
        yield model
    finally:
        for memory, old in before:
            _install(_adapter(memory)(memory, old))


def ablate(model: nn.Module, ablation: Ablation | None = None, **options) -> None:
    """The same without an end, for training: it replaces an ablation that holds already, and lasts until `restore`.
    Raises CourseError, and changes nothing, if no memory in `model` has an inner loop, if one lacks an option or writes
    persistent tokens that leave a chunk open (`inner_steps`), or if the model is compiled."""
    ablation = _one_of(ablation, options)
    memories = _memories(model)
    hybrids = [memory for memory in memories if isinstance(memory, Hybrid)]
    inside = [hybrid.neural for hybrid in hybrids]
    adapters = []
    for memory in memories:
        # Parts are a hybrid's to leave out; all other options are for the neural memory inside it.
        own = ablation
        if memory in hybrids:
            own = Ablation(without=ablation.without)
        elif memory in inside:
            own = replace(ablation, without=())
        adapters.append(_adapter(memory)(memory, own))  # raises for what this memory lacks, before anything changed
    if ablation.inner_steps > 1 and "persistent" not in ablation.without:
        _check_text_begins_a_chunk(model)
    for adapter in adapters:
        _install(adapter)


def restore(model: nn.Module) -> None:
    """Ends every ablation in `model`."""
    for memory in _memories(model):
        _adapter(memory).remove(memory)


def ablation_of(memory: nn.Module) -> Ablation:
    """What holds for one memory now; `Ablation()` if nothing is changed. A hybrid and the neural memory inside it have
    one each. Raises CourseError for a module that cannot be ablated itself."""
    adapter = _adapter(memory)
    if adapter is None:
        inside = " Its neural memory can: ask `.neural`." if hasattr(memory, "neural") else ""
        raise CourseError(f"{type(memory).__name__} has no inner loop of its own to be ablated.{inside}")
    return adapter.in_force(memory)


def can_be_ablated(model: nn.Module) -> bool:
    """Whether `model` has a memory with an inner loop."""
    return any(_adapter(module) for module in model.modules())


# -- where ablations take hold -----------------------------------------------------------------------------------------
def _adapter(module: nn.Module) -> type[Adapter] | None:
    """The class of per_memory.py for such a memory, None for modules without an inner loop."""
    return next((ADAPTERS[kind] for kind in type(module).__mro__ if kind in ADAPTERS), None)


def _install(adapter: Adapter) -> None:
    adapter.remove(adapter.memory)
    if adapter.ablation.changed:
        adapter.install()


def _memories(model: nn.Module) -> list[nn.Module]:
    if not isinstance(model, nn.Module):
        raise CourseError(f"ablations are for a model or a memory, not for {model!r}.")
    if any(hasattr(module, "_orig_mod") or module._compiled_call_impl is not None for module in model.modules()):
        raise CourseError("a compiled model cannot be ablated, its code is fixed: ablate the model it was made from.")
    found = [module for module in model.modules() if _adapter(module)]
    if not found:
        raise CourseError(f"{type(model).__name__} has no memory with an inner loop: there is nothing to ablate.")
    return found


def _check_text_begins_a_chunk(model: nn.Module) -> None:
    """Several inner steps need all pairs of a chunk, and persistent tokens are written before every text."""
    for layer in model.modules():
        if not isinstance(layer, (Titans, MAG, MAL)):
            continue
        persistent, chunk = layer.config.persistent, layer.config.chunk
        if persistent % chunk:
            raise CourseError(
                f"with several inner steps a text must begin where a chunk begins, but {type(layer).__name__} writes "
                f"{persistent} persistent tokens before it, and its chunks have {chunk}: build it with persistent=0 or "
                f"a multiple of {chunk}."
            )


def _one_of(ablation: Ablation | None, options: dict) -> Ablation:
    if ablation is None:
        return Ablation(**options)
    if not isinstance(ablation, Ablation) or options:
        raise CourseError(f"an ablation must be given as Ablation(...) or by its options, not as {ablation!r}.")
    return ablation


# -- names of before ---------------------------------------------------------------------------------------------------
def Switches(
    inner_steps: int = 1,
    sign: int = 1,
    read_with: str = "query",
    last_layer_only: bool = False,
    per_token_rate: bool = True,
    momentum: bool = True,
) -> Ablation:
    """`Ablation` under its name of before, for copies of notebooks that use it."""
    return Ablation(inner_steps, sign, read_with, last_layer_only, per_token_rate, momentum)


def switched(model: nn.Module, switches: Ablation):
    """`ablated` under its name of before."""
    return ablated(model, switches)


def switch(model: nn.Module, switches: Ablation) -> None:
    """`ablate` under its name of before."""
    ablate(model, switches)
