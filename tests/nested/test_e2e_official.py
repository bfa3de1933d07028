"""Official weights: the same losses and meta-gradients as the statement of e2e_official.py, and refusals by name."""

import numpy as np
import pytest
import torch

from nl_course.errors import CourseError
from nl_course.official import load_e2e, save_e2e
from nl_course.official.checks import AssumedOption
from nl_course.official.e2e_options import FAST_MLPS, NUMBERS, ONLY, SIZES, WITHOUT_EFFECT
from tests import golden
from tests.nested.e2e_official import FAST, ROOT, losses, random_params
from tests.nested.suite import build

SHAPE = dict(layers=4, suffix=2, vocab=13, d=8, heads=2, f=7, prime=6)
# Every option that the arrays do not say. Nothing is left to be assumed, so that no warning comes.
CALL = dict(num_heads=2, window=6, chunk=4, inner_lr=1.0, inner_clip=1.0, rope_theta=500_000.0, rms_norm_eps=1e-6)
pytestmark = pytest.mark.filterwarnings("error::nl_course.official.checks.AssumedOption")


def gradients_by_both(options: dict, sizes: dict = SHAPE, tokens: int = 18):
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
        dict(rms_norm_eps=0.1),
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
    our_losses, wanted, ours, theirs = gradients_by_both(dict(inner_clip=0.1), SHAPE | dict(suffix=4))
    torch.testing.assert_close(our_losses, wanted, rtol=1e-9, atol=1e-9)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-8, atol=1e-8)


def test_arrays_of_numpy_come_in_and_go_out_as_they_were():
    params = random_params(**SHAPE)
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
    params = random_params(**SHAPE)
    change(params)
    with pytest.raises(CourseError, match=message):
        load_e2e(params, **CALL)


def test_wrong_options_are_named():
    params = random_params(**SHAPE)
    for options, message in (
        (dict(num_heads=3), "num_heads is 3"),
        (dict(chunk=0), "chunk"),
        (dict(window=0), "window"),
        (dict(inner_clip=-1), "inner_clip"),
        (dict(inner_lr=-1), "inner_lr"),
        (dict(num_heads=None), "num_heads is not given"),
        (dict(window=None), "window is not given"),
    ):
        with pytest.raises(CourseError, match=message):
            load_e2e(params, **CALL | options)
    model = build("sequential-attention-one")
    with pytest.raises(CourseError, match="e2e_config"):
        save_e2e(model)


# -- the options that the arrays do not say ----------------------------------------------------------------------------
# The fields of that code's ModelConfig with their defaults, as they stand there (ttt/config.py, commit a4fc478).
THEIR_DEFAULTS = dict(
    name="unnamed",
    vocab_size=32000,
    hidden_size=768,
    intermediate_size=2048,
    num_hidden_layers=12,
    num_attention_heads=12,
    mini_batch_size=1024,
    sliding_window_size=1024,
    seq_len=131072,
    rms_norm_eps=1e-6,
    initializer_range=0.02,
    bos_token_id=1,
    eos_token_id=2,
    resid_pdrop=0.0,
    embd_pdrop=0.0,
    attn_pdrop=0.0,
    tie_word_embeddings=False,
    remat_block="",
    remat_block_bwd="",
    remat_prefix_block="nothing_saveable",
    remat_attention="",
    remat_attention_bwd="",
    remat_mlp="",
    remat_mlp_bwd="",
    remat_rms="",
    remat_rms_bwd="",
    remat_multiple_gd="",
    seq_modeling_block="self_attention",
    rope_theta=10000.0,
    output_size=32000,
    compute_dtype="bf16",
    param_dtype="fp32",
    state_dtype="fp32",
    unroll_block_scan=False,
    unroll_inner_scan=False,
    force_flash=False,
    suffix_len=0,
    prime=False,
    qk_norm=True,
    pre_norm=True,
    post_norm=True,
    feed_forward_prime="swiglu",
)
# What one of their experiments overrides (configs/experiment/125m/pretrain/pretrain-125m-e2e.yaml), at SHAPE's sizes.
MODEL = THEIR_DEFAULTS | dict(
    vocab_size=13,
    hidden_size=8,
    intermediate_size=7,
    num_hidden_layers=4,
    num_attention_heads=2,
    tie_word_embeddings=True,
    seq_modeling_block="SWA",
    mini_batch_size=4,
    sliding_window_size=6,
    rope_theta=10_000,
    rms_norm_eps=0.1,
    prime=True,
    suffix_len=2,
    unroll_block_scan=True,
)
TRAINING = dict(
    train_mode="meta",
    spec_inner=FAST_MLPS,
    ilr_init=0.1,
    optimizer_inner=dict(optimizer_type="sgd", lr=0.5, clip_gradient=0.05),
)
WITH_CONFIG = SHAPE | dict(prime=7)  # in their code fast and static MLPs are of one width


