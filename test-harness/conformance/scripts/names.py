"""What programs have of names that go: a line for each act. Run where two paths lead to one directory, and on a local file
system where both are one path: the lines must be the same."""

import errno
import os
import random
import signal
import stat
import sys
import time


def attempt(what, act):
    try:
        answer = act()
    except OSError as error:
        answer = errno.errorcode.get(error.errno, error.errno)
    print(what, answer, flush=True)


def shown(status):
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    return (oct(status.st_mode), status.st_nlink, size)


def proc(descriptor):
    return f"/proc/self/fd/{descriptor}"


def gone_directory(case, here, there, settle, over):
    """A directory that is open and current somewhere is removed, or replaced."""
    os.mkdir(f"{here}/d")
    fd = os.open(f"{here}/d", os.O_RDONLY | os.O_DIRECTORY)
    os.chdir(f"{here}/d")
    if over:
        os.mkdir(f"{there}/e")
        os.rename(f"{there}/e", f"{there}/d")
    else:
        os.rmdir(f"{there}/d")
    settle()
    attempt(f"{case} fstat", lambda: shown(os.fstat(fd)))
    attempt(f"{case} stat .", lambda: shown(os.stat(".")))
    attempt(f"{case} stat ..", lambda: shown(os.stat(".."))[0])
    attempt(f"{case} fchmod", lambda: os.fchmod(fd, 0o711))
    attempt(f"{case} fchown", lambda: os.fchown(fd, 1, 1))
    attempt(f"{case} fstat again", lambda: shown(os.fstat(fd)))
    attempt(f"{case} utimes", lambda: os.utime(fd, (1, 1)))
    attempt(f"{case} list", lambda: os.listdir(fd))
    attempt(f"{case} list .", lambda: os.listdir("."))
    attempt(f"{case} open .", lambda: os.close(os.open(".", os.O_RDONLY)))
    attempt(f"{case} create", lambda: os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    attempt(f"{case} mkdir", lambda: os.mkdir("x", dir_fd=fd))
    attempt(f"{case} symlink", lambda: os.symlink("y", "x", dir_fd=fd))
    attempt(f"{case} mkfifo", lambda: os.mkfifo("x", dir_fd=fd))
    attempt(f"{case} look up", lambda: os.stat("x", dir_fd=fd))
    attempt(f"{case} tmpfile", lambda: os.close(os.open(".", os.O_TMPFILE | os.O_WRONLY)))
    attempt(f"{case} setxattr", lambda: os.setxattr(fd, "user.a", b"b"))
    attempt(f"{case} getxattr", lambda: os.getxattr(fd, "user.a"))
    attempt(f"{case} fsync", lambda: os.fsync(fd))
    attempt(f"{case} rmdir .", lambda: os.rmdir("."))
    if here == there:
        attempt(f"{case} getcwd", os.getcwd)
    os.chdir("/")


def gone_other(case, here, there, settle, over):
    """What is open without the server's knowledge, or held by name alone, is removed or replaced."""
    os.mkfifo(f"{here}/fifo", 0o644)
    os.mknod(f"{here}/null", stat.S_IFCHR | 0o644, os.makedev(1, 3))
    os.symlink("nowhere", f"{here}/link")
    with open(f"{here}/held", "w") as file:
        file.write("content")
    fds = {
        "fifo": os.open(f"{here}/fifo", os.O_RDWR | os.O_NONBLOCK),
        "null": os.open(f"{here}/null", os.O_RDWR),
        "link": os.open(f"{here}/link", os.O_PATH | os.O_NOFOLLOW),
        "held": os.open(f"{here}/held", os.O_PATH),
    }
    for name in fds:
        if over:
            with open(f"{there}/new", "w"):
                os.rename(f"{there}/new", f"{there}/{name}")
        else:
            os.unlink(f"{there}/{name}")
    settle()
    for name, fd in fds.items():
        attempt(f"{case} {name} fstat", lambda: shown(os.fstat(fd)))
        if name in ("fifo", "null"):
            attempt(f"{case} {name} fchmod", lambda: os.fchmod(fd, 0o600))
            attempt(f"{case} {name} fchown", lambda: os.fchown(fd, 1, 1))
            attempt(f"{case} {name} write", lambda: os.write(fd, b"1"))
            attempt(f"{case} {name} fstat again", lambda: shown(os.fstat(fd)))
    attempt(f"{case} link read", lambda: os.readlink("", dir_fd=fds["link"]))

    def reopened():
        again = os.open(proc(fds["held"]), os.O_RDWR)
        try:
            data = os.read(again, 100)
            os.pwrite(again, b"C", 0)
            return data, os.pread(again, 100, 0)
        finally:
            os.close(again)

    attempt(f"{case} held opened again", reopened)
    attempt(f"{case} held chmod", lambda: os.chmod(proc(fds["held"]), 0o600))
    attempt(f"{case} held truncate", lambda: os.truncate(proc(fds["held"]), 3))
    attempt(f"{case} held setxattr", lambda: os.setxattr(proc(fds["held"]), "user.a", b"b"))
    # A program that opened and closed it leaves it to who holds it.
    settle()
    attempt(f"{case} held fstat again", lambda: shown(os.fstat(fds["held"])))


def gone(here, there):
    """Every case in a process and a directory of its own, all at once; long after, and at once after the name went."""
    cases = []
    for wait in (0, 3):
        for make in (gone_directory, gone_other):
            for over in (False, True):
                for side in (here, there):
                    cases.append((wait, make, over, side == here, side))
    readers = []
    for number, (wait, make, over, same, side) in enumerate(cases):
        os.makedirs(f"{here}/{number}", exist_ok=True)
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.close(reader)
            os.dup2(writer, 1)
            what = f"{make.__name__} {'replaced' if over else 'removed'}"
            case = f"{what} {'here' if number % 2 == 0 else 'there'} {wait}s"
            make(case, f"{here}/{number}", f"{side}/{number}", lambda: time.sleep(wait), over)
            sys.stdout.flush()
            os._exit(0)
        os.close(writer)
        readers.append(reader)
    for reader in readers:
        with os.fdopen(reader) as lines:
            sys.stdout.write(lines.read())
        os.wait()


def replaced(here, there, seconds):
    """A name that is replaced all the time is always there: whatever is done by it succeeds."""
    end = time.monotonic() + seconds
    target = f"{here}/name"
    with open(target, "w") as file:
        file.write("content")

    def write_over(place, mark):
        with open(f"{place}/new{mark}", "w") as file:
            file.write("content")
        os.rename(f"{place}/new{mark}", f"{place}/name")

    def read():
        with open(target) as file:
            file.read()

    acts = {
        "read": read,
        "setxattr": lambda: os.setxattr(target, "user.a", b"b"),
        "truncate": lambda: os.truncate(target, 3),
        "chmod": lambda: os.chmod(target, 0o600),
        "replace here": lambda: write_over(here, "a"),
        "replace there": lambda: write_over(there, "b"),
    }
    readers = {}
    for what, act in acts.items():
        reader, writer = os.pipe()
        if os.fork() == 0:
            failures, times = {}, 0
            while time.monotonic() < end:
                times += 1
                try:
                    act()
                except OSError as error:
                    name = errno.errorcode.get(error.errno, error.errno)
                    failures[name] = failures.get(name, 0) + 1
            os.write(writer, f"{what}: {failures} of {times}".encode())
            os._exit(1 if failures else 0)
        os.close(writer)
        readers[what] = reader
    failed = False
    for what, reader in readers.items():
        with os.fdopen(reader) as lines:
            print(lines.read())
        failed = os.wait()[1] != 0 or failed
    return failed


USERS = [0, 65534, 1000]


def flicker(place, uid, end):
    """Makes or opens a name, private or not, and removes it, as that user. Returns what failed that must not."""
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    os.umask(0)
    chance = random.Random(uid)
    failures, times, denied = {}, 0, 0

    def note(what):
        failures[what] = failures.get(what, 0) + 1

    while time.monotonic() < end:
        times += 1
        private = chance.random() < 0.5
        try:
            how = os.O_RDWR | os.O_CREAT | chance.choice([0, os.O_TRUNC])
            file = os.open(f"{place}/name", how, 0o600 if private else 0o666)
            status = os.fstat(file)
            if status.st_uid != uid and uid != 0 and not status.st_mode & 0o006:
                note("opened what is private")
            os.close(file)
        except PermissionError:
            denied += 1
            if uid == 0:
                note("root was denied")
        except OSError as error:
            note(f"open {errno.errorcode.get(error.errno, error.errno)}")
        try:
            if chance.random() < 0.7:
                os.unlink(f"{place}/name")
        except OSError as error:
            if error.errno != errno.ENOENT:
                note(f"unlink {errno.errorcode.get(error.errno, error.errno)}")
    return failures, times, denied


def shared(here, there, seconds):
    """A name that several users make, open and remove all the time: it is opened, or denied to whom it is private."""
    end = time.monotonic() + seconds
    children = [(place, uid) for place in (here, there) for uid in USERS]
    readers = []
    for place, uid in children:
        reader, writer = os.pipe()
        if os.fork() == 0:
            failures, times, denied = flicker(place, uid, end)
            os.write(writer, f"{uid}: {failures or 'all right'}, {denied} of {times} denied".encode())
            os._exit(1 if failures else 0)
        os.close(writer)
        readers.append(reader)
    failed = False
    said = []
    for reader in readers:
        with os.fdopen(reader) as lines:
            said.append(lines.read())
        failed = os.wait()[1] != 0 or failed
    print("; ".join(said))
    return failed


def make_names(place, writer, parent):
    number = 0
    while os.getppid() == parent:
        number += 1
        name = f"{place}/{writer}-{number}"
        with open(name, "wb", buffering=0) as made:
            made.write(b"x" * 100)
        if number % 3 == 0:
            os.rename(name, f"{name}-moved")
        if number % 5 == 0:
            os.mkdir(f"{name}-directory")


def remove(path):
    try:
        os.unlink(path)
    except IsADirectoryError:
        os.rmdir(path)


def killed(here, _, rounds):
    """Programs are killed in the middle of making names: when they have ended, a directory holds what it will hold."""
    chance = random.Random(7)
    parent = os.getpid()
    removed = 0
    late = []
    for number in range(int(rounds)):
        place = f"{here}/{number}"
        os.mkdir(place)
        writers = []
        for writer in range(4):
            writers.append(os.fork())
            if writers[-1] == 0:
                try:
                    make_names(place, writer, parent)
                finally:
                    os._exit(1)
        time.sleep(0.02 + chance.random() * 0.05)
        for writer in writers:
            os.kill(writer, signal.SIGKILL)
        for writer in writers:
            os.waitpid(writer, 0)
        try:
            for name in os.listdir(place):
                remove(f"{place}/{name}")
                removed += 1
            os.rmdir(place)
        except OSError as error:
            late.append(f"round {number}: {error}")
    print(f"{removed} names removed; of {int(rounds)} rounds late: {late or 'none'}")
    return bool(late)


if __name__ == "__main__":
    if sys.argv[1] == "gone":
        gone(sys.argv[2], sys.argv[3])
    else:
        act = {"replaced": replaced, "shared": shared, "killed": killed}[sys.argv[1]]
        sys.exit(act(sys.argv[2], sys.argv[3], float(sys.argv[4])))
