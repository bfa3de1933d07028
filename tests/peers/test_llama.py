"""Our language model with attention against Llama, Mistral (a window) and Qwen3 (normalized queries and keys) of
Hugging Face transformers."""

import pytest
import torch

from nl_course.model import LanguageModel, ModelConfig
from tests.peers import FLOAT32, moved, pairs_from_halves, random
from tests.peers.weights import llama

transformers = pytest.importorskip("transformers", reason="transformers is not installed; `make peers` does it.")
SIZES = dict(vocab=37, width=24, layers=3, heads=4, hidden=40)


def theirs(kv_heads: int, attention: str = "eager") -> torch.nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=37,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        attn_implementation=attention,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    model.lm_head.weight = model.model.embed_tokens.weight
    return moved(model)


def ours(peer: torch.nn.Module, kv_heads: int, path: str = "auto") -> LanguageModel:
    """Our model with the peer's weights."""
    model = LanguageModel(ModelConfig(**SIZES, options=dict(kv_heads=kv_heads)), path=path).double()
    model.load_state_dict(llama(peer.state_dict(), layers=3, heads=4, kv_heads=kv_heads))
    return model


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("path", ["auto", "reference"])
@torch.no_grad()
def test_the_same_weights_give_the_same_logits(kv_heads, path):
    peer = theirs(kv_heads)
    tokens = torch.randint(37, (2, 70), generator=torch.Generator().manual_seed(0))
    expected = peer(tokens).logits
    logits, _ = ours(peer, kv_heads, path)(tokens)
    assert expected.std() > 0.5
    torch.testing.assert_close(logits, expected.double(), **FLOAT32)


@torch.no_grad()
def test_their_cache_and_our_state_go_on_alike():
    peer = theirs(2)
    model = ours(peer, 2)
    tokens = torch.randint(37, (1, 20), generator=torch.Generator().manual_seed(1))
    expected, cache = [], None
    state, got = None, []
    for piece in tokens.split([7, 1, 1, 11], dim=1):
        out = peer(piece, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        logits, state = model(piece, state)
        expected.append(out.logits)
        got.append(logits)
    torch.testing.assert_close(torch.cat(got, 1), torch.cat(expected, 1).double(), **FLOAT32)


def test_the_same_gradients():
    peer = theirs(2)
    model = ours(peer, 2, "reference")
    tokens = torch.randint(37, (2, 12), generator=torch.Generator().manual_seed(2))
    direction = random(2, 12, 37, seed=3)
    (peer(tokens).logits * direction).mean().backward()
    (model(tokens)[0] * direction).mean().backward()
    pairs = [
        (model.embedding.weight, peer.model.embed_tokens.weight.grad),
        (model.layers[0].mlp.up.weight, peer.model.layers[0].mlp.up_proj.weight.grad),
        (model.layers[0].memory_norm.weight, peer.model.layers[0].input_layernorm.weight.grad),
        (model.layers[0].memory.query.weight, pairs_from_halves(peer.model.layers[0].self_attn.q_proj.weight.grad, 4)),
    ]
    for mine, expected in pairs:
        torch.testing.assert_close(mine.grad / expected.std(), expected / expected.std(), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_sliding_window_is_mistrals():
    config = transformers.MistralConfig(
        vocab_size=37,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        sliding_window=9,
        rms_norm_eps=0.02,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    peer = moved(transformers.MistralForCausalLM(config))
    options = dict(kv_heads=2, window=9, rope_theta=500.0)
    model = LanguageModel(ModelConfig(**SIZES, options=options, norm_eps=0.02)).double()
    model.load_state_dict(llama(peer.state_dict(), layers=3, heads=4, kv_heads=2))
    tokens = torch.randint(37, (2, 40), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(model(tokens)[0], peer(tokens).logits.double(), **FLOAT32)


@torch.no_grad()
def test_normalized_queries_and_keys_are_qwen3s():
    config = transformers.Qwen3Config(
        vocab_size=37,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        rms_norm_eps=0.02,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    peer = moved(transformers.Qwen3ForCausalLM(config))
    options = dict(kv_heads=2, qk_norm=True, norm_eps=0.02)
    model = LanguageModel(ModelConfig(**SIZES, options=options, norm_eps=0.02)).double()
    theirs = peer.state_dict()
    weights = llama(theirs, layers=3, heads=4, kv_heads=2)
    for i in range(3):
        for ours, name in (("query_norm", "q_norm"), ("key_norm", "k_norm")):
            # The gains of a head's features, in the order of neighboring pairs.
            gain = theirs[f"model.layers.{i}.self_attn.{name}.weight"][:, None]
            weights[f"layers.{i}.memory.{ours}.weight"] = pairs_from_halves(gain, 1)[:, 0]
    model.load_state_dict(weights)
    tokens = torch.randint(37, (2, 40), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(model(tokens)[0], peer(tokens).logits.double(), **FLOAT32)
