"""What `make gpu` does on a GPU, done on the CPU with tiny sizes: a row that fails costs that row, and says why."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nl_course.benches.gpu import __main__ as bench
from nl_course.benches.gpu import contestants, counts, plan, suite
from nl_course.benches.gpu.guard import Worker

ROOT = Path(__file__).resolve().parent.parent
HERE = "tests.rows_that_fail"


def row(name, **arguments):
    return plan.Row({"name": name}, f"{HERE}:{name}", arguments)


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker.end()


def test_each_failure_costs_one_row_and_is_named(worker):
    expected = [
        ("fine", "measured", None),
        ("wrong", "failed", "ValueError: a row that fails on purpose"),
        ("missing", "not there", "No module named 'no_such_package'"),
        ("full", "out of memory", "MemoryError: no room"),
        ("ending", "failed", "SystemExit: 3"),
        ("dying", "died", "the process ended by itself (exit code 7)"),
        ("fine", "measured", None),
        ("hanging", "out of time", "still running after 1 seconds"),
        ("fine", "measured", None),
    ]
    for name, status, reason in expected:
        seconds = 1.0 if name == "hanging" else 60.0
        answer = worker.measure(f"{HERE}:{name}", {}, seconds)
        assert answer["status"] == status, answer
        assert reason is None or reason in answer["reason"]
        assert status != "measured" or answer["twice"] == 2


def test_a_device_that_cannot_be_woken_is_said_of_every_row():
    worker = Worker(f"{HERE}:wrong")
    try:
        answer = worker.measure(f"{HERE}:fine", {}, 60.0)
    finally:
        worker.end()
    assert answer["status"] == "failed" and "on purpose" in answer["reason"]


class Clock:
    """Time that passes by what rows say they take."""

    def __init__(self):
        self.time = 0.0

    def now(self):
        return self.time

    def measure(self, call, arguments, seconds, meanwhile):
        meanwhile()
        self.time += min(arguments["takes"], seconds)
        return {"status": "measured", "had": seconds}


def test_a_section_keeps_its_share_and_leaves_what_it_does_not_need():
    clock = Clock()

    def rows(*takes):
        return [plan.Row({"name": str(t)}, "module:function", {"takes": t}) for t in takes]

    sections = [
        plan.Section("short", 0.3, 20, rows(1, 2)),
        plan.Section("long", 0.3, 20, rows(30, 30, 30, 30)),
        plan.Section("last", 0.4, 100, rows(50)),
    ]
    measured = []
    plan.run(sections, clock, 100, 0.0, measured.append, now=clock.now)
    # The second section has 60 - 3 seconds: two rows of 20, one of 17. The last one ends with the whole.
    assert [r.get("had") for r in measured] == [20, 20, 20, 20, 17, None, 40]
    assert measured[5]["status"] == "not reached" and "'long'" in measured[5]["reason"]
    assert clock.time == 100


def test_shares_are_of_one_whole():
    assert sum(plan.SHARES.values()) == pytest.approx(1)
    assert {"suite", *(s.name for s in plan.sections(plan.SIZES["full"], "cuda"))} == set(plan.SHARES)


def test_all_that_was_asked_for_is_planned():
    full = {s.name: s.rows for s in plan.sections(plan.SIZES["full"], "cuda")}
    passes = {(r.about["contestant"], r.about["which"], r.about["context"]) for r in full["passes"]}
    assert len(passes) == len(contestants.OURS) * 2 * 3 and len(contestants.OURS) == 10
    assert {r.about["context"] for r in full["decode"]} == {16384}
    assert {r.about["context"] for r in full["training"]} == {4096} and len(full["training"]) == 13
    assert {r.arguments["steps"] for r in full["training"]} == {100}
    # What is least certain comes last.
    assert list(full)[-1] == "passes compiled"


def test_operations_grow_with_the_text_and_with_the_square_for_attention_alone():
    for name in contestants.OURS:
        short, long = (counts.operations(name, context, 1, "forward", "tiny") for context in (32, 64))
        assert short > 0
        assert name in ("attention", "ttt-e2e") or long == 2 * short
    # 4 projections of d^2, and scores and sums of T^2 d, each 2 operations: of T = 32 tokens, d = 16.
    of_projections, of_pairs = 2 * 4 * 16 * 16 * 32, 2 * 2 * 32 * 32 * 16
    assert counts.operations("attention", 32, 3, "forward", "tiny") == 3 * (of_projections + of_pairs)
    assert counts.operations("attention", 32, 1, "forward+backward", "tiny") == 3 * (of_projections + of_pairs)


def test_the_data_sheet_is_found_by_the_devices_name():
    found = bench.sheet_of("NVIDIA A100-SXM4-80GB", 85e9), bench.sheet_of("NVIDIA H200", 150e9)
    assert [sheet.name for sheet in found] == ["a100-80", "h200"]
    assert bench.sheet_of("Some GPU", 8e9) is None


def test_a_trial_writes_every_row_with_its_provenance(tmp_path, monkeypatch, capsys):
    """The run itself, with one contestant of each kind, and one row that fails on purpose in the middle of it."""
    few = ("gated-delta", "ttt-e2e")
    monkeypatch.setattr(plan, "OURS", {name: contestants.OURS[name] for name in few})
    monkeypatch.setattr(plan, "PEERS", ("bare SDPA", "fla, Kimi Delta Attention"))
    monkeypatch.setitem(plan.SIZES, "tiny", replace(plan.SIZES["tiny"], presets=("micro",)))
    out = tmp_path / "gpu.json"
    broken = plan.Section("on purpose", 0.0, 60, [row("wrong")])
    sections = ["rates", "passes", "training", "decode", "peers"]
    given = ["--device", "cpu", "--sizes", "tiny", "--minutes", "60", "--out", str(out), "--sections", *sections]
    assert bench.main(given, extra=[replace(broken, share=0.1)]) == 0
    file = json.loads(out.read_text())
    assert file["about"]["command"] == "make gpu" and file["about"]["config"]["sizes"] == "tiny"
    assert {"commit", "recorded", "torch", "device"} <= file["about"].keys()
    rows = file["rows"]
    failed = [r for r in rows if r["status"] != "measured"]
    assert {(r["section"], r["status"]) for r in failed} == {("on purpose", "failed"), ("peers", "not there")}
    measured = {section: [r for r in rows if r["section"] == section and r not in failed] for section in sections}
    assert [len(measured[section]) for section in sections] == [1, 4, 1, 2, 2]
    for r in measured["passes"]:
        assert r["tokens/s"] > 0 and r["share of bf16 products"] > 0 and r["operations"] > 0
    assert all(r["us/token"] > 0 and r["floor, us/token"] > 0 for r in measured["decode"])
    assert measured["training"][0]["steps"] == 2
    said = capsys.readouterr().out
    assert "failed. ValueError: a row that fails on purpose" in said and f"Written to {out}." in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "cpu"], "say with --out FILE where to write"),
        (["--device", "cpu", "--out", "x.json", "--sizes", "huge"], "sizes 'huge' is not known"),
        (["--device", "cpu", "--out", "x.json", "--sections", "pases"], "Did you mean 'passes'"),
        (["--device", "cpu", "--out", "x.json", "--minutes", "0"], "minutes must be"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(options, words, capsys):
    with pytest.raises(SystemExit) as stop:
        bench.main(options)
    assert stop.value.code == 2 and words in capsys.readouterr().err


TESTS = """
import pytest

@pytest.mark.gpu
@pytest.mark.parametrize("n", [1, 2, 3])
def test_small(n):
    assert n < 3, "too large"

@pytest.mark.gpu
def test_fine():
    pass

def test_other():
    raise RuntimeError
"""


def test_tests_that_need_a_gpu_are_rows_of_their_own(tmp_path):
    """A folder of tests of which one fails: each function is a row, and the case that failed has its reason."""
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test_some.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: needs a GPU\n")
    small, fine, failed = suite.rows(1200, tests, processes=1)
    assert (small["passed"], small["failed"], fine["passed"]) == (2, 1, 1)
    assert failed["status"] == "failed" and "too large" in failed["reason"] and failed["name"].endswith("[3]")


def test_the_files_with_tests_for_a_gpu_are_found():
    found = {path.relative_to(ROOT / "tests").as_posix() for path in suite.files(ROOT / "tests")}
    assert {"test_memories.py", "training/test_loop.py", "test_seeding.py"} <= found
    assert suite.rows(1, ROOT / "no such folder")[0]["status"] == "not there"
