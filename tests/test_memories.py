"""Every memory of the course, through the one suite (`nl_course/suite/`); and what the suite says of a broken one."""

import re
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nl_course.errors import CourseError
from nl_course.limits import TimeUp
from nl_course.memories import LinearAttention, LinearAttentionConfig
from nl_course.memories.owner import autocast_is_on
from nl_course.suite import DEVICE_PROPERTIES, PROPERTIES, Case, check_case, check_memory, copy_template, load_memory
from nl_course.suite import properties as suite
from nl_course.suite.case import TOKENS
from tests.memory_suite import CASES

every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@every
@settings(max_examples=12, deadline=None, derandomize=True)
@given(pieces=st.lists(st.integers(0, 5), min_size=1, max_size=14), grad=st.booleans())
def test_any_split_gives_the_same_output_and_state(case, pieces, grad):
    suite.any_split(case, pieces, grad)


@every
@pytest.mark.parametrize(
    "prop", [p for p in PROPERTIES if p.holds is not suite.several_splits], ids=lambda p: p.name.replace(" ", "-")
)
def test_property(case, prop):
    prop.holds(case)


@pytest.mark.slow
@every
def test_compiled_it_gives_the_same(case):
    if not case.compiles:
        pytest.skip("not among the cases that are compiled")
    suite.compiled(case)


on_devices = pytest.mark.parametrize("prop", DEVICE_PROPERTIES, ids=lambda p: p.name.replace(" ", "-"))


@pytest.mark.gpu
@every
@on_devices
def test_on_a_gpu_it_holds_as_well(case, prop):
    prop.holds(case, "cuda")


# On the CPU the values agree with themselves; what mixes precisions is worth asking there too.
MIXING = ("autocast", "mixed_states")


@on_devices
@pytest.mark.parametrize("name", ["attention", "gated-delta", "ttt-linear", "titans", "self-modifying"])
def test_what_a_gpu_is_asked_holds_on_the_cpu(name, prop):
    if prop.holds.__name__ in MIXING or name == "gated-delta":
        prop.holds(case_named(name), "cpu")


def case_named(name):
    return next(case for case in CASES if case.name == name)


class Rounding(LinearAttention):
    """Other numbers in short pieces, and inside of autocast."""

    def advance(self, x, state, trace):
        y, after = super().advance(x, state, trace)
        if autocast_is_on(x.device):
            return 1.2 * y, after
        return y + (1e-6 if x.shape[1] < TOKENS else 0), after


class Refusing(LinearAttention):
    """Does not read inside of autocast what was filled outside of it."""

    def advance(self, x, state, trace):
        if autocast_is_on(x.device) and any(t.any() for t in state.tensors().values()):
            raise RuntimeError("expected scalar type Float but found BFloat16")
        return super().advance(x, state, trace)


@pytest.mark.parametrize(
    ("memory", "prop", "words"),
    [
        (Rounding, "pieces without autograd give the same", "in pieces on cpu"),
        (Rounding, "autocast stays in its band", "inside of autocast on cpu the output is off by"),
        (Refusing, "a state mixes precisions", "inside of autocast a state from outside cannot be read"),
    ],
)
def test_what_a_gpu_is_asked_finds_a_broken_memory(memory, prop, words):
    holds = next(p.holds for p in DEVICE_PROPERTIES if p.name == prop)
    case = Case("mine", lambda: memory(Plain(width=8, heads=2, chunk=4)))
    with pytest.raises(AssertionError, match=words):
        holds(case, "cpu")


# -- a learner's memory ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Plain(LinearAttentionConfig):
    conv: int = 0


class Ahead(LinearAttention):
    """Looks one token ahead."""

    def advance(self, x, state, trace):
        y, state = super().advance(x, state, trace)
        return y + x.roll(-1, dims=1), state


class Mixing(LinearAttention):
    """Mixes the rows of a batch."""

    def advance(self, x, state, trace):
        y, state = super().advance(x, state, trace)
        return y + x.mean(0, keepdim=True), state


class Untraced(LinearAttention):
    def advance(self, x, state, trace):
        return super().advance(x, state, None)


class Overwriting(LinearAttention):
    """Writes into the state that it was given."""

    def advance(self, x, state, trace):
        y, after = super().advance(x, state, trace)
        with torch.no_grad():
            for tensor in state.tensors().values():
                tensor.add_(1)
        return y, after


class Understating(LinearAttention):
    def state_bytes(self, tokens, batch_size=1):
        return super().state_bytes(tokens, batch_size) - 4


class Amnesic(LinearAttention):
    """Forgets at every call."""

    def advance(self, x, state, trace):
        return super().advance(x, self.init_state(len(x)), trace)


