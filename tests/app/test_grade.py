"""What a class hands in is judged by the course's own checks, whatever a notebook does."""

import csv
import json
import types
from html.parser import HTMLParser

import nbformat
import pytest
import torch

from nl_course.app.cli import main
from nl_course.app.grading import processes, report, work
from nl_course.app.grading.answers import Unreadable, cut_out, read_cells
from nl_course.app.grading.outcome import Allowance, Outcome, best
from nl_course.app.grading.screen import Refused, Untouched, Watched, safe_builtins
from nl_course.app.grading.submissions import Submission, checked_in, exercises_asked, find_submissions
from nl_course.errors import DONE, CourseError
from nl_course.exercises.framework.engine import chapters, exercise, exercises_of
from nl_course.files import course_root
from nl_course.notebooks import all_notebooks

NOTEBOOK = course_root() / "notebooks" / "01b_inside_attention.ipynb"  # of exercises 1.2 and 1.3
ROTATE, SCORE = exercise("1.2"), exercise("1.3")

RIGHT = {e.id: e.solution_source() for e in (ROTATE, SCORE)}
# It forgets that the speeds fall: all pairs turn alike.
WRONG_STEP = """
def rotate(x, positions, theta=10000.0):
    angles = positions[:, None] * torch.ones(x.shape[1] // 2, dtype=torch.float64)
    even, odd = x[:, 0::2], x[:, 1::2]
    turned = (even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos())
    return torch.stack(turned, dim=2).flatten(1)
"""
ENDLESS = """
def rotate(x, positions, theta=10000.0):
    while True:
        x = x + 1
"""
# What the notebook itself imports, and what the exercise carries.
BORROWED = """
def rotate(x, positions, theta=10000.0):
    return Rotary(dim=x.shape[1])(x[None], start=int(positions[0]))[0]
"""
FROM_THE_SOLUTION = """
from nl_course.exercises.framework.engine import exercise
copying_score = exercise("1.3").solution
"""


def handed_in(path, answers, before=""):
    """The course's notebook with answers in place of stubs: exercise id -> source. `before` is a cell at its head."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    if before:
        notebook.cells.insert(0, nbformat.v4.new_code_cell(before))
    for id, source in answers.items():
        asked = exercise(id)
        cell = next(c for c in notebook.cells if asked.stub.strip() in c.source)
        cell.source = cell.source.replace(asked.stub.strip(), source.strip())
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """A class of five, graded once by the command; each learner's outcomes stand in the CSV."""
    root = tmp_path_factory.mktemp("class")
    folder = root / "in"
    handed_in(folder / "right.ipynb", RIGHT)
    handed_in(folder / "wrong" / "01b_inside_attention.ipynb", {"1.2": WRONG_STEP})
    handed_in(folder / "blank.ipynb", {})
    handed_in(folder / "borrowed.ipynb", {"1.2": BORROWED, "1.3": FROM_THE_SOLUTION})
    judge = (
        "from nl_course.exercises.framework import engine\ndef check(id, answer): return True\nengine.Verdict = print"
    )
    handed_in(folder / "own-judge.ipynb", {"1.2": WRONG_STEP}, before=judge)
    (folder / "notes.txt").write_text("no submission")
    files = ["--csv", str(root / "grades.csv"), "--feedback", str(root / "pages")]
    code = main(["grade", str(folder), *files])
    with open(root / "grades.csv", encoding="utf-8", newline="") as stream:
        rows = {row["learner"]: row for row in csv.DictReader(stream)}
    return types.SimpleNamespace(root=root, folder=folder, code=code, rows=rows)


def outcome(graded, learner, id):
    row = graded.rows[learner]
    return row[f"{id} verdict"], row[f"{id} property"], row[f"{id} points"]


def test_each_gets_the_verdict_the_property_and_the_points(graded):
    one_speed = next(w.fails for w in ROTATE.wrong if w.answer.__name__ == "wrong_rotate_one_speed")
    assert graded.code == DONE and sorted(graded.rows) == ["blank", "borrowed", "own-judge", "right", "wrong"]
    assert [outcome(graded, "right", id) for id in ("1.2", "1.3")] == [("solved", "", "1")] * 2
    assert outcome(graded, "wrong", "1.2") == ("not yet", one_speed, "0")
    assert [outcome(graded, "blank", id) for id in ("1.2", "1.3")] == [("not attempted", "", "0")] * 2
    assert [outcome(graded, "borrowed", id) for id in ("1.2", "1.3")] == [("not accepted", "", "0")] * 2
    assert outcome(graded, "own-judge", "1.2") == ("not yet", one_speed, "0")
    assert {row["learner"]: (row["points"], row["of"]) for row in graded.rows.values()}["right"] == ("2", "2")


