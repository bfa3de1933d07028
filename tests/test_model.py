"""The language model around a memory: any split, streaming generation, presets, and mistakes in words."""

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.memories import MEMORIES, State, Trace, build_memory
from nl_course.model import LanguageModel, ModelConfig, SwiGLU, sample
from nl_course.nested import PRESETS as NESTED
from nl_course.presets import PRESETS, preset

LATENT = dict(kv_rank=6, rope_dim=2, head_dim=4)
SMALL = ModelConfig(vocab=19, width=16, layers=2, heads=4, hidden=24)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LanguageModel(SMALL).double().requires_grad_(False)


def tokens(rows: int = 2, length: int = 9) -> torch.Tensor:
    return torch.randint(0, SMALL.vocab, (rows, length), generator=torch.Generator().manual_seed(1))


def test_any_split_gives_the_same_logits(model):
    whole, state = model(tokens())
    pieces, carried = [], None
    for piece in tokens().split([1, 3, 0, 5], dim=1):
        logits, carried = model(piece, carried)
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-10, atol=1e-10)
    assert carried.nbytes == state.nbytes == model.state_bytes(9, batch_size=2)


def test_it_is_the_block_that_its_docstring_says(model):
    h = model.embedding(tokens())
    for layer in model.layers:
        h = h + layer.memory(torch.nn.functional.rms_norm(h, (16,), layer.memory_norm.weight, 1e-6))[0]
        h = h + layer.mlp(torch.nn.functional.rms_norm(h, (16,), layer.mlp_norm.weight, 1e-6))
    expected = torch.nn.functional.rms_norm(h, (16,), model.norm.weight, 1e-6) @ model.embedding.weight.T
    torch.testing.assert_close(model(tokens())[0], expected)


def test_swiglu_by_hand():
    mlp = SwiGLU(1, 1).double()
    with torch.no_grad():
        for linear, weight in ((mlp.gate, 2.0), (mlp.up, 3.0), (mlp.down, 5.0)):
            linear.weight.fill_(weight)
    x = torch.tensor([[[0.7]]], dtype=torch.float64)
    expected = 5 * (1.4 / (1 + math.exp(-1.4))) * 2.1
    assert abs(mlp(x).item() - expected) < 1e-12


def test_generating_with_the_state_is_recomputing_without_it(model):
    prompt, text = tokens(), tokens()
    streamed = torch.stack(list(model.generate(prompt, tokens=6, temperature=0)), dim=1)
    for _ in range(6):
        text = torch.cat([text, model(text)[0][:, -1:].argmax(dim=-1)], dim=1)
    assert torch.equal(streamed, text[:, prompt.shape[1] :])


def test_generation_is_repeatable_and_goes_on_from_a_state(model):
    def run(**options):
        return torch.stack(list(model.generate(tokens(1), tokens=20, **options)), dim=1)

    assert torch.equal(run(seed=3), run(seed=3))
    assert not torch.equal(run(seed=3), run(seed=4))
    _, state = model(tokens(1)[:, :5])
    continued = torch.stack(list(model.generate(tokens(1)[:, 5:], 20, seed=3, state=state)), dim=1)
    assert torch.equal(continued, run(seed=3))


