"""What a program sees the moment a call returns, in DIR (and in THERE, the same directory at another mount).

    moments.py closed|exited|timer|signalled|direct DIR [ROUNDS]
    moments.py appended DIR THERE
    moments.py grown DIR THERE ROUNDS

Ends with an error that says what was wrong."""
import collections
import ctypes
import fcntl
import mmap
import os
import platform
import random
import signal
import struct
import sys
import threading
import time

LIBRARY = ctypes.CDLL(None, use_errno=True)
FAMILIES = ("flock", "open file", "process")


def record(kind, start=0, length=0):
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)


def take(descriptor, family):
    """Whether the whole file could be locked at once."""
    try:
        if family == "flock":
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif family == "open file":
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, record(fcntl.F_WRLCK))
        else:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def open_file(directory):
    return os.open(f"{directory}/locked", os.O_RDWR | os.O_CREAT, 0o644)


def closed(directory, rounds):
    """A lock ends when close returns."""
    for family in FAMILIES:
        held = 0
        for _ in range(rounds):
            first, second = open_file(directory), open_file(directory)
            if not take(first, family):
                sys.exit(f"{family}: a lock nobody holds was refused")
            os.close(first)
            held += not take(second, family)
            os.close(second)
        if held:
            sys.exit(f"{family}: still held after close in {held} of {rounds} rounds")


def exited(directory, rounds):
    """A lock ends when the last process that has the file open is gone."""
    for family in FAMILIES:
        held = 0
        for _ in range(rounds):
            child = os.fork()
            if child == 0:
                descriptor = open_file(directory)
                os._exit(0 if take(descriptor, family) else 1)
            if os.waitpid(child, 0)[1]:
                sys.exit(f"{family}: a lock nobody holds was refused")
            descriptor = open_file(directory)
            held += not take(descriptor, family)
            os.close(descriptor)
        if held:
            sys.exit(f"{family}: still held after exit in {held} of {rounds} rounds")


def timer(directory, rounds):
    """A timer whose signal has a handler ends no call of these, restarted or not."""
    interrupted, ticks = collections.Counter(), 0

    def tick(*_):
        nonlocal ticks
        ticks += 1

    def call(name, function, *arguments):
        try:
            return function(*arguments)
        except InterruptedError:
            interrupted[name] += 1
        except FileNotFoundError:
            pass

    signal.signal(signal.SIGALRM, tick)
    for restart in (False, True):
        signal.siginterrupt(signal.SIGALRM, not restart)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        for number in range(rounds):
            name = f"{directory}/timer-{restart}-{number}"
            call("stat", os.stat, name)
            # Without Python's own repeating of `open`.
            call("mknod", os.mknod, name)
            call("link", os.link, name, name + "l")
            call("symlink", os.symlink, "target", name + "s")
            call("rename", os.rename, name, name + "r")
            call("truncate", os.truncate, name + "r", 5000)
            call("mkdir", os.mkdir, name + "d")
            call("chmod", os.chmod, name + "r", 0o600)
            call("rmdir", os.rmdir, name + "d")
            for end in "rls":
                call("unlink", os.unlink, name + end)
        signal.setitimer(signal.ITIMER_REAL, 0)
    if interrupted:
        sys.exit(f"interrupted by a timer: {dict(interrupted)} of {2 * rounds} rounds")
    print(f"{ticks} signals")


def wait_for_record(descriptor):
    """Whether the lock was got before a signal came. Not Python's own call, which would go on waiting."""
    wanted = ctypes.create_string_buffer(record(fcntl.F_WRLCK, 0, 10))
    return LIBRARY.fcntl(descriptor, fcntl.F_SETLKW, wanted) == 0


def hold_now_and_then(descriptor, asked, answer):
    """Holds the lock for the time asked for; then, if the other side has none, says whether it is free."""
    while True:
        fcntl.fcntl(descriptor, fcntl.F_SETLKW, record(fcntl.F_WRLCK, 0, 10))
        os.write(answer, b"h")
        time.sleep(os.read(asked, 1)[0] / 20_000)
        fcntl.fcntl(descriptor, fcntl.F_SETLK, record(fcntl.F_UNLCK, 0, 10))
        leaked = False
        if os.read(asked, 1) == b"n":
            try:
                fcntl.fcntl(descriptor, fcntl.F_SETLK, record(fcntl.F_WRLCK, 0, 10))
                fcntl.fcntl(descriptor, fcntl.F_SETLK, record(fcntl.F_UNLCK, 0, 10))
            except (BlockingIOError, PermissionError):
                leaked = True
        os.write(answer, b"L" if leaked else b"-")
        os.read(asked, 1)


def signalled(directory, rounds):
    """A wait for a lock that a signal ended leaves no lock behind."""
    signal.signal(signal.SIGALRM, lambda *_: None)
    ask, answer = os.pipe(), os.pipe()
    holder = os.fork()
    if holder == 0:
        hold_now_and_then(open_file(directory), ask[0], answer[1])
    descriptor, leaks, ended = open_file(directory), 0, 0
    # One that it knows of, so that closing is not what ends the other.
    fcntl.fcntl(descriptor, fcntl.F_SETLK, record(fcntl.F_WRLCK, 20, 10))
    for number in range(rounds):
        os.read(answer[0], 1)
        os.write(ask[1], bytes([number % 60]))
        signal.setitimer(signal.ITIMER_REAL, 0.0015)
        got = wait_for_record(descriptor)
        signal.setitimer(signal.ITIMER_REAL, 0)
        ended += not got
        if got:
            fcntl.fcntl(descriptor, fcntl.F_SETLK, record(fcntl.F_UNLCK, 0, 10))
        os.write(ask[1], b"y" if got else b"n")
        leaks += os.read(answer[0], 1) == b"L"
        fcntl.fcntl(descriptor, fcntl.F_SETLK, record(fcntl.F_UNLCK, 0, 10))
        os.write(ask[1], b"g")
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    if leaks:
        sys.exit(f"{leaks} of {ended} waits that were ended left a lock")
    print(f"{ended} of {rounds} waits ended by a signal")


