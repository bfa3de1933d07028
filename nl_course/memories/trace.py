"""A trace collects what a memory did, token by token, while it was really at work."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import pad


class Trace:
    """Named tensors per token, `(B, T, ...)` each, joined over time however the input was split.

    Give one to `memory(x, state, trace)` or `model(tokens, state, trace)`, then read `trace["weights"]`.
    `only` limits it to some names. Gradients are cut and nothing is collected when no trace is given.
    """

    def __init__(
        self, only: Iterable[str] | None = None, prefix: str = "", store: dict[str, list[Tensor]] | None = None
    ):
        """`prefix` and `store` are for `scope`, whose traces all write into one store."""
        self._only = None if only is None else frozenset(only)
        self._prefix = prefix
        self._store: dict[str, list[Tensor]] = {} if store is None else store

    def wants(self, name: str) -> bool:
        """Whether `name` is collected; ask before computing something that only the trace needs."""
        full = self._prefix + name
        return self._only is None or full in self._only or name in self._only

    def add(self, name: str, value: Tensor) -> None:
        """Appends `value` (B, T, ...), time on axis 1."""
        if self.wants(name):
            self._store.setdefault(self._prefix + name, []).append(value.detach())

    def scope(self, prefix: str) -> "Trace":
        """The same trace, with `prefix.` before every name; a language model gives `layers.0.` and so on."""
        return Trace(self._only, f"{self._prefix}{prefix}.", self._store)

    def names(self) -> list[str]:
        """Every name that something was collected under, with its prefix."""
        return list(self._store)

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._store

    def __getitem__(self, name: str) -> Tensor:
        """All of `name` joined over time, (B, T, ...). A last axis that grows with the context is padded with 0.
        Raises KeyError, naming what there is, for what was not traced."""
        if name not in self:
            raise KeyError(f"nothing named {name!r} was traced; there is: {', '.join(self._store) or 'nothing'}")
        pieces = self._store[self._prefix + name]  # (B, t, ...) each
        # Scores over the context have one column per token so far, so that earlier pieces are narrower.
        if pieces[0].dim() > 2:
            widest = max(piece.shape[-1] for piece in pieces)
            pieces = [pad(piece, (0, widest - piece.shape[-1])) for piece in pieces]
        return torch.cat(pieces, dim=1)  # (B, T, ...)