def test_top_k_only_ever_takes_the_k_likeliest():
    logits = torch.tensor([[0.0, 3.0, 2.0, 1.0]]).expand(200, -1)
    drawn = sample(logits, 2.0, top_k=2, generator=torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {1, 2}


def test_top_k_takes_exactly_k_and_of_equals_the_first():
    logits = torch.tensor([[1.0, 2.0, 1.0, 1.0, 0.0], [5.0, 5.0, 5.0, 5.0, 5.0]])
    generator = torch.Generator().manual_seed(0)
    for top_k, candidates in (
        (1, [{1}, {0}]),
        (2, [{0, 1}, {0, 1}]),
        (3, [{0, 1, 2}, {0, 1, 2}]),
        (9, [set(range(5))] * 2),
    ):
        for row, expected in zip(logits, candidates):
            drawn = sample(row.expand(500, -1), 5.0, top_k, generator)
            assert set(drawn.tolist()) == expected
    assert sample(logits, 0, None, None).tolist() == [1, 0]


@pytest.mark.parametrize("temperature", [1e-6, 1e-20, 1e-37, 1e-40, 5e-324])
def test_a_tiny_temperature_is_greedy(temperature):
    logits = 100 * torch.randn(50, 11, generator=torch.Generator().manual_seed(0))
    for top_k in (None, 3):
        assert torch.equal(sample(logits, temperature, top_k, None), logits.argmax(dim=-1))


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_named(model, wrong):
    logits = torch.zeros(2, 4)
    logits[1, 2] = wrong
    for temperature in (0, 1.0):
        with pytest.raises(CourseError, match="logits are not finite"):
            sample(logits, temperature, None, None)
    broken = deepcopy(model)
    with torch.no_grad():
        broken.norm.weight.fill_(wrong)
    with pytest.raises(CourseError, match="logits are not finite"):
        next(broken.generate(tokens(1), 3))


def test_a_row_draws_the_same_whatever_stands_beside_it(model):
    def run(prompt, seed):
        return torch.stack(list(model.generate(prompt, tokens=12, seed=seed, top_k=5)), dim=1)

    prompts = tokens(3)
    together = run(prompts, 7)
    assert torch.equal(run(prompts[:1], 7), together[:1])
    assert torch.equal(run(prompts[:2], 7), together[:2])
    # Rows that ask the same are not answered the same, and no row of one seed comes again under the next.
    same = prompts[:1].expand(4, -1)
    texts = {tuple(row) for seed in range(3) for row in run(same, seed).tolist()}
    assert len(texts) == 12


def test_traces_are_named_by_layer(model):
    trace = Trace(only=["weights"])
    model(tokens(), None, trace)
    assert trace.names() == ["layers.0.weights", "layers.1.weights"]
    assert trace["layers.1.weights"].shape == (2, 9, 4, 9)


def test_a_saved_state_goes_on_exactly(model, tmp_path):
    expected, _ = model(tokens())
    _, state = model(tokens()[:, :4])
    state.save(tmp_path / "state.safetensors")
    logits, _ = model(tokens()[:, 4:], State.load(tmp_path / "state.safetensors"))
    torch.testing.assert_close(logits, expected[:, 4:], rtol=1e-10, atol=1e-10)


def test_with_a_convolution_in_every_block_it_still_goes_on_exactly(tmp_path):
    torch.manual_seed(0)
    model = LanguageModel(replace(SMALL, conv=4)).double().requires_grad_(False)
    text = tokens()
    expected, whole = model(text)
    _, state = model(text[:, :4])
    assert state.nbytes == model.state_bytes(4, 2) == 2 * 8 * (2 * 4 * 2 * 16 + 2 * 3 * 16)
    state.save(tmp_path / "state.safetensors")
    logits, after = model(text[:, 4:], State.load(tmp_path / "state.safetensors"))
    torch.testing.assert_close(logits, expected[:, 4:], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(after.memory(1).key.columns, whole.memory(1).key.columns, rtol=1e-10, atol=1e-10)
    h = model.embedding(text)
    first = model.layers[0]
    normed = torch.nn.functional.rms_norm(h, (16,), first.conv_norm.weight, 1e-6)
    h = h + first.conv(normed, first.conv.init_state(2))[0]
    h = h + first.memory(first.memory_norm(h))[0]
    out, _ = first(model.embedding(text), first.init_state(2), None)
    torch.testing.assert_close(out, h + first.mlp(first.mlp_norm(h)))


def test_the_output_may_have_weights_of_its_own():
    model = LanguageModel(replace(SMALL, tied=False))
    assert model.parameter_count() == LanguageModel(SMALL).parameter_count() + SMALL.vocab * SMALL.width


def test_a_tied_table_learns_as_input_and_as_output():
    tied = LanguageModel(SMALL).double()
    apart = LanguageModel(replace(SMALL, tied=False)).double()
    apart.load_state_dict(tied.state_dict() | {"head.weight": tied.embedding.weight})
    gradients = []
    for model in (tied, apart):
        model(tokens())[0].square().sum().backward()
        gradients.append(model.embedding.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1] + apart.head.weight.grad)


def test_configs_survive_a_round_trip():
    old = {name: value for name, value in SMALL.to_dict().items() if name not in ("conv", "tied")}
    assert ModelConfig.from_dict(old) == SMALL  # saved before there was a convolution
    config = ModelConfig(memory="latent-attention", options=LATENT)
    assert ModelConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_their_parameter_counts(name):
    with torch.device("meta"):
        assert LanguageModel(preset(name)).parameter_count() == PRESETS[name].parameters


@pytest.mark.parametrize(
    ("size", "d", "h", "layers", "hidden"),
    [
        ("125m", 768, 12, 12, 2048),
        ("350m", 1024, 16, 24, 2736),
        ("760m", 1536, 16, 24, 4096),
        ("1.3b", 2048, 32, 24, 5504),
    ],
)
def test_the_ttt_presets_add_up(size, d, h, layers, hidden):
    """Counted from the published table: every matrix, norm and convolution of the paper's models."""
    f = d // h
    for kind, start in (("linear", h * f * f + h * f), ("mlp", 8 * h * f * f + 5 * h * f)):
        memory = 4 * d * d + 2 * 5 * d + (h * d + h) + 16 + start + 2 * h * f + 2 * d
        block = memory + 2 * d + (d + 5 * d) + 3 * d * hidden
        assert PRESETS[f"ttt-{kind}-{size}"].parameters == 32_000 * d + layers * block + d


@pytest.mark.parametrize("size", ["125m", "350m", "760m", "1.3b"])
def test_every_stage_has_every_size_and_they_weigh_the_same(size):
    """The stages with clocks: nl_course/nested/presets.py, where 350m is called 340m in HOPE's papers."""
    plain = PRESETS[size].parameters
    for memory in ("gated-delta", "titans", "mac", "mag", "mal", "self-modifying"):
        same_size = PRESETS[f"{memory}-{size}"]
        assert abs(same_size.parameters / plain - 1) < 0.002 and same_size.config.memory == memory
    for family in ("ttt-linear", "ttt-mlp"):
        assert abs(PRESETS[f"{family}-{size}"].parameters / plain - 1) < 0.05
    hope = {"350m": "340m"}.get(size, size)
    e2e = {"1.3b": "1b"}.get(size, size)
    for name in (f"hope-{hope}", f"hope-attention-{hope}", f"ttt-e2e-{e2e}"):
        assert abs(NESTED[name].parameters / plain - 1) < 0.06


def test_the_laptop_presets_stay_small():
    for kind in ("linear", "mlp"):
        assert abs(PRESETS[f"ttt-{kind}-micro"].parameters / PRESETS["micro"].parameters - 1) < 0.01
    assert PRESETS["tiny"].parameters < 1_000_000
    assert PRESETS["micro"].parameters * 2 < 1_000_000  # bytes of a bf16 checkpoint
    assert preset("tiny").vocab == preset("micro").vocab == 256


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        (lambda m: m(torch.zeros(2, 3)), "whole numbers"),
        (lambda m: m(torch.zeros(3, dtype=torch.long)), "batch, time"),
        (lambda m: m(torch.tensor([[0, 19]])), r"0 \.\. 18"),
        (lambda m: m(torch.tensor([[-1, 3]])), r"0 \.\. 18"),
        (lambda m: m.generate(torch.zeros(1, 0, dtype=torch.long), 3), "at least one token"),
        (lambda m: m.generate(tokens(), -1), "tokens must be a whole number"),
        (lambda m: m.generate(tokens(), 3, temperature=-1.0), "temperature"),
        (lambda m: m.generate(tokens(), 3, temperature=math.inf), "temperature"),
        (lambda m: m.generate(tokens(), 3, top_k=0), "top_k"),
        (lambda m: m.generate(tokens(), 3, top_k=2.5), "top_k"),
        (lambda m: m.generate(tokens(), 3, seed="one"), "seed"),
        (lambda m: ModelConfig(memory="atention"), "Did you mean 'attention'"),
        (lambda m: ModelConfig(width=0), "width"),
        (lambda m: ModelConfig(conv=-1), "conv"),
        (lambda m: ModelConfig.from_dict({"widht": 3}), "Did you mean 'width'"),
        (lambda m: preset("tny"), "Did you mean 'tiny'"),
        (lambda m: build_memory("attention", 8, 2, windw=3), "its options are"),
        (lambda m: build_memory("attention", 8, 2, path="fast"), "reference"),
    ],
)
def test_mistakes_are_named(model, mistake, named):
    with pytest.raises(CourseError, match=named):
        mistake(model)


def test_a_damaged_state_is_named_and_left_alone(model, tmp_path):
    path = tmp_path / "state.safetensors"
    model(tokens())[1].save(path)
    damaged = path.read_bytes()[:100]
    path.write_bytes(damaged)
    with pytest.raises(CourseError, match=r"saved state .* is damaged or incomplete"):
        State.load(path)
    with pytest.raises(CourseError, match="there is no saved state at"):
        State.load(tmp_path / "missing.safetensors")
    assert path.read_bytes() == damaged


def test_every_memory_builds_by_name():
    for name in MEMORIES:
        options = LATENT if name == "latent-attention" else {}
        assert build_memory(name, 16, 4, **options).width == 16