class Control(ctypes.Structure):
    """`struct iocb`."""

    _fields_ = [
        ("data", ctypes.c_uint64), ("key", ctypes.c_uint32), ("rw_flags", ctypes.c_uint32),
        ("opcode", ctypes.c_uint16), ("priority", ctypes.c_int16), ("descriptor", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64), ("bytes", ctypes.c_uint64), ("offset", ctypes.c_int64),
        ("spare", ctypes.c_uint64), ("flags", ctypes.c_uint32), ("event", ctypes.c_uint32),
    ]


SYSTEM_CALLS = {"x86_64": (206, 209, 208), "aarch64": (0, 2, 4)}
PIECES, PIECE_BYTES, WRITE = 16, 4096, 1


def direct(directory, rounds):
    """After an asynchronous direct write a buffered read beside others tells what was written."""
    setup, submit, events = SYSTEM_CALLS[platform.machine()]
    path, size = f"{directory}/direct", PIECES * PIECE_BYTES
    written = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o644)
    memory = mmap.mmap(-1, size)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    os.ftruncate(written, size)
    ended = threading.Event()

    def read():
        descriptor = os.open(path, os.O_RDONLY)
        while not ended.is_set():
            os.pread(descriptor, size, 0)
        os.close(descriptor)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    context = ctypes.c_ulong(0)
    LIBRARY.syscall(setup, PIECES, ctypes.byref(context))
    descriptor, stale = os.open(path, os.O_RDONLY), 0
    done = (ctypes.c_uint64 * (4 * PIECES))()
    for number in range(rounds):
        memory[:] = bytes([number % 256]) * size
        controls = [
            Control(opcode=WRITE, descriptor=written, buffer=address + at, bytes=PIECE_BYTES, offset=at)
            for at in range(0, size, PIECE_BYTES)
        ]
        pointers = (ctypes.POINTER(Control) * PIECES)(*map(ctypes.pointer, controls))
        if LIBRARY.syscall(submit, context, PIECES, pointers) != PIECES:
            sys.exit(f"io_submit: {os.strerror(ctypes.get_errno())}")
        LIBRARY.syscall(events, context, PIECES, PIECES, done, None)
        stale += os.pread(descriptor, size, 0) != memory[:]
    ended.set()
    for reader in readers:
        reader.join()
    if stale:
        sys.exit(f"old content after the write in {stale} of {rounds} rounds")


def mapped(descriptor, size):
    """Content through a mapping, without the question for the size that Python's own makes."""
    LIBRARY.mmap.restype = ctypes.c_void_p
    LIBRARY.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + [ctypes.c_long]
    address = LIBRARY.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    return ctypes.string_at(address, size)


def appended(here, there):
    """An open file that becomes one for appending puts nothing where another mount has written."""
    descriptor = os.open(f"{here}/appended", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    other = os.open(f"{there}/appended", os.O_WRONLY | os.O_APPEND)
    os.write(other, b"1" * 4096)
    os.close(other)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)
    os.write(descriptor, b"2" * 4096)
    # A mapping asks nobody: it is right in a moment.
    time.sleep(0.5)
    found = mapped(descriptor, 4096)
    if found != b"1" * 4096:
        sys.exit(f"the mapping begins with {found[:4]}")
    content = os.pread(descriptor, 10_000, 0)
    if content != b"1" * 4096 + b"2" * 4096:
        sys.exit(f"{len(content)} bytes: {content[:4]}, {content[4096:4100]}")


def grown(here, there, rounds):
    """What another mount has written is read there, through a descriptor older than the writer's."""
    path = f"{here}/grown"
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644))
    numbers = (ctypes.c_int64 * 2).from_buffer(mmap.mmap(-1, 16))
    size, ready = 0, 1
    reader = os.fork()
    if reader == 0:
        descriptor, short, reads, at = os.open(f"{there}/grown", os.O_RDONLY), 0, 0, 0
        numbers[ready] = 1
        while numbers[ready] == 1:
            written = numbers[size]
            if written > at:
                at += len(os.pread(descriptor, 1 << 20, at))
                short += at < written
                reads += 1
        print(f"{reads} reads of a file that grew {rounds} times", flush=True)
        if short:
            print(f"{short} of {reads} reads ended before what was written", file=sys.stderr, flush=True)
        os._exit(1 if short else 0)
    while not numbers[ready]:
        time.sleep(0.001)
    descriptor = os.open(path, os.O_WRONLY)
    for _ in range(rounds):
        numbers[size] += os.pwrite(descriptor, b"x" * random.randint(1, 250), numbers[size])
        time.sleep(random.random() / 2000)
    numbers[ready] = 2
    if os.waitpid(reader, 0)[1]:
        sys.exit("a read met an end that was moved on")


def main():
    check = sys.argv[1]
    if check == "grown":
        grown(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    elif check == "appended":
        appended(sys.argv[2], sys.argv[3])
    else:
        checks = {each.__name__: each for each in (closed, exited, timer, signalled, direct)}
        checks[check](sys.argv[2], int(sys.argv[3]))


main()
