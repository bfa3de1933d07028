"""Command lines that something is wrong with: exit code, one line on stderr that says what, never a traceback.

Most run in this process, where a fault of the course would be raised; some as programs of their own. What is wrong with
options alone stands in `test_cli.py`, damaged runs in `tests/training/test_run_table.py`.
"""

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nl_course.app import cli, doctor, lab
from nl_course.app.cli import main
from nl_course.errors import DONE, FAULT, FOUND, INTERRUPTED, REFUSED, CourseError
from nl_course.tensor_files import open_tensors, write_tensors
from tests.app.test_cli import SMALL, contents
from tests.tasks.test_packed import needs_data

TRAIN = " ".join(SMALL)
DEEP = "[" * 100_000
RUN = f"{TRAIN} --text own.txt --out r"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, made once."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "own.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    here = os.getcwd()
    os.chdir(folder)
    try:
        assert main(RUN.split()) == DONE
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def own(made, tmp_path, monkeypatch):
    """A folder to stand in, with a text, a run `r` that is done, and files of every kind of damage."""
    monkeypatch.chdir(tmp_path)
    for path in contents(made):
        (tmp_path / path.relative_to(made)).parent.mkdir(exist_ok=True)
        (tmp_path / path.relative_to(made)).write_bytes(path.read_bytes())
    for name, content in {
        "file": "in the way",
        "shelf.jsonl": '{"text": "some words"}\n' * 30,
        "empty.jsonl": "",
        "deep.jsonl": f'{{"text": {DEEP}}}\n',
        "deep.json": DEEP,
        "m.txt": "MEMORY = 1",
        "loop.py": "from nl_course.limits import TimeUp\nraise TimeUp",
        "exits.py": "raise SystemExit(0)",
        "greedy.py": "x = [0] * 10**15",
        "deep.py": "def f(): return f()\nf()",
        "theirs/LICENSE": "mine",
    }.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(content)
    Path("astray").symlink_to("gone")
    return tmp_path


# -- one line ----------------------------------------------------------------------------------------------------
LINES = {
    # Options that are empty would mean the folder one stands in.
    "train --text ''": "--text must not be empty",
    "train --data ''": "--data must not be empty",
    "train --out ''": "--out must not be empty",
    "train --tokenizer ' '": "--tokenizer must not be empty",
    "train --preset ''": "--preset must not be empty",
    "train --accelerator '' --estimate": "--accelerator must not be empty",
    "lab --copy ''": "--copy must not be empty",
    "lab --copy c --reset ''": "--reset must not be empty",
    "record scaling --assets ''": "--assets must not be empty",
    "record ''": "NAME must not be empty",
    "export ''": "DIR must not be empty",
    "export site ''": "NOTEBOOK must not be empty",
    "student ''": "folder must not be empty",
    "wheelhouse ''": "DIR must not be empty",
    "runs ''": "DIR must not be empty",
    "check-memory ''": "FILE must not be empty",
    # Numbers beyond what there can be.
    f"{TRAIN} --text own.txt --seed 1180591620717411303424": "seed must be .* at most 9,223,372,036,854,775,807, not",
    f"{TRAIN} --text own.txt --steps 1180591620717411303424": "steps must be a whole number of at most",
    f"{TRAIN} --text own.txt --steps {'9' * 5000}": r"--steps: must be a whole number, not '9+\.\.\.",
    f"{TRAIN} --text own.txt --batch-size 1000000000000": "needs .* PB of memory at the least, and there are",
    f"{TRAIN} --text own.txt --length 1000000000000": "needs .* PB of memory at the least",
    f"{TRAIN} --text own.txt --estimate --batch-size 1000000000000": "needs .* of memory at the least",
    f"{TRAIN} --text own.txt --learning-rate 1e308": r"learning_rate must be at most 1e\+30, not 1e\+308",
    f"{TRAIN} --text own.txt --learning-rate 1e30": "training diverged at step 1",
    f"{TRAIN} --text own.txt --clip 1e400": "clip must be a finite number",
    f"{TRAIN} --text own.txt --estimate --accelerator h100 --price inf": "price_per_hour must be a finite number",
    "lab --port 99999999999999999999": "--port must be a whole number from 1 to 65,535, not 99999999999999999999",
    "export site --jobs 0": "jobs must be a whole number of at least 1, not 0",
    "export site --jobs many": "--jobs: must be a whole number, not 'many'",
    "check-memory loop.py --time-limit -1": "--time-limit must be a number of at least 0, not -1",
    "check-memory loop.py --time-limit soon": "--time-limit: must be a number, not 'soon'",
    # What is read.
    "train --text astray": "--text must be prose, code, or a file or folder that exists, not 'astray'",
    "train --data shlef": r"no file matches 'shlef'\. Did you mean 'shelf.jsonl'\? A dataset on a hub is called OWNER",
    "train --data empty.jsonl": "the data file empty.jsonl is empty",
    "train --data deep.jsonl": "line 1 of deep.jsonl is not JSON: it is nested more than 100 levels deep",
    "train --data shelf.jsonl --column words": "has no column 'words'; it has: text",
    f"{TRAIN} --text own.txt --out astray": "cannot use astray as the run's folder: astray is a link that leads",
    # What is written.
    "export file": "cannot use file as the pages' folder: file is a file, not a folder",
    "export theirs": "theirs holds files, and no list of an earlier export says that they are its own",
    "export astray": "astray is a link that leads nowhere",
    "student file": "cannot use file as the student build's folder: file is a file, not a folder",
    "student theirs": "theirs exists already",
    "student astray": "astray is a link that leads nowhere",
    "wheelhouse theirs": "theirs holds 'LICENSE', which is no part of a wheelhouse",
    "wheelhouse astray": "astray is a link that leads nowhere",
    "lab --copy astray": "astray is a link that leads nowhere",
    # A memory of one's own.
    "check-memory m.txt": "'m.txt' must be a Python file, whose name ends in .py",
    "check-memory m.txt --template": "'m.txt' must be a Python file, whose name ends in .py",
    "check-memory none.py": "there is no file 'none.py'; `nl-course check-memory --template none.py` writes one",
    "check-memory astray": "must be a Python file",
    "check-memory loop.py": r"loop.py was still running after 300 seconds \(loop.py, line 2\)",
    "check-memory loop.py --time-limit 7": "loop.py was still running after 7 seconds",
    "check-memory exits.py": "exits.py cannot be run: SystemExit: it ends the program",
    "check-memory greedy.py": "greedy.py cannot be run: MemoryError: it asks for more memory than there is",
    "check-memory deep.py": "deep.py cannot be run: RecursionError",
    # A folder of runs.
    "runs none": "there is no folder 'none'",
    "runs file": "there is no folder 'file'",
    "runs . --tokenizer deep.json": "--tokenizer and --data go together",
}


