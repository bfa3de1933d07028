"""Our language model with attention against logits of `LlamaForCausalLM` (Hugging Face transformers 5.24.0, grouped
heads, eager attention)."""

import pytest
import torch

from nl_course.model import LanguageModel, ModelConfig
from tests import golden
from tests.peers.weights import llama

OPTIONS = dict(kv_heads=2, rope_theta=1e6)


@golden.needs_golden
@pytest.mark.parametrize("path", ["reference", "sdpa"])
@torch.no_grad()
def test_the_same_weights_give_llamas_logits(path):
    arrays = golden.load("hf_llama_gqa")
    theirs = golden.part(arrays, "w|")
    config = ModelConfig(vocab=37, width=16, layers=2, heads=4, hidden=24, options=OPTIONS, tied=False)
    model = LanguageModel(config, path=path).double()
    model.load_state_dict(llama(theirs, layers=2, heads=4, kv_heads=2) | {"head.weight": theirs["lm_head.weight"]})
    # Ours computes in float64, so that the whole difference is the rounding of theirs: 5e-6 in logits of size 10.
    logits, _ = model(arrays["ids"])
    torch.testing.assert_close(logits.float(), arrays["logits"], rtol=0, atol=2e-5)
    pieces, state = [], None
    for piece in arrays["ids"].split([1, 30, 1, 8], dim=1):
        logits, state = model(piece, state)
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1).float(), arrays["logits"], rtol=0, atol=2e-5)