def test_every_option_of_their_model_is_of_one_kind():
    kinds = [*NUMBERS, *ONLY, *SIZES, *WITHOUT_EFFECT]
    assert len(kinds) == len(set(kinds))
    assert set(kinds) == set(THEIR_DEFAULTS)


def test_numbers_are_read_from_the_config_and_change_the_losses():
    params = random_params(**WITH_CONFIG)
    leaves = {name: w.clone().requires_grad_() for name, w in params.items()}
    text = torch.randint(0, 13, (18,), generator=torch.Generator().manual_seed(1))
    ours = load_e2e(params, dict(model=MODEL, training=TRAINING)).token_losses(text[None])[0]
    numbers = dict(num_heads=2, window=6, chunk=4, inner_lr=0.5, inner_clip=0.05, rope_theta=1e4, rms_norm_eps=0.1)
    torch.testing.assert_close(ours, losses(leaves, text, **numbers), rtol=1e-9, atol=1e-9)
    # Each of them matters.
    released = dict(window=7, chunk=3, inner_lr=1.0, inner_clip=1.0, rope_theta=5e5, rms_norm_eps=1e-6)
    for name, value in released.items():
        assert (losses(leaves, text, **numbers | {name: value}) - ours).abs().max() > 1e-5, name


def test_a_clip_of_0_is_none_as_in_their_code():
    params = random_params(**WITH_CONFIG)
    unclipped = TRAINING | dict(optimizer_inner=dict(optimizer_type="sgd", lr=0.5, clip_gradient=0.0))
    assert load_e2e(params, dict(model=MODEL, training=unclipped)).config.clip is None
    assert load_e2e(params, **CALL | dict(inner_clip=None)).config.clip is None


@pytest.mark.filterwarnings("default")
def test_what_is_assumed_is_said():
    expected = "inner_lr 1.0, inner_clip 1.0, rope_theta 500000.0, rms_norm_eps 1e-06"
    with pytest.warns(AssumedOption, match=f"code: {expected}") as caught:
        load_e2e(random_params(**SHAPE), num_heads=2, window=6, chunk=4)
    assert len(caught) == 1 and caught[0].filename == __file__


