"""The bench runs, prints a row a case, and never depends on a clock in the tests."""

import pytest
import torch

from nl_course.benches import BENCHES, measure
from nl_course.benches import __main__ as bench
from nl_course.benches.ttt_baseline import MiniBatchLoop
from nl_course.memories import build_memory
from tests.memories import official_ttt


def test_a_table_has_a_row_a_case_and_aligned_columns():
    text = bench.table([{"name": "a", "x": 1234.5, "n": 10**6}, {"name": "longer", "x": 0.01234, "n": None}])
    lines = text.splitlines()
    assert len(lines) == 4 and len({len(line.rstrip()) for line in lines[:3]}) == 1
    assert "1,234" in lines[2] and "1,000,000" in lines[2] and "0.0123" in lines[3]


def test_a_misspelt_bench_is_named(capsys):
    with pytest.raises(SystemExit) as stop:
        bench.main(["atention"])
    assert stop.value.code == 2
    assert "Did you mean 'attention'" in capsys.readouterr().err


def test_what_is_compared_runs_in_turn():
    order = []
    times = measure.in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert order == ["a", "b"] * 3 and len(times["a"]) == len(times["b"]) == 2
    assert measure.ratio({"a": [2.0, 9.0, 4.0], "b": [1.0, 3.0, 4.0]}, "a", "b") == 2.0


def test_peak_memory_sees_what_main_takes():
    setup = "import torch\ndef main():\n    torch.ones({}).sum()\n"
    small, large = (measure.peak_bytes(setup.format(size)) for size in (1, 25_000_000))
    assert large - small > 80e6  # 100 MB of float32


def test_every_bench_has_rows():
    for name in BENCHES:
        module = __import__(f"nl_course.benches.{name}", fromlist=["rows"])
        assert callable(module.rows)


def test_decoding_reads_one_token_a_call():
    memory = build_memory("linear", 8, 2)
    assert measure.decode_seconds(memory, context=4, tokens=2, rounds=1) > 0


@pytest.mark.parametrize("mamba", [False, True])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_what_ttt_is_measured_against_computes_the_same(kind, mamba):
    weights = official_ttt.random_weights(kind, shared=mamba, gate=mamba)
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "output", "g_proj": "gate"}
    names |= {"conv_q": "conv_query", "conv_k": "conv_key", "learnable_token_idx": "position_offset"}
    names |= {"ttt_norm_weight": "gain", "ttt_norm_bias": "shift", "learnable_ttt_lr_bias": "rate_bias"}
    renamed = {"rate": weights.pop("learnable_ttt_lr_weight").mT}
    for name, w in weights.items():
        first, dot, rest = name.partition(".")
        renamed[names.get(first, first) + dot + rest] = w
    weights["learnable_ttt_lr_weight"] = renamed["rate"].mT
    loop = MiniBatchLoop(16, 2, kind, mamba).double()
    loop.load_state_dict(renamed)
    x = torch.randn(2, 48, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    # Its rotary angles are float32's, as in the authors' code.
    torch.testing.assert_close(loop(x), official_ttt.layer(weights, x, 2), rtol=1e-6, atol=1e-6)
