"""The tables: every entry complete, sourced, and of a published shape."""

import re

import pytest

from nl_course.errors import CourseError
from nl_course.scaling import LayerGroup, ModelShape, accelerators, model, models, read_table, uniform
from nl_course.scaling.formats import bytes_per_value, readable_bytes, readable_tokens

CONFIDENCE = {"read", "quoted", "recalled"}


def test_every_model_has_a_source_and_a_known_confidence():
    table = read_table("models.json")
    assert set(table["confidence"]) == CONFIDENCE
    for shape in models().values():
        assert shape.source and shape.confidence in CONFIDENCE
        assert shape.parameters_basis in table["parameters_basis"]
        assert shape.width and shape.max_context >= 1024 and shape.active <= shape.parameters
        assert (shape.experts is None) == (shape.active == shape.parameters)
        assert shape.vocab and 0 <= shape.lookup_parameters - shape.per_layer_tables < 0.25 * shape.active


def test_every_accelerator_window_and_law_has_a_source_and_a_known_confidence():
    rows = [*read_table("accelerators.json")["accelerators"], *read_table("context_windows.json")["windows"]]
    laws = read_table("scaling_laws.json")
    rows += [laws["kaplan"], laws["chinchilla_approaches"], laws["data_constrained"], *laws["parametric"]]
    for row in rows:
        assert row["source"] and row["confidence"] in CONFIDENCE, row


def test_the_timeline_runs_forward_and_grows_a_thousandfold_from_gpt3_to_gemini():
    windows = read_table("context_windows.json")["windows"]
    dates = [row["date"] for row in windows]
    assert [d[:7] for d in dates] == sorted(d[:7] for d in dates)
    tokens = {row["model"]: row["tokens"] for row in windows}
    assert round(tokens["Gemini 1.5 Pro"] / tokens["GPT-3"]) == 977


def test_what_works_is_shorter_than_what_is_claimed():
    for row in read_table("context_windows.json")["effective"]["models"]:
        assert row["effective"] < row["claimed"]


# Counted from the configurations, against the counts that the models' authors print (in billions).
@pytest.mark.parametrize(
    ("name", "billions"),
    [
        *[("llama-2-7b", 6.74), ("llama-3.1-8b", 8.03), ("llama-3.1-70b", 70.6), ("llama-3.1-405b", 406)],
        *[("mixtral-8x7b", 46.7), ("mixtral-8x22b", 140.6), ("qwen3-235b-a22b", 235), ("qwen2.5-72b", 72.7)],
        *[("mistral-7b-v0.1", 7.24), ("gemma-2-27b", 27.2), ("llama-3.2-1b", 1.236)],
        *[("deepseek-v2-lite", 15.7), ("deepseek-v2", 236), ("deepseek-v3", 671), ("gpt-oss-20b", 20.9)],
        *[("gpt-oss-120b", 116.8), ("gpt2-774m", 0.774), ("gpt2-1558m", 1.558)],
    ],
)
def test_counted_parameters_agree_with_what_their_authors_print(name, billions):
    assert model(name).parameters_basis == "counted"
    assert model(name).parameters / 1e9 == pytest.approx(billions, rel=2e-3)


def test_active_parameters_of_mixtures_agree_with_what_their_authors_print():
    for name, billions in {"mixtral-8x7b": 12.9, "mixtral-8x22b": 39, "qwen3-30b-a3b": 3.3, "deepseek-v2": 21}.items():
        assert model(name).active / 1e9 == pytest.approx(billions, rel=0.02)
    # Others leave the input embedding out.
    for name, billions in {"gpt-oss-20b": 3.61, "gpt-oss-120b": 5.13, "deepseek-v3": 37}.items():
        assert model(name).matmul_parameters / 1e9 == pytest.approx(billions, rel=0.02)


def test_attention_is_named_by_what_is_kept():
    named = {name: model(name).attention for name in ("gpt3-175b", "llama-3.1-8b", "gemma-3-1b", "deepseek-v3")}
    assert named == {
        "gpt3-175b": "MHA",
        "llama-3.1-8b": "GQA",
        "gemma-3-1b": "MQA + window",
        "deepseek-v3": "MLA",
    }