def words_of(line):
    return ["" if word == "''" else " " if word == "SPACE" else word for word in line.replace("' '", "SPACE").split()]


def only_line(error):
    assert error.startswith("nl-course: ") and error.count("\n") == 1 and error.endswith("\n"), error
    return error


@pytest.mark.parametrize("line", LINES)
def test_a_line_that_cannot_be_done_is_refused_in_one_line_and_changes_nothing(own, capsys, line):
    before = contents(own)
    assert main(words_of(line)) == REFUSED
    assert re.search(LINES[line], only_line(capsys.readouterr().err))
    after = contents(own)
    # A run that diverges has begun; whatever else is new would be a leftover.
    assert after == before or "diverged" in LINES[line]


@needs_data
def test_a_vocabulary_beside_a_tokenizer_is_not_ignored_in_silence(own, capsys):
    data = f"{TRAIN} --data shelf.jsonl --tokenizer t.json"
    assert main(f"{data} --vocab 300 --out one".split()) == DONE
    subwords = int(re.search(r"([\d,]+) subwords", capsys.readouterr().out)[1].replace(",", ""))
    assert main(f"{data} --vocab {subwords - 1} --out two".split()) == REFUSED
    error = only_line(capsys.readouterr().err)
    assert f"t.json is there already, with {subwords} subwords; --vocab {subwords - 1} is for a new" in error
    for vocab, said in ((subwords, False), (subwords + 1, True)):
        assert main(f"{data} --vocab {vocab} --out v{vocab}".split()) == DONE
        assert ("is for a new tokenizer and is not used" in capsys.readouterr().err) == said


