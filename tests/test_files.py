"""Files are written whole or not at all, with the right permissions, and nothing of a killed writer stays."""

import ast
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import nl_course
from nl_course.files import process_start, remove_leftovers, write_atomically

KILLED = """
import os, signal, sys
from nl_course.files import write_atomically

def half(temporary):
    temporary.write_text("half")
    temporary.with_name(".tmpAbc123").write_text("a writer's own file")
    os.kill(os.getpid(), signal.SIGKILL)

write_atomically(sys.argv[1], half)
"""


def text(words):
    return lambda temporary: temporary.write_text(words)


def replacing(temporary):
    """Writes as safetensors does: into a file of its own, which then takes the other's place."""
    own = temporary.with_name(".tmpAbc123")
    own.touch(0o600)
    own.write_text("new")
    own.replace(temporary)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def refuse(*_, **__):
    raise PermissionError(13, "Permission denied")


@pytest.fixture
def umask():
    """Sets the umask for one test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_a_new_file_follows_the_umask_and_a_replaced_one_keeps_its_permissions(tmp_path, umask):
    for mask, wanted in ((0o077, 0o600), (0o022, 0o644), (0o002, 0o664)):
        umask(mask)
        assert mode(write_atomically(tmp_path / f"{mask}", text("new"))) == wanted
        assert mode(write_atomically(tmp_path / f"{mask}", replacing)) == wanted
        assert mode(write_atomically(tmp_path / f"new-{mask}", replacing)) == wanted
    for kept in (0o600, 0o640, 0o444):
        (tmp_path / "077").touch()
        (tmp_path / "077").chmod(kept)
        assert mode(write_atomically(tmp_path / "077", text("again"))) == kept
    seen = []
    umask(0o022)
    write_atomically(tmp_path / "secret", lambda temporary: seen.append(mode(temporary.parent)))
    assert seen == [0o700]  # nobody else reads it before it has the permissions of the file that it replaces


def test_a_link_is_replaced_and_what_it_names_is_left_alone(tmp_path, umask):
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "theirs").chmod(0o600)
    (tmp_path / "link").symlink_to("theirs")
    write_atomically(tmp_path / "link", text("ours"))
    assert not (tmp_path / "link").is_symlink() and (tmp_path / "theirs").read_text() == "theirs"
    assert mode(tmp_path / "link") == 0o644


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    def fail(temporary):
        temporary.write_text("half")
        raise error

    write_atomically(tmp_path / "file", text("old"))
    with pytest.raises(type(error)) as raised:
        write_atomically(tmp_path / "file", fail)
    if isinstance(error, OSError):
        assert raised.value.filename == str(tmp_path / "file")  # who only prints the error still names the file
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "old"


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is a signal of POSIX")
def test_what_a_killed_writer_left_is_removed_by_the_next_one(tmp_path):
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "file")]).returncode == -9
        (left,) = tmp_path.iterdir()  # the second time: the first one's is gone
        assert left.name.startswith(".file.") and (left / "file").read_text() == "half"
    write_atomically(tmp_path / "file", text("whole"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_only_what_is_surely_left_over_is_removed(tmp_path, monkeypatch):
    """What a process still writes, and what another machine or an earlier version wrote, stays until it is a day old;
    what has other names or is of another kind stays forever."""
    written = []
    write_atomically(tmp_path / "file", lambda temporary: written.append(temporary.parent.name))
    (running,) = written
    other_machine = ".file.00000000-999999999-0123abcd.part"  # no process here has that number
    other_file = running.replace(".file.", ".another file.")
    ours = {running, other_machine, other_file}
    for name in ours | {".file.folder12.part", "file.part"}:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    earlier = ".file.abc_1234.part"
    strange = [".file.part", ".file.mine.part", ".other.abc_1234.part", "x.file.abc_1234.part", ".file.abcd1234.parts"]
    as_a_file = running.replace(".file.", ".as a file.")
    for name in (earlier, as_a_file, *strange):
        (tmp_path / name).write_text("x")
    (tmp_path / ".file.thelink1.part").symlink_to("file")
    (tmp_path / running.replace(".file.", ".link.")).symlink_to("file.part")

    def present():
        return {path.name for path in tmp_path.iterdir()}

    before = present()
    remove_leftovers(tmp_path / "file")
    assert present() == before
    for path in tmp_path.iterdir():
        os.utime(path, (time.time() - 10**5,) * 2, follow_symlinks=False)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)  # what cannot be removed does not stop the one who only wants to write
        patch.setattr(os, "rmdir", refuse)
        remove_leftovers(tmp_path / "file")
    assert present() == before
    remove_leftovers(tmp_path / "file")
    # This very process was started after that time, so it is another process of the same number that wrote.
    assert before - present() == {*ours, earlier}
    remove_leftovers(tmp_path / "nowhere" / "file")


def test_a_process_is_known_by_its_number_and_its_start():
    assert process_start(os.getpid()) == psutil.Process().create_time()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    if hasattr(os, "waitid"):  # it has ended and nobody has asked about it: a zombie
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert process_start(ended.pid) is None
    ended.wait()
    assert process_start(ended.pid) is None
    assert process_start(10**30) is None and process_start(-1) is None


# -- who else writes ---------------------------------------------------------------------------------------------------
PACKAGE = Path(nl_course.__file__).parent
WRITES = {"write_text", "write_bytes", "savez", "savez_compressed", "save_file"}  # by the name of a method or function
MODULES = {("json", "dump"), ("torch", "save"), ("np", "save"), ("numpy", "save"), ("pickle", "dump")}
# What writes a file by other means than write_atomically, and why it may.
MAY = {
    "app/student.py write_text": "in a temporary folder, which is moved when all of it is there",
    "exercises/framework/sealed.py write_text": "in the same temporary folder",
    "benches/gpu/suite.py open": "a report in a temporary folder, a whole line at a time",
    "app/train_command.py open": "the null device",
    "tasks/documents.py open": "the writer that write_atomically calls",
    "tasks/packed.py open": "lines are appended; one that is cut off is left out",
    "training/run_folder.py open": "lines are appended; one that is cut off is left out",
}


def direct_writes(source):
    """Calls that write a file, but for those in `lambda temporary: ...`, which write_atomically calls."""
    tree = ast.parse(source)
    writers = [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)]
    inside = {call for writer in writers if writer.args.args[:1] for call in ast.walk(writer)}
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or call in inside:
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        module = call.func.value.id if isinstance(getattr(call.func, "value", None), ast.Name) else ""
        constants = [node.value for node in (*call.args[1:2], *(k.value for k in call.keywords)) if is_text(node)]
        opens = name == "open" and any(set(text) & set("wax+") and len(text) < 4 for text in constants)
        if opens or name in WRITES or (module, name) in MODULES:
            yield name


def is_text(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_all_who_write_a_file_write_it_whole_or_not_at_all():
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in direct_writes(path.read_text("utf-8")):
            found.add(f"{path.relative_to(PACKAGE).as_posix()} {name}")
    assert found == set(MAY)


@pytest.mark.parametrize(
    "line",
    ["open(p, 'w')", "open(p, mode='ab')", "p.write_text('x')", "json.dump(x, f)", "np.savez(p)", "torch.save(x, p)"],
)
def test_a_direct_write_is_found(line):
    assert len(list(direct_writes(line))) == 1
    assert not list(direct_writes(f"write_atomically(p, lambda temporary: {line})"))
    assert not list(direct_writes("open(p); open(p, 'rb'); json.dumps(x)"))