class Words(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.words = [], []

    def handle_starttag(self, tag, attrs):
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_each_learner_gets_a_page(graded):
    assert sorted(path.stem for path in (graded.root / "pages").iterdir()) == sorted(graded.rows)
    reader = Words()
    reader.feed((graded.root / "pages" / "wrong.html").read_text("utf-8"))
    words = " ".join("".join(reader.words).split())
    assert not reader.open and "0 of 2 exercises solved." in words
    assert f"1.2 not yet. This does not hold: {outcome(graded, 'wrong', '1.2')[1]}" in words
    assert 'hint("1.2",' in words and "1.3 not attempted yet." in words
    borrowed = (graded.root / "pages" / "borrowed.html").read_text("utf-8")
    assert "nl_course.memories.attention.rope.Rotary" in borrowed and "must not call the course" in borrowed


def test_an_endless_answer_ends_and_the_others_are_judged(tmp_path, monkeypatch):
    """One that a signal ends, and one that catches it and whose process has to be ended."""
    monkeypatch.setattr(processes, "GRACE", 1.0)
    stubborn = ENDLESS.replace("        x = x + 1", "        try: x = x + 1\n        except BaseException: pass")
    for name, source in (("endless", ENDLESS), ("stubborn", stubborn)):
        path = handed_in(tmp_path / f"{name}.ipynb", {"1.2": source})
        outcomes = processes.grade(Submission(name, (path,)), ["1.2", "1.3"], Allowance(1.0, 4 << 30))
        assert [o.verdict for o in outcomes] == ["failed", "empty"]
        assert outcomes[0].fails == ROTATE.properties[0].name and "still running" in outcomes[0].text


def test_memory_is_limited(tmp_path):
    greedy = "def rotate(x, positions, theta=10000.0):\n    return torch.ones(1 << 31)[: len(x)]"
    path = handed_in(tmp_path / "greedy.ipynb", {"1.2": greedy})
    found = processes.grade(Submission("greedy", (path,)), ["1.2"], Allowance(60.0, 1 << 30))[0]
    assert found.verdict == "failed" and "more memory than there is" in found.text


# -- one answer, judged in this process -------------------------------------------------------------------------
def judged(tmp_path, id, source, cells=()):
    """The outcome of a small notebook: further cells, then the answer and its check."""
    asked = exercise(id)
    new = nbformat.v4
    call = "" if f"check({id!r}" in source.replace('"', "'") else f'\ncheck("{id}", {asked.definition.name})'
    code = ["import math\nimport torch\nfrom nl_course.exercises import check, hint", *cells, source + call]
    path = tmp_path / "answer.ipynb"
    nbformat.write(new.new_notebook(cells=[new.new_code_cell(text) for text in code]), path)
    return work.outcome_in(asked, read_cells(path), Allowance(60.0, 4 << 30), Untouched(), lambda kind, value: None)


HELPED = """
def score(logits, tokens, period):
    losses = -log_softmax(logits[:, :-1], dim=-1).gather(-1, tokens[:, 1:, None])[..., 0]
    return mean_of(losses[:, : period - 1]) - mean_of(losses[:, period:])
check("1.3", score)
"""


def test_helpers_imports_and_constants_of_other_cells_come_along(tmp_path):
    cells = [
        "%matplotlib inline\nfrom torch import *\nfrom nl_course.memories import *",
        "from torch.nn.functional import log_softmax, gelu\nraise RuntimeError('a cell that must not run')",
        "%%time\nONE = TWO = 2\ndef less(number):\n    return number - TWO + ONE // 2",
        "ONE = less(ONE)\nTWO = Rotary(dim=8)\ndef mean_of(values):\n    return values.mean() * ONE",
        "logits = tokens = Rotary(dim=8)  # the names of the answer's own arguments",
        "score = Rotary(dim=8)  # a name that the answer binds anew",
        "this is no Python",
    ]
    found = judged(tmp_path, "1.3", HELPED, cells)
    assert (found.verdict, found.points, found.held) == ("passed", 1, len(SCORE.properties)), found.text


def test_the_last_check_counts_and_a_function_without_check_is_found_by_its_name(tmp_path):
    twice = f'{WRONG_STEP}\ncheck("1.2", rotate)\n{RIGHT["1.2"]}\ncheck("1.2", rotate)'
    assert judged(tmp_path, "1.2", twice).verdict == "passed"
    path = tmp_path / "unchecked.ipynb"
    cells = [nbformat.v4.new_code_cell(f"import torch\n{RIGHT['1.2']}")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    assert cut_out(read_cells(path), "1.2", "rotate") is not None
    assert cut_out(read_cells(path), "1.3", "copying_score") is None


def test_the_line_that_stopped_is_shown(tmp_path):
    found = judged(tmp_path, "1.2", "def rotate(x, positions, theta=10000.0):\n    return x @ x @ x @ x")
    assert found.verdict == "failed" and "line 2: return x @ x @ x @ x" in found.text and found.held == 0


CHEATS = {
    "the solution": 'from nl_course.exercises.ex01.beyond import solution_rotate\ncheck("1.2", solution_rotate)',
    "a reference, imported when it is called": """
def rotate(x, positions, theta=10000.0):
    import nl_course.exercises.ex01.beyond as beyond
    return beyond.solution_rotate(x, positions, theta)""",
    "the list of modules": """
def rotate(x, positions, theta=10000.0):
    return torch.sys.modules["nl_course.exercises.ex01.beyond"].solution_rotate(x, positions, theta)""",
    "text as code": """
def rotate(x, positions, theta=10000.0):
    return eval("__im" + "port__('nl_course')")""",
    "a name put together": """
def rotate(x, positions, theta=10000.0):
    return getattr(rotate, "__glo" + "bals__")""",
    "an attribute in a pattern": """
def rotate(x, positions, theta=10000.0):
    match rotate:
        case object(__globals__=found):
            return found""",
    "torch changed": """
def rotate(x, positions, theta=10000.0):
    torch.Tensor.abs = torch.zeros_like
    return x""",
    "torch changed under another name": """
mine = [torch.Tensor]
def rotate(x, positions, theta=10000.0):
    mine[0].abs = torch.zeros_like
    return x""",
    "a result equal to everything": """
class Same(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return torch.zeros(8, 8)
def rotate(x, positions, theta=10000.0):
    return x.as_subclass(Same)""",
    "the frames of its caller": """
import inspect
def rotate(x, positions, theta=10000.0):
    return inspect.stack()[2]""",
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_what_is_not_the_learners_own_is_not_accepted(tmp_path, cheat):
    abs_before = torch.Tensor.abs
    found = judged(tmp_path, "1.2", CHEATS[cheat])
    assert (found.verdict, found.points) == ("refused", 0), found.text
    assert torch.Tensor.abs is abs_before


def test_a_call_of_the_package_is_seen_however_the_function_was_come_by():
    from nl_course.memories.attention.rope import Rotary

    turn = Rotary(dim=8)

    def hides():
        try:
            return turn(torch.ones(1, 2, 8), start=0)
        except BaseException:
            return torch.ones(2)

    for answer in (lambda: turn(torch.ones(1, 2, 8), start=0), hides):
        with pytest.raises(Refused, match=r"calls nl_course\.memories\.attention\.rope\.forward"):
            Watched(answer)()
    assert Watched(lambda x: torch.nn.Linear(2, 2)(x))(torch.ones(2)).shape == (2,)


def test_what_an_answer_imports_while_it_runs_is_looked_at_too():
    namespace = {"__builtins__": safe_builtins()}
    exec("import math\nhalf = math.sqrt(0.25)", namespace)
    assert namespace["half"] == 0.5
    for line in ("import subprocess", "import nl_course.memories", "open('x')"):
        with pytest.raises((Refused, NameError)):
            exec(line, {"__builtins__": safe_builtins()})


@pytest.mark.slow
@pytest.mark.parametrize("path", list(filter(checked_in, all_notebooks())), ids=lambda p: p.stem)
def test_every_solution_of_the_course_is_accepted_in_its_notebook(path, tmp_path):
    """None is refused, for what it uses or for what stands around it; and nothing that checks rely on changes."""
    notebook = nbformat.read(path, as_version=4)
    ids = exercises_asked([Submission("all", (path,))])
    for id in ids:
        cell = next(c for c in notebook.cells if exercise(id).stub.strip() in c.source)
        solution = f"import math\nimport torch\n{exercise(id).solution_source()}"
        cell.source = cell.source.replace(exercise(id).stub.strip(), solution)
    nbformat.write(notebook, tmp_path / path.name)
    cells = read_cells(tmp_path / path.name)
    for id in ids:
        found = work.outcome_in(exercise(id), cells, Allowance(0, 4 << 30), Untouched(), lambda kind, value: None)
        assert found.verdict == "passed", found.text


def test_every_exercise_is_in_a_notebook_that_can_be_handed_in():
    ids = {e.id for chapter in chapters() for e in exercises_of(chapter)}
    assert set(exercises_asked([Submission("all", tuple(all_notebooks()))])) == ids


# -- what is handed in, and what is written ---------------------------------------------------------------------
def test_unreadable_work_is_told_and_stops_nothing(tmp_path):
    (tmp_path / "no.ipynb").write_text("{")
    with pytest.raises(Unreadable, match=r"no\.ipynb cannot be read as a notebook"):
        read_cells(tmp_path / "no.ipynb")
    found = judged(tmp_path, "1.2", "def rotate(x, positions:\n    return x")
    assert found.verdict == "unreadable" and "is no Python that can be read: line 1" in found.text


def test_the_best_of_several_notebooks_counts():
    outcomes = [Outcome("1.2", verdict, "") for verdict in ("missing", "failed", "passed", "empty")]
    assert best(outcomes).verdict == "passed" and best(outcomes[:2]).verdict == "failed"


def test_who_handed_in_what(tmp_path):
    for name in (
        "ada.ipynb",
        "ben/a.ipynb",
        "ben/deep/b.ipynb",
        "ben/.ipynb_checkpoints/a.ipynb",
        "readme.txt",
        ".x.ipynb",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "empty").mkdir()
    found = {s.learner: [p.name for p in s.notebooks] for s in find_submissions(tmp_path)}
    assert found == {"ada": ["ada.ipynb"], "ben": ["a.ipynb", "b.ipynb"], "empty": []}
    (tmp_path / "ada").mkdir()
    with pytest.raises(CourseError, match="two submissions called 'ada'"):
        find_submissions(tmp_path)


def test_a_csv_is_safe_in_a_spreadsheet_and_sums_up():
    grades = {"=1+1": [Outcome("1.2", "passed", ""), Outcome("1.3", "failed", "", "it is causal", 1)]}
    rows = list(csv.reader(report.csv_text(grades).splitlines()))
    assert rows[0][:6] == ["learner", "points", "of", "1.2 points", "1.2 verdict", "1.2 property"]
    assert rows[1] == ["'=1+1", "1", "2", "1", "solved", "", "0", "not yet", "it is causal"]
    text = report.table(grades)
    assert "=1+1       1    0  1 of 2" in text and "  1.3  it is causal: =1+1" in text


def test_a_page_shows_code_as_text():
    text = report.page("<b>", [Outcome("1.2", "failed", "got <script>", "a < b")], {"1.2": "x & y"})
    assert "<script>" not in text and "<b>" not in text and "x &amp; y" in text and "a &lt; b" in text


def test_only_what_grading_wrote_is_written_over(tmp_path, graded):
    (tmp_path / "mine.csv").write_text("name,mark\n")
    with pytest.raises(CourseError, match=r"mine\.csv exists already and is not of `nl-course grade`"):
        report.check_csv(tmp_path / "mine.csv")
    (tmp_path / "ada.html").write_text("<p>mine</p>")
    with pytest.raises(CourseError, match=r"ada\.html exists already"):
        report.check_pages(tmp_path, ["ada"])
    assert report.check_csv(graded.root / "grades.csv") == graded.root / "grades.csv"
    assert report.check_pages(graded.root / "pages", list(graded.rows)) == graded.root / "pages"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("grade", "arguments are required: FOLDER"),
        ("grade none", "there is no folder none"),
        ("grade empty", "empty holds no submissions"),
        ("grade in --exercises 1.99", "exercise '1.99' is not known"),
        ("grade in --seconds 0", "--seconds must be above 0"),
        ("grade in --memory 0", "--memory must be a number of at least 0.1, not 0"),
        ("grade in --csv in", "in exists already and is not of"),
        ("grade other", "no submission checks an exercise of the course"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, monkeypatch, capsys, line, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    handed_in(tmp_path / "in" / "ada.ipynb", {})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "ada.ipynb").write_text(json.dumps({"cells": []}))
    assert main(line.split()) == 2
    assert words in " ".join(capsys.readouterr().err.split())