def test_a_hub_is_asked_only_for_what_is_named_like_a_dataset_and_after_saying_so(own, capsys, monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(name, **options):
        asked.append(capsys.readouterr().err)
        raise ConnectionError("no network here")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    assert main(f"{TRAIN} --data owner/name".split()) == REFUSED
    assert re.fullmatch(r"nl-course: note: asking https?://\S+ for the dataset 'owner/name'\.\n", asked[0])
    assert "'owner/name' cannot be opened: no network here" in only_line(capsys.readouterr().err)


# -- checkpoints that are damaged ----------------------------------------------------------------------------------
def rewritten(change):
    """A damage: the description in the run's checkpoint is another, with a checksum that fits."""

    def damage():
        path, kind = Path("r/checkpoint.safetensors"), ("nl_course.checkpoint", "checkpoint")
        with open_tensors(path, *kind) as file:
            tensors = {name: file.tensor(name) for name in file.names}
            description = change(file.description)
        write_tensors(path, tensors, kind[0], description, kind[1])

    return damage


def without(*keys):
    def change(description):
        inside = description
        for key in keys[:-1]:
            inside = inside[key]
        del inside[keys[-1]]
        return description

    return rewritten(change)


def with_value(value, *keys):
    def change(description):
        inside = description
        for key in keys[:-1]:
            inside = inside[key]
        inside[keys[-1]] = value
        return description

    return rewritten(change)


def in_place_of(name, content):
    def damage():
        Path("r", name).unlink(missing_ok=True)
        Path("r", name).write_bytes(content)

    return damage


def sharded(content):
    def damage():
        Path("r/checkpoint.safetensors").unlink()
        Path("r/sharded.json").write_bytes(content)

    return damage


POINTER = {"folder": "sharded-00000003", "progress": {"step": 3, "asked": {"preset": "micro"}}}
CHECKPOINTS = {
    "description is a list": rewritten(lambda description: [1]),
    "description is a number": rewritten(lambda description: 5),
    "no kind": without("kind"),
    "no progress": without("progress"),
    "progress is a list": with_value([], "progress"),
    "no settings": without("progress", "asked"),
    "settings are a list": with_value([1], "progress", "asked"),
    "settings are unknown": with_value({"speed": 1}, "progress", "asked"),
    "no step": without("progress", "step"),
    "step in words": with_value("three", "progress", "step"),
    "no tokens": without("progress", "tokens"),
    "no optimizer": without("optimizer"),
    "optimizer is a word": with_value("adamw", "optimizer"),
    "no groups": without("optimizer", "groups"),
    "groups of numbers": with_value([1], "optimizer", "groups"),
    "no state": without("optimizer", "state"),
    "state in words": with_value("gone", "optimizer", "state"),
    "no model": without("model"),
    "a model of another name": with_value("Other", "model"),
    "a config in words": with_value("small", "config"),
    "run.json is gone": lambda: Path("r/run.json").unlink(),
    "run.json is nested deep": in_place_of("run.json", DEEP.encode()),
    "metrics.jsonl is gone": lambda: Path("r/metrics.jsonl").unlink(),
    "metrics.jsonl is no text": in_place_of("metrics.jsonl", b"\xff\xfe"),
    "metrics.jsonl is nested deep": in_place_of("metrics.jsonl", DEEP.encode()),
    "sharded.json is empty": sharded(b""),
    "sharded.json is cut off": sharded(b'{"folder": "sha'),
    "sharded.json is no text": sharded(b"\xff\xfe"),
    "sharded.json is a list": sharded(b"[1]"),
    "sharded.json is nested deep": sharded(DEEP.encode()),
    "sharded.json names no folder": sharded(json.dumps({"progress": POINTER["progress"]}).encode()),
    "sharded.json names a folder elsewhere": sharded(json.dumps(POINTER | {"folder": "../theirs"}).encode()),
    "sharded.json names a number": sharded(json.dumps(POINTER | {"folder": 5}).encode()),
    "sharded.json without progress": sharded(b'{"folder": "sharded-00000003"}'),
    "sharded.json with progress in words": sharded(b'{"folder": "sharded-00000003", "progress": "3"}'),
    "sharded.json with its folder gone": sharded(json.dumps(POINTER).encode()),
}


@pytest.mark.parametrize("what", CHECKPOINTS)
def test_a_damaged_checkpoint_is_refused_in_one_line_or_gone_on_with(own, capsys, what):
    CHECKPOINTS[what]()
    before = contents(own)
    code = main(["train", "--resume", "--out", "r", "--text", "own.txt", "--device", "cpu", "--quiet"])
    error = capsys.readouterr().err
    if code == REFUSED:
        assert len(only_line(error)) < 600
        assert contents(own) == before
    else:  # what was damaged is not needed to go on
        assert code == DONE and "Traceback" not in error


# -- machines that something is wrong with -----------------------------------------------------------------------
def failing(monkeypatch, error):
    """A command that fails with this error when it is run."""

    def run(options):
        raise error

    def add(commands):
        commands.add_parser("doctor").set_defaults(run=run)

    monkeypatch.setitem(cli.COMMANDS, "doctor", (add, ""))


LAYER = 'Missing key(s) in state_dict: "layers.0.memory.query.weight".'
ERRORS = {
    "a mistake": (CourseError("of two\n lines"), REFUSED, "nl-course: of two lines\n"),
    "no memory": (MemoryError(), REFUSED, "needs more memory than there is; take a smaller batch"),
    "no memory in C++": (RuntimeError("std::bad_alloc"), REFUSED, "needs more memory than there is"),
    "no memory on a GPU": (torch.OutOfMemoryError("CUDA out of memory."), REFUSED, "needs more memory than there is"),
    "weights of a memory": (RuntimeError(LAYER), FAULT, r"a fault of the course: RuntimeError: Missing key.*memory"),
    "a bug": (KeyError("x"), FAULT, r"a fault of the course: KeyError: 'x' \(app/cli.py, line \d+\)"),
    "an assertion": (AssertionError(), FAULT, "a fault of the course: AssertionError: AssertionError"),
    "recursion": (RecursionError("maximum depth"), FAULT, "a fault of the course: RecursionError: maximum depth"),
    "a full disk": (OSError(28, "No space left on device", "some/file"), REFUSED, "some/file: No space left on device"),
    "an error without words": (OSError(), REFUSED, "a file cannot be read or written: OSError"),
    "a closed pipe": (BrokenPipeError(32, "Broken pipe"), REFUSED, "the output was closed before all of it was"),
    "ctrl-C": (KeyboardInterrupt(), INTERRUPTED, "^$"),
}  # fmt: skip


@pytest.mark.parametrize("what", ERRORS)
def test_whatever_fails_has_its_exit_code_and_its_line(monkeypatch, capsys, what):
    error, code, words = ERRORS[what]
    failing(monkeypatch, error)
    monkeypatch.delenv("NL_COURSE_STRICT", raising=False)
    assert main(["doctor"]) == code
    error_text = capsys.readouterr().err
    assert re.search(words, error_text) and error_text.count("\n") == (code != INTERRUPTED)


def test_a_fault_of_the_course_names_its_place_and_is_raised_where_that_is_wanted(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "doctor", lambda: doctor.step_seconds(rows="many"))
    monkeypatch.delenv("NL_COURSE_STRICT", raising=False)
    assert main(["doctor"]) == FAULT
    assert re.search(r"a fault of the course: TypeError: .* \(app/doctor.py, line \d+\)", capsys.readouterr().err)
    monkeypatch.setenv("NL_COURSE_STRICT", "1")
    with pytest.raises(TypeError):
        main(["doctor"])


def test_exit_codes_are_documented_and_the_same_everywhere():
    names = {"DONE": DONE, "FOUND": FOUND, "REFUSED": REFUSED, "FAULT": FAULT, "INTERRUPTED": INTERRUPTED}
    documented = dict(re.findall(r"(?m)^    (\d+) +([A-Z]+) ", cli.__doc__))
    assert {name: int(code) for code, name in documented.items()} == names
    assert len(set(names.values())) == len(names)
    # Who returns a code returns one of these, by its name.
    for path in Path(cli.__file__).parents[1].rglob("*.py"):
        literal = re.search(r"return (0|1|2) if|sys\.exit\(\d|exit\(\d", path.read_text("utf-8"))
        assert literal is None, f"{path.name}: {literal}"


def test_a_terminal_that_lacks_a_character_is_given_its_number(own, monkeypatch):
    (own / "écrits.txt").write_text("the quick brown fox\n" * 60)
    written = [io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", written[0])
    monkeypatch.setattr(sys, "stderr", written[1])
    assert main(f"{TRAIN} --text écrits.txt --out ré".split()) == DONE
    assert main(["train", "--preset", "é"]) == REFUSED
    written[1].flush()
    out, error = (stream.buffer.getvalue().decode("ascii") for stream in written)
    assert r"Library(\xe9crits.txt: " in out and r"r\xe9/model.safetensors" in out
    assert r"preset '\xe9' is not known" in error and error.count("\n") == 1


def test_without_any_output_a_command_is_still_done(own, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(f"{TRAIN} --text own.txt --out silent".split()) == DONE
    assert main(["trian"]) == REFUSED


def test_a_disk_that_is_full_when_the_output_is_written_is_named(own, monkeypatch, capsys):
    class Full(io.StringIO):
        def flush(self):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    assert main(["runs", "."]) == REFUSED
    assert "cannot be read or written: No space left on device" in only_line(capsys.readouterr().err)


@pytest.mark.parametrize("size", [10**12, 5])
def test_a_data_sheet_needs_no_memory_for_the_model(own, capsys, size, monkeypatch):
    """Not even for a run that this machine has no room for."""
    moved = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *arguments: moved.append(arguments) or self)
    options = f"train --preset micro --text own.txt --estimate --accelerator h100 --steps 2 --batch-size {size}"
    assert main(options.split()) == DONE
    assert "assuming" in capsys.readouterr().out and not moved


# -- as programs -------------------------------------------------------------------------------------------------
def program(*words, setup="", **environment):
    """Runs the command as a program of its own, after some lines of Python; returns the finished process."""
    clean = {name: value for name, value in os.environ.items() if name != "NL_COURSE_STRICT"}
    lines = f"import sys\nsys.argv = {['nl-course', *words]!r}\n{setup}\n"
    lines += "from nl_course.app.start import program\nprogram()"
    return subprocess.run(
        [sys.executable, "-c", lines], env={**clean, **environment}, capture_output=True, text=True, errors="replace"
    )


# ctrl-C when a module is first asked for, whenever that is.
AT_IMPORT = """
import os, signal
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of this kind are not sent on Windows")
@pytest.mark.parametrize("name", ["numpy", "torch.distributed"])
def test_ctrl_c_while_modules_are_loaded_ends_the_program_without_a_word(own, name):
    done = program(*RUN.split(), setup=AT_IMPORT.format(name=name))
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
    assert contents(own)[own / "r" / "run.json"], "nothing was touched"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of this kind are not sent on Windows")
def test_ctrl_c_once_the_work_has_begun_is_handled(own):
    """By now the text is read, so a half-written file would have to be removed."""
    setup = "import nl_course.app.train_command as t, os, signal\n"
    setup += "t.corpus = lambda *arguments: os.kill(os.getpid(), signal.SIGINT)"
    done = program(*f"{TRAIN} --text own.txt --out new".split(), setup=setup)
    assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, "", "")
    assert not (own / "new").exists()


@pytest.mark.slow
def test_an_ignored_ctrl_c_stays_ignored(own):
    """As under nohup."""
    setup = "import os, signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nimport nl_course.app.lab as lab\n"
    setup += "lab.launch = lambda *arguments: os.kill(os.getpid(), signal.SIGINT) or 0"
    done = program("lab", "--in-place", setup=setup)
    assert (done.returncode, done.stderr) == (DONE, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "environment", "code", "says"),
    [
        ("runs .", {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}, FOUND, r"r\xe9: cannot be read"),
        ("check-memory exits.py", {}, REFUSED, "it ends the program"),
    ],
)
def test_a_program_ends_with_its_code_and_its_line(own, words, environment, code, says):
    Path("ré").mkdir()
    Path("ré/metrics.jsonl").write_text('{"step": 1}\n')
    Path("ré/run.json").write_text(DEEP)
    done = program(*words.split(), **environment)
    assert done.returncode == code and says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("\n") == (code == REFUSED)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize(("behind", "says"), [("> /dev/full", "No space left"), ("| true", "the output was closed")])
def test_a_full_disk_and_a_closed_pipe_behind_the_output(own, behind, says):
    # The reader of the pipe is gone before anything is written into it.
    lines = "import time; time.sleep(0.3); from nl_course.app.start import program; program()"
    command = f"'{sys.executable}' -c '{lines}' lab --no-start --copy mine {behind}"
    hidden = ("NL_COURSE_STRICT", "PYTHONUNBUFFERED")
    clean = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(["sh", "-c", command], env=clean, capture_output=True, text=True)
    assert says in only_line(done.stderr)


def test_jupyterlab_that_was_ended_by_a_signal_has_the_code_of_shells(monkeypatch, tmp_path):
    class Server:
        def wait(self):
            return -15

    monkeypatch.setattr(lab, "needed_folders", lambda: ())
    monkeypatch.setattr(lab, "command_line", lambda *arguments: (["jupyter"], {}))
    monkeypatch.setattr(subprocess, "Popen", lambda command, env: Server())
    assert lab.launch() == 143
