"""Titans' memory as one matrix per head with a write per token: the equations of titans/reference.py, without autograd.

The inner gradient of |k M - v|^2 / 2 is k^T (k M - v), so nothing has to be differentiated to find it. That makes a
step of the outer loop several times as fast as the general reference, and gives the same numbers and gradients
(tests/record/test_stage.py). `learn_by_hand` puts it into a model through the seam `learn` of its memories.
"""

from functools import partial

import torch
from torch import Tensor, nn

from nl_course.memories.common.weights import Weights
from nl_course.memories.titans.chunk import Gates
from nl_course.memories.titans.neural import NeuralConfig, NeuralMemory, NeuralState


def is_one_matrix(config: NeuralConfig) -> bool:
    """Whether each head is one plain matrix that every token writes."""
    plain = not (config.norm or config.residual or config.bias)
    return plain and config.layers == 1 and config.chunk == 1


def learn_by_hand(model: nn.Module) -> nn.Module:
    """Lets all memories in `model` of that form learn by `learn_linear`."""
    for module in model.modules():
        if isinstance(module, NeuralMemory) and is_one_matrix(module.config):
            module.learn = partial(learn_linear, module.config)
    return model


def learn_linear(
    config: NeuralConfig, q: Tensor, k: Tensor, v: Tensor, gates: Gates, state: NeuralState
) -> tuple[Tensor, NeuralState]:
    """See `NeuralMemory.learn`: q, k, v (b, h, t, f) -> y (b, h, t, f) and the new state."""
    batch, heads = q.shape[:2]
    alpha, eta, theta = (gate.flatten(0, 1)[..., None, None] for gate in gates.plain())  # (b h, t, 1, 1)
    q, k, v = (rows.flatten(0, 1)[:, :, None] for rows in (q, k, v))  # (b h, t, 1, f)
    M = state.memory["W1"].flatten(0, 1)  # (b h, f, f)
    S = state.momentum["W1"].flatten(0, 1) if state.momentum else torch.zeros_like(M)
    constant = config.stop_gradient == "first-order"
    y = []
    tokens = zip(*(rows.unbind(1) for rows in (q, k, v, 1 - alpha, eta, theta)))
    for q_t, k_t, v_t, keep_t, eta_t, theta_t in tokens:
        toward = v_t - torch.bmm(k_t, M)  # (b h, 1, f): down the gradient, eq. 12
        if constant:
            k_t, toward = k_t.detach(), toward.detach()
        S = torch.baddbmm(eta_t * S, k_t.mT, theta_t * toward)  # eqs. 10, 14
        M = torch.addcmul(S, keep_t, M)  # eq. 13
        y.append(torch.bmm(q_t, M))  # eq. 15
    count = len(y)
    y = torch.stack(y, dim=1) if y else q  # (b h, t, 1, f)
    memory = Weights({"W1": M.unflatten(0, (batch, heads))})
    momentum = Weights({"W1": S.unflatten(0, (batch, heads))}) if state.momentum else Weights()
    return y.unflatten(0, (batch, heads))[..., 0, :], NeuralState(memory, momentum, Weights(), state.position + count)