@pytest.mark.parametrize(
    ("model", "training", "options", "named"),
    [
        (dict(seq_modeling_block="self_attention"), {}, {}, "model.seq_modeling_block must be 'SWA'"),
        (dict(prime=False), {}, {}, "model.prime must be True"),
        (dict(qk_norm=False), {}, {}, "model.qk_norm must be True"),
        (dict(post_norm=False), {}, {}, "model.post_norm must be True"),
        (dict(tie_word_embeddings=False), {}, {}, "model.tie_word_embeddings must be True"),
        (dict(resid_pdrop=0.1), {}, {}, "model.resid_pdrop must be 0.0, not 0.1"),
        (dict(suffix_len=3), {}, {}, "suffix_len is 3, but the weights say 2"),
        (dict(intermediate_size=6), {}, {}, "intermediate_size is 6, but the weights say 7"),
        (dict(num_hidden_layers=5), {}, {}, "num_hidden_layers is 5, but the weights say 4"),
        (dict(vocab_size=14), {}, {}, "vocab_size is 14, but the weights say 13"),
        (dict(dropout=0.1), {}, {}, "model.dropout is not one of"),
        ({}, dict(train_mode="pretrain"), {}, "training.train_mode must be 'meta'"),
        ({}, dict(spec_inner=["**"]), {}, "training.spec_inner must be"),
        ({}, dict(optimizer_inner=dict(optimizer_type="adamw", lr=1, clip_gradient=0)), {}, "must be 'sgd'"),
        ({}, dict(optimizer_inner=dict(lr=1.0)), {}, "lacks training.optimizer_inner.optimizer_type"),
        ({}, {}, dict(window=7), "window is 7, and the config's window is 6"),
    ],
)
def test_options_that_do_not_fit_are_named(model, training, options, named):
    with pytest.raises(CourseError, match=named):
        load_e2e(random_params(**WITH_CONFIG), dict(model=MODEL | model, training=TRAINING | training), **options)


def test_a_config_that_is_not_whole_is_named():
    params = random_params(**WITH_CONFIG)
    lacking = {name: value for name, value in MODEL.items() if name != "rope_theta"}
    with pytest.raises(CourseError, match=r"lacks model\.rope_theta"):
        load_e2e(params, dict(model=lacking, training=TRAINING))
    with pytest.raises(CourseError, match="section 'training'"):
        load_e2e(params, dict(model=MODEL))


# -- numbers that the authors' code itself made ------------------------------------------------------------------------
# Ours computes in float64 here, so that the whole difference is the rounding of theirs, in float32: 4e-6 in losses of
# size 4, 1.3e-5 in gradients of size 1.
THEIR_ROUNDING = dict(rtol=0, atol=3e-5)


def golden_case(case: str) -> tuple[dict, dict, dict]:
    """Their arrays, the case's parameters by name in float64, and the options it was made with."""
    arrays = golden.part(golden.load("ttt_e2e_official"), f"{case}|")
    _, _, window, chunk, _, clip, heads = arrays["case"].tolist()
    options = dict(num_heads=int(heads), window=int(window), chunk=int(chunk), inner_clip=clip or None)
    params = {name: w.double().requires_grad_() for name, w in golden.part(arrays, "p|").items()}
    return arrays, params, CALL | options


@golden.needs_golden
@pytest.mark.parametrize("case", ["0", "2"])
def test_losses_and_meta_gradients_are_those_that_their_code_made(case):
    arrays, params, options = golden_case(case)
    model = load_e2e(params, **options)
    ours = model.token_losses(arrays["ids"][None])[0]
    torch.testing.assert_close(ours.float(), arrays["nll"], **THEIR_ROUNDING)
    torch.testing.assert_close(ours.mean().float(), arrays["loss"], **THEIR_ROUNDING)
    ours.mean().backward()
    gradients = save_e2e(model, gradients=True)
    theirs = golden.part(arrays, "g|")
    assert gradients.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(
            gradients[name].float(), gradient, **THEIR_ROUNDING, msg=lambda m, n=name: f"{n}: {m}"
        )


@golden.needs_golden
@pytest.mark.parametrize("case", ["0", "2"])
def test_their_arrays_come_back_as_they_were(case):
    params = golden.part(golden.load("ttt_e2e_official"), f"{case}|p|")
    _, _, options = golden_case(case)
    back = save_e2e(load_e2e(params, **options))
    assert back.keys() == params.keys()
    for name, w in params.items():
        assert torch.equal(back[name], w), name


@golden.needs_golden
@pytest.mark.parametrize("case", ["0", "2"])
def test_the_statement_in_e2e_official_is_their_code(case):
    """What the tests above compare with is not only ours: it gives their numbers on their arrays."""
    arrays, params, options = golden_case(case)
    torch.testing.assert_close(losses(params, arrays["ids"], **options).float(), arrays["nll"], **THEIR_ROUNDING)
