"""The exact part of the case against: what is read equals the linear attention that the formula says, to 1e-10."""

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.memories import Trace, build_memory
from nl_course.memories.ablations.as_attention import as_attention
from nl_course.memories.ablations.pooled import PooledTitans
from nl_course.memories.ablations.switches import Ablation, ablated
from tests.memories import titans_tools, ttt_tools

CLOSE = dict(rtol=1e-10, atol=1e-10)
X = ttt_tools.draw(2, 11, 8)
MEMORIES = {
    "ttt-mlp": lambda: ttt_tools.layer("mlp", mini_batch=4),
    "ttt-linear": lambda: ttt_tools.layer("linear", mini_batch=4, position_factor="sum"),
    "ttt-unbiased": lambda: ttt_tools.layer("mlp", mini_batch=4, bias=False, norm=False, residual=False),
    "lmm": lambda: titans_tools.layer(chunk=4, persistent=0, max_step=0.2),  # depth 2, momentum and retention on
    "lmm-persistent": lambda: titans_tools.layer(chunk=4, max_step=0.2, norm=True, residual=True, bias=True),
    "lmm-bare": lambda: titans_tools.layer(layers=3, momentum=False, retention=False, max_step=0.2),
}


def really_read(memory) -> torch.Tensor:
    """f_t(q_t) behind the last layer, from the weights as they stand after each token: (B, T, h, f)."""
    learner = getattr(memory, "neural", memory)
    state, reads = memory.init_state(2), []
    for token in X.split(1, dim=1):
        trace = Trace(("q",))
        _, state = memory(token, state, trace)
        reads.append(learner.inner.residue(memory.weights(state), trace["q"].transpose(1, 2)).transpose(1, 2))
    return torch.cat(reads, dim=1)


@pytest.mark.parametrize(
    "ablation", [Ablation(), Ablation(sign=-1), Ablation(read_with="key", learning_rate_per_token=False)]
)
@pytest.mark.parametrize("name", MEMORIES)
def test_what_is_read_is_linear_attention_over_moving_features(name, ablation):
    memory = MEMORIES[name]()
    with ablated(memory, ablation):
        wanted, form = really_read(memory), as_attention(memory, X)
        torch.testing.assert_close(form.read(), wanted, **CLOSE)
        if name in ("ttt-mlp", "lmm"):
            still = form.queries[:, :1].expand_as(form.queries)
            assert not torch.allclose(form.queries, still), "features move"
    assert len(form.starts) == (2 if name == "lmm-persistent" or name == "lmm" else 1)
    assert form.mask.triu(1).eq(0).all()


def test_its_scores_and_values_are_the_traces_weights_and_errors():
    memory, trace = MEMORIES["ttt-mlp"](), Trace()
    memory(X, None, trace)
    form = as_attention(memory, X)
    given = form.scores[..., None] * form.values.transpose(1, 2)[:, :, None]
    wanted = -trace["weights"].transpose(1, 2)[..., None] * trace["error"].transpose(1, 2)[:, :, None]
    torch.testing.assert_close(given, wanted, **CLOSE)


def test_with_the_last_layer_alone_the_features_stand_still():
    memory = MEMORIES["ttt-mlp"]()
    with ablated(memory, last_layer_only=True):
        form = as_attention(memory, X)
        torch.testing.assert_close(form.read(), really_read(memory), **CLOSE)
    k = Trace(("k",))
    memory(X, None, k)
    first = {n: w[None] for n, w in memory.start.items()}
    features = memory.inner.activate(memory.inner.layer(first, 1, k["k"].transpose(1, 2)))
    torch.testing.assert_close(form.keys[..., :-1], features.transpose(1, 2), **CLOSE)


def test_other_memories_and_several_steps_are_refused():
    for memory in (build_memory("self-modifying", 8, 2), titans_tools.layer(kind=PooledTitans)):
        with pytest.raises(CourseError, match="only TTT and Titans"):
            as_attention(memory, X)
    memory = MEMORIES["lmm"]()
    with ablated(memory, inner_steps=2), pytest.raises(CourseError, match="inner_steps=1"):
        as_attention(memory, X)
