"""The same outputs and gradients as the authors' PyTorch code, for layers and whole models."""

import json

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d, cross_entropy, rms_norm, silu

from nl_course.errors import CourseError
from nl_course.model import LanguageModel
from nl_course.nested.stacking import from_pretrained_blocks
from nl_course.official import load_model, load_ttt
from nl_course.official.checks import AssumedOption
from nl_course.official.model import read_model
from nl_course.official.ttt_options import NUMBERS, SIZES, WITHOUT_EFFECT, read_options
from tests import golden
from tests.memories import official_ttt
from tests.memories.ttt_tools import CLOSE, GRADIENTS, draw

LENGTHS = [1, 15, 16, 17, 40]
# Every option that the tensors do not say. Nothing is left to be assumed, so that no warning comes.
LAYER = dict(num_heads=2, base_lr=1.0, rope_theta=10_000.0)
EXPLICIT = LAYER | dict(rms_norm_eps=1e-6, hidden_act="silu")
pytestmark = pytest.mark.filterwarnings("error::nl_course.official.checks.AssumedOption")
BACKBONES = {  # shared q and k, gate
    "mamba": (True, True),
    "transformer": (False, False),
    "gate only": (False, True),
    "shared only": (True, False),
}


@pytest.mark.parametrize("path", ["reference", "chunked"])
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_layer_is_the_official_one(kind, backbone, path):
    shared, gate = BACKBONES[backbone]
    weights = official_ttt.random_weights(kind, shared, gate)
    memory = load_ttt(weights, **LAYER)
    memory.path = path
    assert (memory.config.kind, memory.config.share_qk, memory.config.gate) == (kind, shared, gate)
    for length in LENGTHS:
        x = draw(2, length, 16)
        torch.testing.assert_close(memory(x)[0], official_ttt.layer(weights, x, 2), **CLOSE)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("backbone", ["mamba", "transformer"])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_gradients_are_the_official_ones(kind, backbone, length):
    weights = {n: w.requires_grad_() for n, w in official_ttt.random_weights(kind, *BACKBONES[backbone]).items()}
    memory, x, direction = load_ttt(weights, **LAYER), draw(2, length, 16), draw(2, length, 16, seed=3)
    (official_ttt.layer(weights, x, 2) * direction).sum().backward()
    (memory(x)[0] * direction).sum().backward()
    theirs = load_ttt({n: w.grad for n, w in weights.items()}, **LAYER).state_dict()
    for name, parameter in memory.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name], **GRADIENTS, msg=lambda m, n=name: f"{n}: {m}")


def test_other_mini_batches_and_heads():
    weights, x = official_ttt.random_weights("linear", True, True, heads=4, size=5), draw(2, 13, 16)
    memory = load_ttt(weights, **LAYER | dict(num_heads=4, mini_batch_size=5))
    torch.testing.assert_close(memory(x)[0], official_ttt.layer(weights, x, 4), **CLOSE)


def _without(name):
    return lambda w: {n: t for n, t in w.items() if n != name}


@pytest.mark.parametrize(
    ("spoil", "options", "named"),
    [
        (_without("W1"), {}, "lack W1"),
        (_without("b1"), {}, "lack b1"),
        (_without("post_norm.bias"), {}, r"lack post_norm\.bias"),
        (_without("conv_k.weight"), {}, r"lack conv_k\.weight"),
        (lambda w: w | {"W3": w["W1"]}, {}, "does not know: W3"),
        (lambda w: w | {"W2": w["W1"]}, {}, "lack b2"),
        (lambda w: w | {"v_proj.weight": w["W1"]}, {}, r"v_proj\.weight must have the shape \(16, 16\)"),
        (lambda w: w, {"num_heads": 4}, r"must have the shape \(4, 4\)"),
        (lambda w: w, {"num_heads": 3}, "multiple of heads"),
        (lambda w: w, {"num_heads": 0}, "num_heads"),
        (lambda w: w, {"mini_batch_size": 8}, "mini_batch_size is 8, but the weights say 16"),
        (lambda w: {}, {}, "lack"),
    ],
)
def test_weights_that_do_not_fit_are_named(spoil, options, named):
    weights = spoil(official_ttt.random_weights("linear", True, True))
    with pytest.raises(CourseError, match=named):
        load_ttt(weights, **LAYER | options)