RIDGES = {  # operations per byte, and milliseconds to read the whole memory once
    **{"v100-32": (139, 37.9), "a100-40": (201, 27.6), "a100-80": (153, 42.1), "h100": (295, 25.5)},
    **{"h200": (206, 31.4), "gh200": (247, 25.7), "b200": (281, 24.0), "gb200": (312, 24.8), "b300": (281, 36.1)},
    **{"gb300": (312, 37.3), "mi300x": (247, 38.9), "mi325x": (218, 45.8), "mi350x": (288, 38.7)},
    **{"mi355x": (312, 38.7), "gaudi3": (453, 37.1), "trainium2": (230, 35.5), "trainium3": (137, 31.6)},
    **{"tpu-v5e": (241, 21.0), "tpu-v5p": (166, 36.9), "tpu-v6e": (560, 21.0), "tpu-7x": (313, 27.9)},
    **{"ascend-910c": (244, 42.9), "rtx-4090": (164, 25.6), "rtx-5090": (117, 19.1), "m4-max": (34, 211.4)},
    **{"mi455x": (215, 18.5), "ascend-950dt": (121, 24.0), "rubin": (182, 13.1)},
}


@pytest.mark.parametrize("name", accelerators())
def test_ridges_and_reading_times(name):
    ridge, milliseconds = RIDGES[name]
    assert accelerators()[name].ridge == pytest.approx(ridge, abs=1)
    assert 1e3 * accelerators()[name].read_all_seconds == pytest.approx(milliseconds, abs=0.06)


MIB = 2**20
MEMORY = {  # in bytes, as drivers and documentation say it
    **{"v100-32": 32_510 * MIB, "a100-40": 40_960 * MIB, "a100-80": 81_920 * MIB, "h100": 81_559 * MIB},
    **{"h200": 143_771 * MIB, "b200": 183_359 * MIB, "gb200": 189_471 * MIB, "b300": 275_040 * MIB},
    **{"gb300": 284_208 * MIB, "mi300x": 206_141_652_992, "mi325x": 274_861_129_728, "mi355x": 309_220_868_096},
    **{"gh200": 97_871 * MIB, "mi350x": 309_220_868_096, "gaudi3": 128 * 2**30, "trainium2": 96 * 2**30},
    **{"trainium3": 144 * 2**30, "tpu-v5e": 16 * 2**30, "ascend-910c": 131_072 * MIB, "rtx-4090": 24_564 * MIB},
    **{"rtx-5090": 32_607 * MIB, "m4-max": 110_100 * MIB, "ascend-950dt": 96e9},
    **{"tpu-v5p": 95 * 2**30, "tpu-v6e": 32 * 2**30, "tpu-7x": 192 * 2**30, "mi455x": 432e9, "rubin": 288e9},
}


@pytest.mark.parametrize("name", accelerators())
def test_memory_is_what_a_program_can_ask_for(name):
    """Data sheets print GB for 10^9 bytes, for 2^30 bytes, or for something between."""
    device = accelerators()[name]
    assert device.memory_bytes == MEMORY[name] and device.memory_gb == MEMORY[name] / 1e9
    least = 0.85 if "shared with the processor" in device.memory else 1  # the system keeps a part for itself
    assert least * device.sheet_gb <= device.memory_gb <= device.sheet_gb * 2**30 / 1e9
    said = device.memory_source.replace(",", "")
    mebibytes = re.search(r"(\d+) MiB(?! of)", said.partition(" (")[0].replace("less 16 MiB", ""))
    gibibytes = re.search(r"(\d+) GiB", said)
    if mebibytes:
        assert device.memory_bytes == int(mebibytes[1]) * MIB
    elif gibibytes:
        reserved = 16 * MIB if "less 16 MiB" in said else 0
        assert device.memory_bytes == int(gibibytes[1]) * 2**30 - reserved
    else:
        assert device.announced_only and "announced only" in said