class Unchecked(LinearAttention):
    def forward(self, x, state=None, trace=None):
        return super().forward(x[..., : self.width], state, trace)


@pytest.mark.parametrize(
    ("memory", "broken"),
    [
        (Ahead, "no output depends on a later token, exactly"),
        (Mixing, "rows of a batch are independent"),
        (Untraced, "a trace changes nothing, and shows something"),
        (Overwriting, "a state that is branched never changes its twin"),
        (Understating, "the state's size is what the formula says"),
        (Amnesic, "any split gives the same output and state"),
        (Unchecked, "mistakes are named"),
    ],
)
def test_a_broken_memory_is_found_out_and_the_property_named(memory, broken):
    report = check_case(Case("mine", lambda: memory(Plain(width=8, heads=2, chunk=4))))
    assert not report.passed and broken in report.failed
    assert re.search(rf"does not hold  {broken}\n +\S", str(report))


def test_the_template_passes_and_is_never_written_over(tmp_path):
    path = copy_template(tmp_path / "my_memory.py")
    report = check_memory(path)
    assert report.passed, str(report)
    assert f"my_memory: {len(PROPERTIES)} of {len(PROPERTIES)} properties hold." in str(report)
    path.write_text("mine = 1\n")
    assert copy_template(path).read_text() == "mine = 1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / 0", "cannot be run: ZeroDivisionError: division by zero .my_memory.py, line 1."),
        ("CONFIG = 1", "must say MEMORY ="),
        ("from nl_course.memories import Memory\nMEMORY = Memory", "must say CONFIG ="),
    ],
)
def test_what_a_learners_file_lacks_is_named(tmp_path, text, message):
    path = tmp_path / "my_memory.py"
    path.write_text(text)
    with pytest.raises(CourseError, match=message):
        load_memory(path)
    with pytest.raises(CourseError, match="there is no file"):
        load_memory(tmp_path / "none.py")


LOOP = "from nl_course.limits import TimeUp\nif True:\n    raise TimeUp"  # what the timer does to a loop


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LOOP, "my_memory.py was still running after 20 seconds .my_memory.py, line 3."),
        ("import sys\nsys.exit(0)", "cannot be run: SystemExit: it ends the program .my_memory.py, line 2."),
        ("x = [0] * 10**15", "cannot be run: MemoryError: it asks for more memory than there is"),
        ("import torch\ntorch.zeros(10**14)", "RuntimeError: it asks for more memory than there is .my_memory"),
        ("def f(): return f()\nf()", "cannot be run: RecursionError: maximum recursion depth exceeded"),
        ("x = " + "(" * 10**4, "cannot be run: (SyntaxError|MemoryError)"),
        ("\0", "cannot be run: (SyntaxError|ValueError)"),
    ],
)  # fmt: skip
def test_a_file_that_would_hang_or_end_the_program_is_named(tmp_path, text, message):
    path = tmp_path / "my_memory.py"
    path.write_text(text)
    with pytest.raises(CourseError, match=message):
        load_memory(path, seconds=20)


@pytest.mark.parametrize("name", ["m.txt", "memory", "folder.py"])
def test_what_is_no_python_file_is_named(tmp_path, name):
    (tmp_path / "m.txt").write_text("MEMORY = 1")
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(CourseError, match=r"whose name ends in \.py|is a folder, not a file with a memory"):
        load_memory(tmp_path / name)
    if name != "folder.py":
        with pytest.raises(CourseError, match=r"whose name ends in \.py"):
            copy_template(tmp_path / name)


class Endless(LinearAttention):
    """Reads one token for ever, as the timer would find it."""

    def advance(self, x, state, trace):
        if x.shape[1] == 0:
            raise TimeUp
        return super().advance(x, state, trace)


def test_the_time_of_a_check_is_shared_by_all_properties():
    first, second, *others = check_case(Case("mine", lambda: Endless(Plain(width=8, heads=2, chunk=4))), 30).results
    assert first[1] == "" and second[0] == "no tokens change nothing"
    assert second[1].startswith("it was still running when the check's 30 seconds were used up (test_memories.py, line")
    assert {seen for _, seen in others} == {"not tried, since the time was used up"}
    with pytest.raises(CourseError, match="seconds must be a number of at least 0"):
        check_case(None, seconds=-1)


def test_an_error_in_a_learners_file_is_placed(tmp_path):
    path = copy_template(tmp_path / "my_memory.py")
    path.write_text(path.read_text().replace("mean = retention * mean", "mean = retention @ mean"))
    seen = dict(check_memory(path).results)
    assert "my_memory.py, line" in seen["one token is read and written"]