def model_weights(kind: str, backbone: str, conv: bool, layers: int = 2, vocab: int = 11) -> dict[str, Tensor]:
    weights = {"model.embed_tokens.weight": draw(vocab, 16, seed=20), "model.norm.weight": 1 + 0.2 * draw(16, seed=21)}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    for i in range(layers):
        block = official_ttt.random_weights(kind, *BACKBONES[backbone], seed=30 + i)
        block = {f"seq_modeling_block.{name}": w for name, w in block.items()}
        for j, name in enumerate(("seq_norm", "ffn_norm", *(["conv.norm"] if conv else []))):
            block[f"{name}.weight"] = 1 + 0.2 * draw(16, seed=40 + 7 * i + j)
        for j, (name, shape) in enumerate({"gate": (24, 16), "up": (24, 16), "down": (16, 24)}.items()):
            block[f"mlp.{name}_proj.weight"] = 0.3 * draw(*shape, seed=60 + 7 * i + j)
        if conv:
            block |= {"conv.conv.weight": draw(16, 1, 4, seed=80 + i), "conv.conv.bias": draw(16, seed=90 + i)}
        weights |= {f"model.layers.{i}.{name}": w for name, w in block.items()}
    return weights


def model_logits(
    weights: dict[str, Tensor], tokens: Tensor, heads: int, layers: int = 2, eps: float = 1e-6, **layer: float
) -> Tensor:
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    h = weights["model.embed_tokens.weight"][tokens]
    for i in range(layers):
        block = {n.split(".", 3)[3]: w for n, w in weights.items() if n.startswith(f"model.layers.{i}.")}
        if "conv.norm.weight" in block:
            normed = rms_norm(h, (16,), block["conv.norm.weight"], eps).transpose(1, 2)
            mixed = conv1d(normed, block["conv.conv.weight"], block["conv.conv.bias"], padding=3, groups=16)
            h = h + mixed[..., : h.shape[1]].transpose(1, 2)
        inner = {n.removeprefix("seq_modeling_block."): w for n, w in block.items() if n.startswith("seq_modeling")}
        h = h + official_ttt.layer(inner, rms_norm(h, (16,), block["seq_norm.weight"], eps), heads, **layer)
        u = rms_norm(h, (16,), block["ffn_norm.weight"], eps)
        gate, up, down = (block[f"mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
        h = h + (silu(u @ gate.T) * (u @ up.T)) @ down.T
    return rms_norm(h, (16,), weights["model.norm.weight"], eps) @ head.T


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize(("kind", "backbone"), [("linear", "mamba"), ("mlp", "mamba"), ("mlp", "transformer")])
def test_the_model_is_the_official_one(kind, backbone, conv, length):
    weights = model_weights(kind, backbone, conv)
    model = load_model(weights, **EXPLICIT)
    tokens = torch.randint(0, 11, (2, length), generator=torch.Generator().manual_seed(5))
    logits, state = model(tokens)
    torch.testing.assert_close(logits, model_logits(weights, tokens, 2), **CLOSE)
    assert state.nbytes == model.state_bytes(length, 2)
    split, carried = [], None
    for piece in tokens.split(7, dim=1):
        y, carried = model(piece, carried)
        split.append(y)
    torch.testing.assert_close(torch.cat(split, dim=1), logits, **CLOSE)


def test_a_model_without_tied_embeddings_and_without_a_head():
    weights = model_weights("linear", "mamba", True)
    tokens = torch.arange(9)[None]
    untied = weights | {"lm_head.weight": draw(11, 16, seed=70)}
    model = load_model(untied, **EXPLICIT)
    torch.testing.assert_close(model(tokens)[0], model_logits(untied, tokens, 2), **CLOSE)
    model = load_model(_without("lm_head.weight")(weights), **EXPLICIT)
    torch.testing.assert_close(model(tokens)[0], model_logits(weights, tokens, 2), **CLOSE)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (_without("model.norm.weight"), r"lack model\.norm\.weight"),
        (_without("model.embed_tokens.weight"), r"lack model\.embed_tokens\.weight"),
        (_without("model.layers.1.mlp.up_proj.weight"), r"model\.layers\.1 lack mlp\.up_proj\.weight"),
        (_without("model.layers.0.seq_modeling_block.W1"), "lack W1"),
        (lambda w: w | {"model.layers.0.conv.extra": w["model.norm.weight"]}, r"does not know: conv\.extra"),
        (lambda w: w | {"extra": w["model.norm.weight"]}, "does not know: extra"),
        (lambda w: {n: t for n, t in w.items() if ".layers." not in n}, r"starts with model\.layers\.0"),
        (lambda w: {n: t for n, t in w.items() if ".layers.0." not in n}, "numbered from 0"),
        (lambda w: w | {"model.norm.weight": w["lm_head.weight"]}, r"model\.norm\.weight must have the shape"),
        (lambda w: w | {"lm_head.weight": w["lm_head.weight"][:5]}, r"lm_head\.weight must have the shape"),
    ],
)
def test_model_weights_that_do_not_fit_are_named(spoil, named):
    with pytest.raises(CourseError, match=named):
        load_model(spoil(model_weights("linear", "mamba", True)), **EXPLICIT)


