import errno
import os
import resource
import stat
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from moa_tf.atomic import check_directory, check_file, replacing, sync_tree, temporary_directory, writing
from moa_tf.errors import InputError

NO_SPACE = os.strerror(errno.ENOSPC)


def write(path, text="new"):
    with replacing(path) as temporary:
        temporary.write_text(text)


def fail_halfway(path):
    with suppress(KeyError), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def leftovers():
    return [path.name for path in Path(tempfile.gettempdir()).glob(".tmp-*")]


@pytest.fixture
def full_disk(tmp_path):
    """200 kB in memory."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting needs root")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_symbolic_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    file = tmp_path / "real" / "file.csv"
    file.write_text("old")
    (tmp_path / "link.csv").symlink_to("real/file.csv")
    (tmp_path / "chain.csv").symlink_to(tmp_path / "link.csv")
    before = file.stat().st_ino
    write(tmp_path / "chain.csv")
    assert file.read_text() == "new"
    assert file.stat().st_ino != before  # replaced as a whole, not written over
    assert os.readlink(tmp_path / "link.csv") == "real/file.csv"
    assert (tmp_path / "chain.csv").is_symlink()
    assert names(tmp_path / "real") == ["file.csv"]
    fail_halfway(tmp_path / "chain.csv")
    assert file.read_text() == "new"


def test_a_dangling_link_makes_its_file(tmp_path):
    (tmp_path / "link").symlink_to("later/file")
    write(tmp_path / "link")
    assert (tmp_path / "later" / "file").read_text() == "new"
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(InputError, match=r"round: cannot be written \(Too many levels"):
        write(tmp_path / "round")


def test_devices_stay_devices_also_behind_links(tmp_path):
    null = tmp_path / "null"
    try:
        os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        null.symlink_to(os.devnull)  # as anyone but root it could not be replaced anyway
    (tmp_path / "link").symlink_to("null")
    for path in (null, tmp_path / "link"):
        write(path)
        assert stat.S_ISCHR(path.stat().st_mode)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    assert names(tmp_path) == ["link", "null"]
    assert leftovers() == []


def test_a_full_device_is_one_line():
    with pytest.raises(InputError) as caught:
        write("/dev/full")
    assert str(caught.value) == f"/dev/full: cannot be written ({NO_SPACE})"
    assert leftovers() == []


def test_a_reader_of_a_fifo_gets_it_whole_or_nothing(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    got = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_text()))
    reader.start()
    fail_halfway(fifo)
    write(fifo, "whole")
    reader.join(10)
    assert got == ["whole"]
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_what_is_open_goes_on_where_it_stood(tmp_path):
    with (tmp_path / "log").open("wb", buffering=0) as log:
        log.write(b"before ")
        write(f"/proc/self/fd/{log.fileno()}", "json ")
        write(f"/dev/fd/{log.fileno()}", "again ")
        log.write(b"after")
    assert (tmp_path / "log").read_text() == "before json again after"
    read, written = os.pipe()
    write(f"/dev/fd/{written}")
    assert os.read(read, 10) == b"new"
    os.close(read), os.close(written)
    with pytest.raises(InputError, match="cannot be written"):
        check_file(f"/dev/fd/{written}")


def test_a_socket_is_refused(tmp_path):
    import socket

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        for attempt in (write, check_file):
            with pytest.raises(InputError, match="s: is a socket"):
                attempt(tmp_path / "s")


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_a_file_keeps_its_mode_and_a_new_one_gets_the_usual(tmp_path, mode):
    (tmp_path / "old").write_text("old")
    (tmp_path / "old").chmod(mode)
    write(tmp_path / "old")
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == mode
    write(tmp_path / "new")
    (tmp_path / "usual").write_text("")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_directory_gets_the_usual_mode(tmp_path):
    (tmp_path / "usual").mkdir()
    with temporary_directory(tmp_path) as made:
        assert made.stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_a_file_that_is_protected_stays_as_it_is():
    """The directory may be written by anyone, so the file could be replaced; to root no file is protected."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        file = Path(folder, "file")
        file.write_text("old")
        file.chmod(0o444)
        child = os.fork()
        if child == 0:
            os.setuid(65534)
            message = ""
            with suppress(BaseException):
                try:
                    write(file)
                except InputError as error:
                    message = str(error)
            os._exit(0 if message == f"{file}: cannot be written (Permission denied)" else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert file.read_text() == "old"


def test_a_file_that_is_mounted_by_itself_is_written_through(tmp_path):
    """As a container has it, given one file of its host."""
    for name in ("host", "inside"):
        (tmp_path / name).write_text("old and long")
    command = ["mount", "--bind", tmp_path / "host", tmp_path / "inside"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        write(tmp_path / "inside")
        assert (tmp_path / "host").read_text() == "new"
    finally:
        subprocess.run(["umount", tmp_path / "inside"], check=True)
    assert names(tmp_path) == ["host", "inside"]


def test_a_reader_may_leave():
    read, written = os.pipe()
    os.close(read)
    write(f"/dev/fd/{written}", "x" * 100_000)
    os.close(written)


def test_the_longest_name_works_and_a_longer_one_is_found_before(tmp_path):
    write(tmp_path / ("x" * 251 + ".csv"))
    with replacing(tmp_path / "a.csv.gz") as temporary:
        assert temporary.name.endswith("a.csv.gz")
    for name in ("x" * 256, "new/" + "x" * 256, "x" * 256 + "/new"):
        for attempt in (write, check_file, check_directory):
            with pytest.raises(InputError, match=r"cannot be written \(File name too long\)"):
                attempt(tmp_path / name)
    assert len(names(tmp_path)) == 2


def test_everything_reaches_the_disk_before_it_is_seen_and_the_name_after(tmp_path, monkeypatch):
    """Each call is made as it is, and written down with the files that it is about."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(handle):
        calls.append(("fsync", os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def record_replace(source, target, **more):
        calls.append(("replace", str(source), str(target)))
        replace(source, target, **more)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    with replacing(tmp_path / "new" / "file") as temporary:
        temporary.write_text("x")
    folder = tmp_path / "new"
    assert calls == [
        ("fsync", str(temporary)),
        ("replace", str(temporary), str(folder / "file")),
        ("fsync", str(folder)),
        ("fsync", str(tmp_path)),
    ]
    calls.clear()
    (folder / "inner").mkdir()
    (folder / "inner" / "deep").write_text("x")
    sync_tree(folder)
    assert {path for _, path in calls} == {
        str(folder), str(folder / "file"), str(folder / "inner"), str(folder / "inner" / "deep")
    }  # fmt: skip


def parquet(path):
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"a": np.random.default_rng(0).random(100_000)}), path)


def gzip(path):
    import gzip

    with gzip.open(path, "wb") as file:
        file.write(os.urandom(500_000))


def picture(path):
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 8))
    figure.add_subplot().imshow(np.random.default_rng(0).random((900, 900)))
    figure.savefig(path, dpi=200, format="png")


def archive(path):
    import numpy as np

    with path.open("wb") as file:
        np.savez(file, a=np.zeros(100_000))


@pytest.mark.parametrize("writer", [parquet, gzip, picture, archive])
def test_a_full_disk_is_one_line_and_leaves_what_was_there(full_disk, writer):
    (full_disk / "file").write_text("old")
    with pytest.raises(InputError) as caught, replacing(full_disk / "file") as temporary:
        writer(temporary)
    assert str(caught.value) == f"{full_disk / 'file'}: cannot be written ({NO_SPACE})"
    with pytest.raises(InputError, match="No space left"), temporary_directory(full_disk / "a" / "b") as made:
        writer(made / "file")
    assert names(full_disk) == ["file"]
    assert (full_disk / "file").read_text() == "old"
    (full_disk / "rest").write_bytes(bytes(200 * 1024 - 4096))
    for attempt in (check_file, check_directory):
        with pytest.raises(InputError, match="No space left"):
            attempt(full_disk / "more" / "x")
    subprocess.run(["mount", "-o", "remount,ro", full_disk], check=True)
    for attempt in (check_file, check_directory, write):
        with pytest.raises(InputError, match=r"x: cannot be written \(Read-only file system\)"):
            attempt(full_disk / "more" / "x")


def test_a_limit_on_the_size_of_files(tmp_path):
    code = "import sys; from moa_tf.atomic import replacing\n"
    code += "with replacing(sys.argv[1]) as file: file.write_bytes(bytes(9999))"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "new" / "file"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert done.stderr.splitlines()[-1].endswith("new/file: cannot be written (File too large)")
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS])
def test_a_disks_answer_is_known_by_number_or_by_text(number):
    reason = os.strerror(number)
    for error in (OSError(number, reason), RuntimeError(f"a/b; {reason}")):
        with pytest.raises(InputError) as caught, writing("x"):
            raise error
        assert str(caught.value) == f"x: cannot be written ({reason})"


def test_a_disks_answer_is_known_behind_the_error_that_it_led_to():
    def fail():
        try:
            raise OSError(errno.ENOSPC, NO_SPACE)
        finally:
            raise ValueError("write to closed file")

    with pytest.raises(InputError, match="No space"), writing("x"):
        fail()


def test_other_errors_in_a_block_are_the_programs():
    for error in (KeyError("x"), FileNotFoundError(errno.ENOENT, "x"), InputError("as it is")):
        with pytest.raises(type(error)) as caught, writing("path"):
            raise error
        assert caught.value is error


def test_checks_leave_nothing_and_find_what_is_in_the_way(tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to("nowhere")
    check_file(tmp_path / "file")
    check_file(tmp_path / "link")
    check_file(os.devnull)
    check_file(tmp_path / "a" / "b" / "c.csv")
    check_directory(tmp_path)
    check_directory(tmp_path / "a" / "b")
    for attempt, path, words in (
        (check_file, tmp_path, "is a directory"),
        (check_file, tmp_path / "file" / "x", "Not a directory"),
        (check_directory, tmp_path / "link" / "x", "link is no directory"),
        (check_directory, tmp_path / "file", "is no directory"),
        (check_directory, tmp_path / "link", "is no directory"),
        (check_directory, tmp_path / "file" / "x" / "y", "file is no directory"),
        (check_file, "/proc/x", "cannot be written"),
        (check_directory, "/proc/x", "cannot be written"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            attempt(path)
        assert str(caught.value).startswith(f"{path}: ")
    assert names(tmp_path) == ["file", "link"]
    assert (tmp_path / "file").read_text() == "kept"