def test_what_gb_means_on_a_data_sheet():
    units = {name: device.sheet_unit for name, device in accelerators().items()}
    decimal = {name for name, unit in units.items() if unit == "10^9 bytes"}
    assert decimal == {"b300", "mi455x", "ascend-950dt", "rubin"}  # all but the first are announced: taken so
    assert {name for name, unit in units.items() if unit == "neither"} == {"v100-32", "gb300", "m4-max"}
    assert "no row was measured by this course" in read_table("accelerators.json")["about"]


def test_the_rate_of_amds_chips_is_their_clock_times_their_units():
    for name in ("mi300x", "mi325x"):
        assert accelerators()[name].dense_16bit_tflops == pytest.approx(2100e6 * 1216 * 256 * 2 / 1e12, abs=0.5)
    assert accelerators()["mi350x"].dense_16bit_tflops == pytest.approx(2200e6 * 1024 * 512 * 2 / 1e12, abs=0.5)


def test_the_memory_wall_from_v100_to_b300():
    old, new = accelerators()["v100-32"], accelerators()["b300"]
    growth = [
        new.dense_16bit_tflops / old.dense_16bit_tflops,
        new.bandwidth_tb_s / old.bandwidth_tb_s,
        new.memory_gb / old.memory_gb,
    ]
    assert growth == pytest.approx([18, 8.9, 8.46], rel=0.01)
    every_two_years = [g ** (2 / (new.year - old.year)) for g in growth]
    assert every_two_years == pytest.approx([2.1, 1.7, 1.7], abs=0.06)


def test_a_rack_of_72():
    gb200, gb300 = accelerators()["gb200"], accelerators()["gb300"]
    assert 72 * gb200.sheet_gb == pytest.approx(13_400, rel=1e-3) and 72 * gb200.bandwidth_tb_s == 576
    assert 72 * gb200.dense_16bit_tflops == 180e3 and 72 * gb300.sheet_gb == pytest.approx(20e3, rel=0.04)


def test_bad_input_is_named():
    with pytest.raises(CourseError, match=r"Did you mean 'llama-3\.1-8b'"):
        model("llama-3.1-8B")
    with pytest.raises(CourseError, match="needs window"):
        LayerGroup(2, "local", 64, kv_heads=2)
    with pytest.raises(CourseError, match="kind of layer"):
        LayerGroup(2, "globl", 64, kv_heads=2)
    with pytest.raises(CourseError, match="cannot share"):
        uniform(2, 6, 64, kv_heads=4)
    with pytest.raises(CourseError, match="heads must be a whole number"):
        uniform(2, None, 64)
    with pytest.raises(CourseError, match="head_dim must be a whole number of at least 1"):
        uniform(2, 4, 0)
    with pytest.raises(CourseError, match="layers must be a tuple of LayerGroup"):
        ModelShape("own", "own", 1, 1, 5, 1)
    with pytest.raises(CourseError, match="size must be a number"):
        readable_tokens(None)
    with pytest.raises(CourseError, match="no layers"):
        ModelShape("own", "own", 1, 1, (), 1)
    with pytest.raises(CourseError, match="number format"):
        bytes_per_value("bf61")
    for size in (0, -1.0):
        with pytest.raises(CourseError, match="bytes per value"):
            bytes_per_value(size)


def test_a_damaged_table_is_named(tmp_path, monkeypatch):
    broken = tmp_path / "models.json"
    broken.write_text("{")
    monkeypatch.setattr("nl_course.scaling.shapes.asset", lambda name: broken)
    with pytest.raises(CourseError, match="cannot be read"):
        read_table("models.json")


def test_sizes_are_written_as_people_write_them():
    assert [readable_tokens(n) for n in (512, 2048, 4097, 100_000, 128_000, 131_072, 2_000_000)] == [
        *("512", "2k", "4.1k", "100k", "128k", "128k", "2M"),
    ]
    assert [readable_bytes(n) for n in (12, 1.5e3, 16.06e9, 327.7e9, 1.44e12)] == [
        *("12 B", "1.5 kB", "16.1 GB", "328 GB", "1.4 TB"),
    ]