# -- the options that the tensors do not say ---------------------------------------------------------------------------
# The parameters of that code's TTTConfig with their defaults, as they stand there (ttt.py, commit cd831db).
THEIR_DEFAULTS = dict(
    vocab_size=32000,
    hidden_size=2048,
    intermediate_size=5504,
    num_hidden_layers=24,
    num_attention_heads=32,
    hidden_act="silu",
    max_position_embeddings=2048,
    initializer_range=0.02,
    rms_norm_eps=1e-6,
    use_cache=False,
    pad_token_id=None,
    bos_token_id=1,
    eos_token_id=2,
    pretraining_tp=1,
    tie_word_embeddings=True,
    rope_theta=10000.0,
    use_gate=False,
    share_qk=False,
    ttt_layer_type="linear",
    ttt_base_lr=1.0,
    mini_batch_size=16,
    pre_conv=False,
    conv_kernel=4,
    scan_checkpoint_group_size=0,
)
# The config.json of the model that `model_weights("mlp", "mamba", True)` are of.
CONFIG = THEIR_DEFAULTS | dict(
    vocab_size=11,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    use_gate=True,
    share_qk=True,
    ttt_layer_type="mlp",
    pre_conv=True,
    ttt_base_lr=0.3,
    rope_theta=1e6,
    rms_norm_eps=0.05,
    model_type="ttt",
    architectures=["TTTForCausalLM"],
)


def test_every_option_of_their_code_is_of_one_kind():
    kinds = [*NUMBERS, *SIZES, *WITHOUT_EFFECT]
    assert len(kinds) == len(set(kinds))
    assert set(THEIR_DEFAULTS) <= set(kinds)
    for name, (_, default) in NUMBERS.items():
        assert default is None or default == THEIR_DEFAULTS[name]


def test_numbers_are_read_from_the_config_file_and_change_the_logits(tmp_path):
    weights, tokens = model_weights("mlp", "mamba", True), torch.arange(9).repeat(3)[None]
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    model = load_model(weights, tmp_path / "config.json")
    expected = model_logits(weights, tokens, 2, eps=0.05, base_lr=0.3, theta=1e6)
    torch.testing.assert_close(model(tokens)[0], expected, **CLOSE)
    arguments = dict(num_heads=2, base_lr=0.3, rope_theta=1e6, rms_norm_eps=0.05, hidden_act="swish")
    torch.testing.assert_close(load_model(weights, **arguments)(tokens)[0], expected, **CLOSE)
    # Each of them matters: with that code's default for one, the logits are others.
    for changed in (dict(eps=1e-6), dict(base_lr=1.0), dict(theta=1e4)):
        other = model_logits(weights, tokens, 2, **dict(eps=0.05, base_lr=0.3, theta=1e6) | changed)
        assert (other - expected).abs().max() > 1e-3, changed


def test_a_layer_reads_the_same_config():
    weights, x = official_ttt.random_weights("mlp", True, True), draw(1, 20, 16)
    layer = load_ttt(weights, CONFIG)
    torch.testing.assert_close(layer(x)[0], official_ttt.layer(weights, x, 2, base_lr=0.3, theta=1e6), **CLOSE)


def test_levels_made_of_such_a_model_keep_its_norms():
    weights, tokens = model_weights("mlp", "mamba", True), torch.arange(9)[None]
    model = load_model(weights, CONFIG)
    torch.testing.assert_close(from_pretrained_blocks(model, chunks=4, rates=0.0)(tokens)[0], model(tokens)[0], **CLOSE)


