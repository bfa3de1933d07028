"""TTT as its paper writes it, token by token (Sun et al. 2024, arXiv 2407.04620). Faster paths must equal this.

    z_t = f(x_t; W_t)                                     output: a model's answer                               (1)
    W_t = W_{t-1} - eta grad l(W_{t-1}; x_t)              update: one step of gradient descent                   (2)
    l(W; x_t) = |f(x~_t; W) - x_t|^2                      the loss: rebuild the token from a damaged copy x~     (3)
    l(W; x_t) = |f(theta_K x_t; W) - theta_V x_t|^2       instead of damage, learned views: key and value        (4)
    z_t = f(theta_Q x_t; W_t)                             and a view to read with, the query                     (5)
    W_t = W_{t-1} - eta G_t = W_0 - eta sum_s G_s         descent in general, G_t its direction                  (6)

In a mini-batch of n tokens all gradients are taken at the anchor W^a, the weights that it began with: G_t = grad l(W^a;
x_t). With n = 1 that is equation 2. `G` in the code is the running sum of eta_s G_s. Two things stand in the authors'
code and not in the paper: the loss is halved, and the sum up to token i of its mini-batch is scaled by c_i, which
starts as 1 / i. With all c_i = 1 it is the paper's.

Axes: b batch, h heads, t tokens, f head width. Weights are (b, h, in, out); rows are vectors.
"""

import torch
from torch import Tensor

from nl_course.memories.common.inner_model import InnerModel, Norm, grad_loss
from nl_course.memories.common.weights import Weights


def learn(
    f: InnerModel,
    norm: Norm | None,
    W_a: Weights,
    G: Weights,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    c: Tensor,
    position: int = 0,
    first_order: bool = False,
) -> tuple[Tensor, Weights, Weights]:
    """Writes and reads every token: z (b, h, t, f), and the anchor and the sum of steps G after the last.

    q, k, v (b, h, t, f), step sizes eta (b, h, t), c (n,) for the positions of a mini-batch; the first token is number
    `position` of its text. With `first_order` the outer loop treats each inner gradient u as a constant.
    """
    outputs = []
    for t in range(q.shape[2]):
        i = (position + t) % len(c)
        q_t, k_t, v_t = (x[:, :, t : t + 1] for x in (q, k, v))  # (b, h, 1, f)
        u = grad_loss(f.inner_loss, W_a, k_t, v_t, norm, create_graph=not first_order)  #                   eq. 4
        G = G + eta[:, :, t, None, None] * u  #                                                             eq. 6
        W = W_a - c[i] * G  #                                                                               eq. 6
        outputs.append(f.read(W, q_t, norm))  #                                                             eq. 5
        if i == len(c) - 1:  # the next mini-batch begins where this one arrived
            W_a, G = W, G.map(torch.zeros_like)
    return torch.cat(outputs, dim=2), W_a, G
