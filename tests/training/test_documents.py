"""Rows that are cut where a document ends: the losses and gradients of the documents read apart. And blocks that are
computed twice: the losses and gradients of blocks that are computed once."""

import itertools

import pytest
import torch
from torch.nn.functional import cross_entropy

from nl_course.errors import CourseError
from nl_course.model import LanguageModel, ModelConfig
from nl_course.nested import NestedLanguageModel, preset
from nl_course.tasks.targets import IGNORED
from nl_course.training import TrainingConfig, evaluate, gradient, token_losses, train
from nl_course.training.blocks import checkpointed_blocks
from nl_course.training.distributed import Ranks
from nl_course.training.estimate import count_row

END = 3  # ends a document
MEMORIES = ["attention", "gated-delta", "ttt-linear", "titans", "mac", "self-modifying"]


def model_of(memory, layers=2):
    torch.manual_seed(0)
    if memory == "clocks":
        return NestedLanguageModel(preset("hope-attention-micro")).double()
    return LanguageModel(ModelConfig(vocab=20, width=16, layers=layers, heads=2, hidden=24, memory=memory)).double()


def rows():
    """Three rows of 24 tokens, cut in every way: at the first token, twice in a row, at the last, nowhere."""
    torch.manual_seed(1)
    tokens = torch.randint(4, 20, (3, 25))
    tokens[0, [0, 7, 8, 23]] = END
    tokens[1, [11, 24]] = END
    return tokens[:, :-1], tokens[:, 1:].clone()


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def apart(model, inputs, targets):
    """The definition: each document by itself, from an empty state, behind the token that ended the one before."""
    losses = torch.zeros(targets.shape, dtype=torch.float64)
    for row in range(len(inputs)):
        ends = (inputs[row] == END).nonzero().flatten().tolist()
        cuts = sorted({0, *ends, inputs.shape[1]})
        for start, stop in itertools.pairwise(cuts):
            logits, _ = model(inputs[row : row + 1, start:stop])
            losses[row, start:stop] = cross_entropy(logits[0].float(), targets[row, start:stop], reduction="none")
    return losses


@pytest.mark.parametrize("memory", [*MEMORIES, "clocks"])
def test_cut_rows_have_the_losses_and_gradients_of_documents_read_apart(memory):
    inputs, targets = rows()
    model = model_of(memory)
    expected = apart(model, inputs, targets)
    expected.mean().backward()
    wanted = gradients(model)
    model.zero_grad()
    config = TrainingConfig(batch_size=3, length=24, reset_at=END)
    loss = gradient(model, inputs, targets, config)
    losses = token_losses(model, inputs, targets, END)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss.double(), expected.mean().detach(), rtol=1e-5, atol=1e-5)
    for name, grad in gradients(model).items():
        torch.testing.assert_close(grad, wanted[name], rtol=1e-5, atol=1e-6)
    # It does make a difference here, and only behind the first cut of a row.
    whole = token_losses(model, inputs, targets)
    assert (whole - losses).abs().max() > 1e-4
    torch.testing.assert_close(whole[1, :11], losses[1, :11], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(whole[2], losses[2], rtol=1e-5, atol=1e-5)


def test_targets_that_are_not_scored_stay_so_and_evaluations_are_cut_too():
    inputs, targets = rows()
    model = model_of("gated-delta")
    targets[:, 5:9] = IGNORED
    assert (token_losses(model, inputs, targets, END)[:, 5:9] == 0).all()
    stream = torch.cat([inputs.flatten(), inputs[0, :1]])
    cut, whole = (evaluate(model, stream, 24, precision="fp32", reset_at=at).loss for at in (END, None))
    assert cut != whole
    windows = torch.stack([stream[:25], stream[48:]])
    assert cut == pytest.approx(float(apart(model, windows[:, :-1], windows[:, 1:]).detach().mean()), rel=1e-5)


def test_processes_that_share_the_weights_would_wait_for_each_other():
    ranks = Ranks()
    ranks.mode = "fsdp"
    with pytest.raises(CourseError, match="cut at the ends of documents cannot be sharded"):
        ranks.check(model_of("attention"), TrainingConfig(reset_at=END))


# -- blocks that are computed twice ----------------------------------------------------------------------------------
@pytest.mark.parametrize("memory", MEMORIES)
def test_blocks_that_are_computed_twice_have_the_same_loss_and_gradients(memory):
    inputs, targets = rows()
    model = model_of(memory)
    calls = []
    for layer in model.layers:
        layer.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    config = TrainingConfig(batch_size=3, length=24)
    loss = gradient(model, inputs, targets, config)
    wanted = gradients(model)
    assert len(calls) == 2
    model.zero_grad()
    with checkpointed_blocks(model, True):
        again = gradient(model, inputs, targets, config)
    assert len(calls) == 6 and not any(layer.checkpoint for layer in model.layers)
    assert again == loss
    for name, grad in gradients(model).items():
        torch.testing.assert_close(grad, wanted[name], rtol=1e-12, atol=1e-14)


def test_training_with_blocks_computed_twice_is_the_same_run_and_holds_less():
    stream = torch.arange(400) * 7 % 20
    config = TrainingConfig(steps=3, batch_size=2, length=16)
    runs = []
    for on in (False, True):
        settings = TrainingConfig.from_dict({**config.to_dict(), "checkpoint_blocks": on})
        runs.append(train(model_of("attention").float(), stream, settings, progress=False).losses)
    assert runs[0] == runs[1]
    shape = ModelConfig(layers=8)
    once, twice = (count_row(shape, 512, checkpoint_blocks=on) for on in (False, True))
    assert sum(twice[1:]) < sum(once[1:]) / 2 and twice[0] > once[0]


def test_a_model_with_clocks_has_its_own_way_to_hold_less():
    with pytest.raises(CourseError, match=r"checkpoint_blocks is for models without levels that learn.* recompute"):
        train(model_of("clocks"), torch.arange(99), TrainingConfig(checkpoint_blocks=True), progress=False)
