"""Official weights: the same losses and meta-gradients as the statement of e2e_official.py, and refusals by name."""

import numpy as np
import pytest
import torch

from nl_course.errors import CourseError
from nl_course.official import load_e2e, save_e2e
from tests.nested.e2e_official import FAST, ROOT, losses, random_params
from tests.nested.suite import build

SIZES = dict(layers=4, suffix=2, vocab=13, d=8, heads=2, f=7, prime=6)
CALL = dict(num_heads=2, window=6, chunk=4)


def gradients_by_both(options: dict, sizes: dict = SIZES, tokens: int = 18):
    """The losses and meta-gradients of two texts, ours and the statement's."""
    params = random_params(**sizes)
    call = CALL | options
    model = load_e2e(params, **call)
    text = torch.randint(0, 13, (2, tokens), generator=torch.Generator().manual_seed(1))
    ours = model.token_losses(text)
    ours.mean().backward()
    leaves = {name: w.clone().requires_grad_() for name, w in params.items()}
    wanted = torch.stack([losses(leaves, row, **call) for row in text])
    expected = torch.autograd.grad(wanted.mean(), list(leaves.values()))
    return ours, wanted, save_e2e(model, gradients=True), dict(zip(leaves, expected, strict=True))


@pytest.mark.parametrize(
    "options",
    [
        dict(inner_clip=None),
        dict(inner_clip=1.0),
        dict(inner_clip=0.05),
        dict(inner_clip=0.05, window=3),
        dict(inner_clip=0.3, inner_lr=0.25, rope_theta=10_000.0),
        dict(inner_clip=None, window=64),
        dict(inner_lr=0.0),
    ],
    ids=str,
)
def test_losses_and_meta_gradients_are_those_of_the_official_rule(options):
    our_losses, wanted, ours, theirs = gradients_by_both(options)
    torch.testing.assert_close(our_losses, wanted, rtol=1e-9, atol=1e-9)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert gradient.norm() > 1e-5, name
        torch.testing.assert_close(ours[name], gradient, rtol=1e-8, atol=1e-8)


def test_every_block_may_learn():
    our_losses, wanted, ours, theirs = gradients_by_both(dict(inner_clip=0.1), SIZES | dict(suffix=4))
    torch.testing.assert_close(our_losses, wanted, rtol=1e-9, atol=1e-9)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-8, atol=1e-8)


def test_arrays_of_numpy_come_in_and_go_out_as_they_were():
    params = random_params(**SIZES)
    model = load_e2e({n: w.float().numpy() for n, w in params.items()}, **CALL)
    assert model.embedding.weight.dtype == torch.float32
    assert model.config.options == {"window": 6, "rope_theta": 500_000.0, "qk_norm": True}
    assert model.config.levels[3][0].hidden == 6 and model.config.levels[3][1].hidden == 7
    back = save_e2e(model)
    assert back.keys() == params.keys()
    for name, w in params.items():
        assert torch.equal(back[name], w.float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop(FAST[1]), "lack language_model/model/h/prime_storage/feed_forward_prime/w2/weight"),
        (lambda p: p.update({"lm_head/weight": p[f"{ROOT}wte/weight"]}), "does not know: lm_head/weight"),
        (lambda p: p.update({FAST[1]: p[FAST[1]].mT}), r"w2/weight must have the shape \(2, 6, 8\), not \(2, 8, 6\)"),
        (lambda p: p.update({FAST[0]: p[FAST[0]][0]}), r"w1/weight must have 3 axes, not the shape \(8, 6\)"),
        (lambda p: p.update({f"{ROOT}ln_f/weight": np.arange(8)}), "ln_f/weight must be an array of floating-point"),
        (lambda p: p.update({n: torch.cat([p[n]] * 3) for n in p if "prime" in n}), "6 fast MLPs .* for 4 blocks"),
    ],
)
def test_arrays_that_do_not_fit_are_named(change, message):
    params = random_params(**SIZES)
    change(params)
    with pytest.raises(CourseError, match=message):
        load_e2e(params, **CALL)


def test_wrong_options_are_named():
    params = random_params(**SIZES)
    for options, message in (
        (dict(num_heads=3), "num_heads is 3"),
        (dict(chunk=0), "chunk"),
        (dict(window=0), "window"),
        (dict(inner_clip=0), "clip"),
        (dict(inner_lr=-1), "rate"),
    ):
        with pytest.raises(CourseError, match=message):
            load_e2e(params, **CALL | options)
    model = build("sequential-attention-one")
    with pytest.raises(CourseError, match="e2e_config"):
        save_e2e(model)