@pytest.mark.parametrize(
    ("options", "assumed"),
    [
        (dict(num_heads=2), "base_lr 1.0, rope_theta 10000.0, rms_norm_eps 1e-06, hidden_act silu"),
        (dict(num_heads=2, rope_theta=5e5), "base_lr 1.0, rms_norm_eps 1e-06"),
        (dict(config={n: CONFIG[n] for n in ("num_attention_heads", "ttt_base_lr")}), "rope_theta 10000.0, rms_norm"),
    ],
)
@pytest.mark.filterwarnings("default")
def test_what_is_assumed_is_said(options, assumed):
    with pytest.warns(AssumedOption, match=f"code: {assumed}") as caught:
        load_model(model_weights("mlp", "mamba", True), **options)
    assert len(caught) == 1 and caught[0].filename == __file__


@pytest.mark.parametrize(
    ("changed", "options", "named"),
    [
        (dict(pretraining_tp=2), {}, "pretraining_tp must be 1"),
        (dict(hidden_act="gelu"), {}, "hidden_act 'gelu' is not known; choose one of: silu, swish"),
        (
            dict(rope_scaling={"type": "linear", "factor": 2.0}),
            {},
            "'rope_scaling' is not one of the TTT authors' code",
        ),
        (dict(mini_batch_size=8), {}, "mini_batch_size is 8, but the weights say 16: see learnable_token_idx"),
        (dict(ttt_layer_type="linear"), {}, "ttt_layer_type is 'linear', but the weights say 'mlp'"),
        (dict(use_gate=False), {}, "use_gate is False, but the weights say True"),
        (dict(share_qk=False), {}, "share_qk is False, but the weights say True"),
        (dict(pre_conv=False), {}, "pre_conv is False, but the weights say True"),
        (dict(conv_kernel=3), {}, "conv_kernel is 3, but the weights say 4"),
        (dict(vocab_size=12), {}, "vocab_size is 12, but the weights say 11"),
        (dict(hidden_size=32), {}, "hidden_size is 32, but the weights say 16"),
        (dict(intermediate_size=25), {}, "intermediate_size is 25, but the weights say 24"),
        (dict(num_hidden_layers=3), {}, "num_hidden_layers is 3, but the weights say 2"),
        (dict(num_attention_heads=None), {}, "num_heads is not given"),
        (dict(rms_norm_eps=-1.0), {}, "rms_norm_eps must be a number of at least 0"),
        (dict(ttt_base_lr="1"), {}, "base_lr must be a number"),
        (dict(rope_theta="1e6"), {}, "rope_theta must be a number"),
        ({}, dict(num_heads=4), "num_heads is 4, and the config's num_attention_heads is 2"),
        ({}, dict(mini_batch_size=8), "mini_batch_size is 8, and the config's mini_batch_size is 16"),
    ],
)
def test_options_that_do_not_fit_are_named(changed, options, named):
    with pytest.raises(CourseError, match=named):
        load_model(model_weights("mlp", "mamba", True), CONFIG | changed, **options)


def test_the_config_says_whether_the_output_is_tied():
    weights = model_weights("mlp", "mamba", True)
    assert load_model(weights, CONFIG).config.tied
    assert not load_model(weights, CONFIG | dict(tie_word_embeddings=False)).config.tied
    with pytest.raises(CourseError, match=r"tie_word_embeddings is False, but the weights lack lm_head\.weight"):
        load_model(_without("lm_head.weight")(weights), CONFIG | dict(tie_word_embeddings=False))
    # Hugging Face leaves the option out of the file where it is True.
    short = _without("tie_word_embeddings")(CONFIG)
    with pytest.raises(CourseError, match=r"tie_word_embeddings is True, but lm_head\.weight is not"):
        load_model(weights | {"lm_head.weight": draw(11, 16, seed=70)}, short)


@pytest.mark.parametrize(
    ("text", "named"),
    [(None, "cannot read"), ("{", "is not JSON"), ("[1]", "must be a JSON object"), ("\xff", "is not")],
)
def test_a_config_file_that_cannot_be_read_is_named(tmp_path, text, named):
    if text is not None:
        (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CourseError, match=rf"config .*config\.json' {named}|{named} the config"):
        load_model(model_weights("mlp", "mamba", True), tmp_path / "config.json")


