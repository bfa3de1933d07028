"""The same outputs and gradients as the authors' PyTorch code, for layers and whole models."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d, cross_entropy, rms_norm, silu

from nl_course.errors import CourseError
from nl_course.official import load_model, load_ttt
from nl_course.official.model import read_model
from tests.memories import official_ttt
from tests.memories.ttt_tools import CLOSE, GRADIENTS, draw

LENGTHS = [1, 15, 16, 17, 40]
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
    memory = load_ttt(weights, num_heads=2)
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
    memory, x, direction = load_ttt(weights, num_heads=2), draw(2, length, 16), draw(2, length, 16, seed=3)
    (official_ttt.layer(weights, x, 2) * direction).sum().backward()
    (memory(x)[0] * direction).sum().backward()
    theirs = load_ttt({n: w.grad for n, w in weights.items()}, num_heads=2).state_dict()
    for name, parameter in memory.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name], **GRADIENTS, msg=lambda m, n=name: f"{n}: {m}")


def test_the_base_rate_is_1_unless_given():
    weights, x = official_ttt.random_weights("mlp", True, True), draw(1, 20, 16)
    assert load_ttt(weights, num_heads=2).config.base_rate == 1.0
    memory = load_ttt(weights, num_heads=2, base_lr=0.1)
    torch.testing.assert_close(memory(x)[0], official_ttt.layer(weights, x, 2, base_lr=0.1), **CLOSE)


def test_other_mini_batches_and_heads():
    weights, x = official_ttt.random_weights("linear", True, True, heads=4, size=5), draw(2, 13, 16)
    memory = load_ttt(weights, num_heads=4, mini_batch_size=5)
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
        (lambda w: w, {"mini_batch_size": 8}, "16 positions"),
        (lambda w: {}, {}, "lack"),
    ],
)
def test_weights_that_do_not_fit_are_named(spoil, options, named):
    weights = spoil(official_ttt.random_weights("linear", True, True))
    with pytest.raises(CourseError, match=named):
        load_ttt(weights, **({"num_heads": 2} | options))


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


def model_logits(weights: dict[str, Tensor], tokens: Tensor, heads: int, layers: int = 2) -> Tensor:
    h = weights["model.embed_tokens.weight"][tokens]
    for i in range(layers):
        block = {n.split(".", 3)[3]: w for n, w in weights.items() if n.startswith(f"model.layers.{i}.")}
        if "conv.norm.weight" in block:
            normed = rms_norm(h, (16,), block["conv.norm.weight"], 1e-6).transpose(1, 2)
            mixed = conv1d(normed, block["conv.conv.weight"], block["conv.conv.bias"], padding=3, groups=16)
            h = h + mixed[..., : h.shape[1]].transpose(1, 2)
        inner = {n.removeprefix("seq_modeling_block."): w for n, w in block.items() if n.startswith("seq_modeling")}
        h = h + official_ttt.layer(inner, rms_norm(h, (16,), block["seq_norm.weight"], 1e-6), heads)
        u = rms_norm(h, (16,), block["ffn_norm.weight"], 1e-6)
        gate, up, down = (block[f"mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
        h = h + (silu(u @ gate.T) * (u @ up.T)) @ down.T
    return rms_norm(h, (16,), weights["model.norm.weight"], 1e-6) @ weights["lm_head.weight"].T


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize(("kind", "backbone"), [("linear", "mamba"), ("mlp", "mamba"), ("mlp", "transformer")])
def test_the_model_is_the_official_one(kind, backbone, conv, length):
    weights = model_weights(kind, backbone, conv)
    model = load_model(weights, num_heads=2)
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
    model = load_model(untied, num_heads=2)
    torch.testing.assert_close(model(tokens)[0], model_logits(untied, tokens, 2), **CLOSE)
    model = load_model(_without("lm_head.weight")(weights), num_heads=2)
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
        load_model(spoil(model_weights("linear", "mamba", True)), num_heads=2)


# -- numbers that the authors' code itself made ------------------------------------------------------------------------
GOLDEN = os.environ.get("NL_COURSE_GOLDEN")
MADE_BY_THEIR_CODE = ("ttt_official_linear_mamba", "ttt_official_mlp_transformer")


@pytest.mark.skipif(GOLDEN is None, reason="NL_COURSE_GOLDEN names no folder with arrays from the authors' code")
@pytest.mark.parametrize("name", MADE_BY_THEIR_CODE)
def test_a_model_that_their_code_saved_gives_their_logits_and_gradients(name):
    with np.load(Path(GOLDEN) / f"{name}.npz") as file:
        arrays = {key: torch.from_numpy(array) for key, array in file.items()}
    heads, size, base_lr = arrays["meta"].tolist()
    options = dict(num_heads=int(heads), mini_batch_size=int(size), base_lr=base_lr)
    saved = {key.removeprefix("w|"): w for key, w in arrays.items() if key.startswith("w|")}
    model = load_model(saved, **options)
    for key, tokens in arrays.items():
        if key.startswith("ids|"):
            logits, _ = model(tokens)
            torch.testing.assert_close(logits, arrays[f"logits|{key.removeprefix('ids|')}"], rtol=1e-4, atol=1e-5)
    tokens = arrays["ids|20"]
    logits, _ = model(tokens)
    loss = cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(loss, arrays["loss|20"], rtol=1e-5, atol=1e-6)
    loss.backward()
    # Their gradients, read as if they were weights, have our names.
    _, theirs = read_model({key.removeprefix("g|"): g for key, g in arrays.items() if key.startswith("g|")}, **options)
    for parameter, w in model.named_parameters():
        torch.testing.assert_close(
            w.grad, theirs[parameter], rtol=1e-3, atol=2e-5, msg=lambda m, n=parameter: f"{n}: {m}"
        )
