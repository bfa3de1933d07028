"""The equations of Titans' neural memory, one token at a time: the definition that every faster path must equal.

Behrouz, Zhong and Mirrokni 2024, "Titans: Learning to Memorize at Test Time", arXiv 2501.00663, section 3.1. The memory
f(.; M) is a small network (common/inner_model.py), and M stands for all its weights. Each token takes one gradient step
on the loss |f(k_t; M) - v_t|^2 / 2 (equation 12, which has no half), and is read with what it wrote. That gradient is
the token's surprise u_t. The momentum S carries past surprise on; alpha forgets.

k_t, v_t (equation 11), q_t and the gates are made of token t in neural.py. Here alpha is the share that is *forgotten*
(HOPE's alpha is the share that is kept).

Axes: b batch, h heads, t tokens, f head width.
"""

import torch
from torch import Tensor

from nl_course.memories.common.inner_model import InnerModel, Norm, grad_loss
from nl_course.memories.common.weights import Weights


def reference(
    f: InnerModel,
    norm: Norm | None,
    M: Weights,
    S: Weights,
    M_a: Weights,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: Tensor,
    eta: Tensor,
    theta: Tensor,
    position: int = 0,
    chunk: int = 1,
    create_graph: bool = True,
) -> tuple[Tensor, Weights, Weights, Weights]:
    """Writes and reads every token. Returns y (b, h, t, f), and M, S and M_a after the last token.

    q, k, v (b, h, t, f); the gates alpha (forgetting), eta (momentum) and theta (step) (b, h, t). M_a, the anchor, is
    the memory as the chunk of `chunk` tokens began, and `position` tokens were written before: a text may be cut
    anywhere. `norm` belongs to f. Without `create_graph` the outer loop treats surprises as constants.
    """
    y = []
    for t in range(q.shape[2]):
        q_t, k_t, v_t = (x[:, :, t : t + 1] for x in (q, k, v))  # (b, h, 1, f)
        alpha_t, eta_t, theta_t = (gate[:, :, t, None, None] for gate in (alpha, eta, theta))  # (b, h, 1, 1)

        # All gradients of a chunk are taken at one place, so that a chunk can be computed at once (chunk.py).
        if (position + t) % chunk == 0:
            M_a = M  # section 3.2

        u = grad_loss(f.inner_loss, M_a, k_t, v_t, norm, create_graph=create_graph)  # eq. 12
        S = eta_t * S - theta_t * u  # eqs. 10, 14
        M = (1 - alpha_t) * M + S  # eq. 13; eq. 9 for alpha = 0
        y.append(f.read(M, q_t, norm))  # eq. 15
    return torch.cat(y, dim=2), M, S, M_a