# -- numbers that the authors' code itself made ------------------------------------------------------------------------
MADE_BY_THEIR_CODE = ("ttt_official_linear_mamba", "ttt_official_mlp_transformer")
# Ours computes in float64 here, so that the whole difference is the rounding of theirs, which is float32's: some 1e-6
# in logits of size 4 and in gradients of size 1.
THEIR_ROUNDING = dict(rtol=0, atol=1e-5)


def their_model(arrays: dict[str, Tensor], dtype: torch.dtype = torch.float64) -> LanguageModel:
    heads, size, base_lr = arrays["meta"].tolist()
    options = EXPLICIT | dict(num_heads=int(heads), mini_batch_size=int(size), base_lr=base_lr)
    return load_model(golden.part(arrays, "w|"), **options).to(dtype)


@golden.needs_golden
@pytest.mark.parametrize("path", ["reference", "chunked"])
@pytest.mark.parametrize("name", MADE_BY_THEIR_CODE)
def test_weights_that_their_code_saved_give_their_logits_loss_and_gradients(name, path):
    arrays = golden.load(name)
    model = their_model(arrays)
    for layer in model.layers:
        layer.memory.path = path
    for length, tokens in golden.part(arrays, "ids|").items():
        logits, _ = model(tokens)
        torch.testing.assert_close(logits.float(), arrays[f"logits|{length}"], **THEIR_ROUNDING)
    tokens = arrays["ids|20"]
    logits, _ = model(tokens)
    loss = cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(loss.float(), arrays["loss|20"], **THEIR_ROUNDING)
    loss.backward()
    # Their gradients, read as if they were weights, have our names.
    options = read_options(None, EXPLICIT | dict(num_heads=model.config.heads), needed=())
    _, theirs = read_model(golden.part(arrays, "g|"), options)
    for parameter, w in model.named_parameters():
        torch.testing.assert_close(
            w.grad.float(), theirs[parameter], **THEIR_ROUNDING, msg=lambda m, n=parameter: f"{n}: {m}"
        )


@golden.needs_golden
@pytest.mark.parametrize("name", MADE_BY_THEIR_CODE)
def test_token_by_token_it_says_and_remembers_what_theirs_does(name):
    """Their cache holds the anchor (`states`) and the sum of the open mini-batch (`grad`), as our state does."""
    arrays = golden.load(name)
    model = their_model(arrays)
    prompt, greedy = arrays["prompt"], arrays["greedy"]
    assert torch.equal(torch.stack(list(model.generate(prompt, 20, temperature=0)), dim=1), greedy)
    with torch.no_grad():
        logits, state = model(prompt)
        last = [logits[:, -1]]
        for token in greedy.split(1, dim=1):
            logits, state = model(token, state)
            last.append(logits[:, -1])
    torch.testing.assert_close(torch.stack(last, dim=1).float(), arrays["cached_logits"], **THEIR_ROUNDING)
    memory = state.memory(0)
    for parameter in memory.anchor:
        for ours, theirs in ((memory.anchor, "states"), (memory.grad_accum, "grad")):
            expected = arrays[f"cache|{parameter}_{theirs}|0"]
            torch.testing.assert_close(ours[parameter].float(), expected, **THEIR_ROUNDING)


@golden.needs_golden
@pytest.mark.parametrize("name", MADE_BY_THEIR_CODE)
def test_in_their_own_dtype_it_is_as_near(name):
    arrays = golden.load(name)
    model = their_model(arrays, torch.float32)
    logits, _ = model(arrays["ids|24"])
    torch.testing.assert_close(logits, arrays["logits|24"], rtol=0, atol=2e-5)


@golden.needs_golden
@pytest.mark.parametrize("name", MADE_BY_THEIR_CODE)
def test_the_statement_in_official_ttt_is_their_code(name):
    """What the tests above compare with is not only ours: it gives their numbers on their weights."""
    arrays = golden.load(name)
    weights = {parameter: w.double() for parameter, w in golden.part(arrays, "w|").items()}
    base_lr = arrays["meta"][2].item()
    for length, tokens in golden.part(arrays, "ids|").items():
        logits = model_logits(weights, tokens, 2, base_lr=base_lr)
        torch.testing.assert_close(logits.float(), arrays[f"logits|{length}"], **THEIR_ROUNDING)
