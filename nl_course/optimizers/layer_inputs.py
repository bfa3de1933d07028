"""What a model's linear layers were given: kept from the forward pass that made the gradients, for DGD."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class LayerInputs:
    """Keeps x of y = W x for every call of an `nn.Linear` that a backward pass went through, until `clear`.

    An input counts when the gradient of its output arrives, so that forward passes without one (evaluation, a loss that
    was thrown away) leave nothing, and inputs and gradients always belong together. Activations are kept by reference:
    autograd holds the same tensors until the backward pass, so what this costs is their memory until the step.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self._kept: dict[Tensor, list[Tensor]] = {}
        self._handles: list = []

    def watch(self, parameters: Iterable[Tensor]) -> int:
        """Hooks the linear layers whose weight is among `parameters`; how many are watched in all."""
        wanted = set(parameters) - self._kept.keys()
        for module in self.model.modules():
            if isinstance(module, nn.Linear) and module.weight in wanted:
                self._kept.setdefault(module.weight, [])
                self._handles.append(module.register_forward_hook(self._seen))
        return len(self._kept)

    def _seen(self, module: nn.Linear, inputs: tuple, output: Tensor) -> None:
        if torch.is_grad_enabled() and output.requires_grad and module.weight in self._kept:
            kept, x = self._kept[module.weight], inputs[0].detach()
            output.register_hook(lambda gradient: kept.append(x.flatten(0, -2) if x.dim() > 1 else x[None]))

    def of(self, parameter: Tensor) -> Tensor | None:
        """All inputs (N, d) that the layer with this weight was given since the last `clear`, or None."""
        kept = self._kept.get(parameter)
        return torch.cat(kept).to(parameter.dtype) if kept else None

    def clear(self) -> None:
        for kept in self._kept.values():
            kept.clear()

    def remove(self) -> None:
        """Takes every hook off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._kept.clear()
