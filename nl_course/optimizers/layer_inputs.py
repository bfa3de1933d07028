"""What a model's linear layers were given: kept from the forward pass that made the gradients, for DGD."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class LayerInputs:
    """Keeps x of y = W x for every call of an `nn.Linear` that a backward pass went through, until `clear`.

    An input counts when the gradient of its output arrives. So forward passes without one (evaluation, a loss that was
    thrown away) leave nothing, and inputs and gradients always belong together. Inputs are kept by reference: autograd
    holds the same tensors until the backward pass, so the cost is their memory from there until the step.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._inputs: dict[Tensor, list[Tensor]] = {}  # by the layer's weight: (n, d) for each call
        self._handles: list[RemovableHandle] = []

    def watch(self, parameters: Iterable[Tensor]) -> int:
        """Hooks the linear layers whose weight is among `parameters`; returns how many are watched in all."""
        new = set(parameters) - self._inputs.keys()
        for module in self.model.modules():
            if isinstance(module, nn.Linear) and module.weight in new:
                self._inputs.setdefault(module.weight, [])
                self._handles.append(module.register_forward_hook(self._on_forward))
        return len(self._inputs)

    def _on_forward(self, module: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """A layer was called: its input is kept as soon as the gradient of its output arrives."""
        if not (torch.is_grad_enabled() and output.requires_grad and module.weight in self._inputs):
            return
        layer_inputs = self._inputs[module.weight]
        x = inputs[0].detach()

        def keep(gradient: Tensor) -> None:
            layer_inputs.append(x.flatten(0, -2) if x.dim() > 1 else x[None])  # (n, d)

        output.register_hook(keep)

    def of(self, parameter: Tensor) -> Tensor | None:
        """All inputs (N, d) that the layer with this weight was given since the last `clear`, or None."""
        layer_inputs = self._inputs.get(parameter)
        if not layer_inputs:
            return None
        return torch.cat(layer_inputs).to(parameter.dtype)

    def clear(self) -> None:
        """Forgets the inputs of all layers."""
        for layer_inputs in self._inputs.values():
            layer_inputs.clear()

    def remove(self) -> None:
        """Takes every hook off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._inputs.clear()
