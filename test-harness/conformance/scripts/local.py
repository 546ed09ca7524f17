"""local.py DIRECTORY: says what a file system does with times, set-ID bits and names of attributes, a line for each case.

`local.expected` is what it says of ext4 (Linux 6.18). Three things are left out that a FUSE file system is not asked about: reads
of an empty file, reads behind the end, and chown(-1, -1). Run as root; the directory must be open to other users.
"""
import ctypes
import fcntl
import os
import shutil
import stat
import struct
import sys
import time

ROOT = sys.argv[1]
GET_FLAGS, SET_FLAGS, GET_XFLAGS, SET_XFLAGS = 0x80086601, 0x40086602, 0x801C581F, 0x401C5820
NOATIME = 0x80
NOBODY, GROUP = 65534, 4242
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
ENTRIES = ((1, 7, 0xFFFFFFFF), (2, 7, 9), (4, 7, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 5, 0xFFFFFFFF))
ACL = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in ENTRIES)
LIBC = ctypes.CDLL(None, use_errno=True)
TICK = 0.02


def at(name):
    return os.path.join(ROOT, name)


def fallocate(fd, mode, offset, length):
    if LIBC.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        raise OSError(ctypes.get_errno(), "fallocate")


def put(path, data):
    with open(path, "wb") as file:
        file.write(data)


def opened(path, flags, act, mode=0o666):
    fd = os.open(path, flags, mode)
    try:
        return act(fd)
    finally:
        os.close(fd)


def remove(path):
    shutil.rmtree(path, ignore_errors=True)
    if os.path.lexists(path):
        os.unlink(path)


def outcome(act):
    try:
        act()
        return "ok"
    except OSError as error:
        return "E%d" % error.errno


def as_user(uid, gid, groups, act):
    """What came of `act` in a process of that user."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        os.write(write, outcome(act).encode())
        os._exit(0)
    os.close(write)
    said = os.read(read, 100).decode()
    os.waitpid(child, 0)
    os.close(read)
    return said


# Times: which of atime, mtime and ctime went on (+), stayed (=) or went back (-).


def times(path):
    found = os.lstat(path)
    return found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns


def went(before, after):
    signs = ["=" if x == y else "+" if y > x else "-" for x, y in zip(before, after)]
    return " ".join(name + sign for name, sign in zip("amc", signs))


def trial(name, prepare, act):
    path = at("file")
    for old in (path, path + "2"):
        remove(old)
    prepare(path)
    time.sleep(TICK)
    before = times(path)
    time.sleep(TICK)
    said = outcome(lambda: act(path))
    found = path if os.path.lexists(path) else path + "2"
    print("times", name, said, went(before, times(found)))


def appended(path):
    put(path, b"x")
    time.sleep(TICK)
    opened(path, os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, b"more"))


def with_attribute(path):
    appended(path)
    os.setxattr(path, "user.a", b"1")


def drop_pages(path):
    def drop(fd):
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    opened(path, os.O_RDONLY, drop)


def unread(path):
    appended(path)
    drop_pages(path)


def read(path, flags=0):
    opened(path, os.O_RDONLY | flags, lambda fd: os.read(fd, 100))


def read_before(path):
    unread(path)
    time.sleep(TICK)
    read(path)
    drop_pages(path)


def change_flags(path, flags):
    opened(path, os.O_RDONLY, lambda fd: fcntl.ioctl(fd, SET_FLAGS, struct.pack("l", flags)))


def flags_of(path):
    empty = struct.pack("l", 0)
    return struct.unpack("l", opened(path, os.O_RDONLY, lambda fd: fcntl.ioctl(fd, GET_FLAGS, empty)))[0]


def change_xflags(path):
    def change(fd):
        attributes = bytearray(fcntl.ioctl(fd, GET_XFLAGS, bytes(28)))
        (flags,) = struct.unpack_from("I", attributes)
        struct.pack_into("I", attributes, 0, flags ^ 0x40)
        fcntl.ioctl(fd, SET_XFLAGS, bytes(attributes))

    opened(path, os.O_RDONLY, change)


def set_to(seconds):
    def prepare(path):
        put(path, b"x")
        os.utime(path, (seconds, seconds))

    return prepare


def copy_into(path):
    put(at("source"), b"z" * 100)
    source = os.open(at("source"), os.O_RDONLY)
    opened(path, os.O_RDWR, lambda fd: os.copy_file_range(source, fd, 100))
    os.close(source)


def check_times():
    for name, act in {
        "chmod": lambda path: os.chmod(path, 0o600),
        "chmod to the same": lambda path: os.chmod(path, 0o644),
        "chown": lambda path: os.chown(path, 1, 1),
        "link": lambda path: os.link(path, path + "2"),
        "rename": lambda path: os.rename(path, path + "2"),
        "setxattr": lambda path: os.setxattr(path, "user.a", b"1"),
        "chattr +A": lambda path: change_flags(path, flags_of(path) | NOATIME),
        "chattr to the same": lambda path: change_flags(path, flags_of(path)),
        "fsxattr": change_xflags,
        "truncate to the same": lambda path: os.truncate(path, 5),
        "truncate down": lambda path: os.truncate(path, 1),
        "truncate up": lambda path: os.truncate(path, 100),
        "O_TRUNC": lambda path: opened(path, os.O_WRONLY | os.O_TRUNC, lambda fd: None),
        "O_CREAT|O_TRUNC": lambda path: opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, lambda fd: None),
        "touch": os.utime,
        "touch -d": lambda path: os.utime(path, (7, 8)),
        "write of nothing": lambda path: opened(path, os.O_WRONLY, lambda fd: os.write(fd, b"")),
        "copy_file_range": copy_into,
    }.items():
        trial("appended, " + name, appended, act)
    trial("appended, removexattr", with_attribute, lambda path: os.removexattr(path, "user.a"))
    for mode in (0, 1, 3, 16, 17):
        for offset in (0, 8192):
            act = lambda path: opened(path, os.O_RDWR, lambda fd: fallocate(fd, mode, offset, 4096))
            trial("appended, fallocate %d at %d" % (mode, offset), appended, act)
    write = lambda path: opened(path, os.O_WRONLY, lambda fd: os.pwrite(fd, b"abc", 0))
    for name, seconds in (("past", 1000), ("future", 4_000_000_000)):
        trial("set to the %s, chmod" % name, set_to(seconds), lambda path: os.chmod(path, 0o600))
        trial("set to the %s, write" % name, set_to(seconds), write)
    trial("unread, read", unread, read)
    trial("unread, read with O_NOATIME", unread, lambda path: read(path, os.O_NOATIME))
    trial("read before, read", read_before, read)
    noatime = lambda path: (unread(path), change_flags(path, flags_of(path) | NOATIME))
    trial("chattr +A, read", noatime, read)
    trial("directory, list", os.mkdir, os.listdir)
    trial("link, readlink", lambda path: os.symlink("x", path), os.readlink)


def check_names():
    path = at("named")
    put(path, b"")
    for name in ("user.a/b", "user..", "user./", "user.", "trusted.a/b", "foo.a"):
        said = outcome(lambda: os.setxattr(path, name, b"1"))
        print("names", name, said, outcome(lambda: os.getxattr(path, name)))
    names = sorted(name for name in os.listxattr(path) if not name.startswith("security."))
    print("names", names, outcome(lambda: os.removexattr(path, "user.a/b")))


# Set-ID bits and capabilities: the mode after each change, by mode before.


def after(act, mode, owner, who, capability=False):
    path = at("program")
    remove(path)
    put(at("source"), b"z" * 5000)
    put(path, b"1" * 10000)
    os.chown(path, *owner)
    os.chmod(path, mode)
    if capability:
        os.setxattr(path, "security.capability", CAPABILITY)
    fd, source = os.open(path, os.O_RDWR), os.open(at("source"), os.O_RDONLY)
    said = as_user(*who, lambda: act(path, fd, source))
    os.close(fd)
    os.close(source)
    kept = "+cap" if "security.capability" in os.listxattr(path) else ""
    return "%s:%o>%o%s" % (said, mode, os.stat(path).st_mode & 0o7777, kept)


NOBODYS, ROOTS, MEMBER = (NOBODY, NOBODY, []), (0, 0, []), (NOBODY, NOBODY, [GROUP])
CONTENT = {
    "write": lambda path, fd, source: os.pwrite(fd, b"a", 0),
    "write of nothing": lambda path, fd, source: os.pwrite(fd, b"", 0),
    "append": lambda path, fd, source: opened(path, os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, b"a")),
    "ftruncate": lambda path, fd, source: os.ftruncate(fd, 5),
    "ftruncate to the same": lambda path, fd, source: os.ftruncate(fd, 10000),
    "truncate": lambda path, fd, source: os.truncate(path, 5),
    "O_TRUNC": lambda path, fd, source: opened(path, os.O_WRONLY | os.O_TRUNC, lambda fd: None),
    "O_CREAT|O_TRUNC": lambda path, fd, source: opened(path, os.O_WRONLY | os.O_TRUNC | os.O_CREAT, lambda fd: None),
    "allocate": lambda path, fd, source: fallocate(fd, 0, 0, 20000),
    "allocate behind": lambda path, fd, source: fallocate(fd, 1, 0, 20000),
    "punch": lambda path, fd, source: fallocate(fd, 3, 0, 4096),
    "zero": lambda path, fd, source: fallocate(fd, 16, 0, 4096),
    "copy_file_range": lambda path, fd, source: os.copy_file_range(source, fd, 100),
    "sendfile": lambda path, fd, source: os.sendfile(fd, source, 0, 100),
    "touch": lambda path, fd, source: os.utime(path),
}
OWNER = {
    "chown by root": (lambda path, fd, source: os.chown(path, 7, 7), ROOTS),
    "chown to the same by root": (lambda path, fd, source: os.chown(path, 5, 5), ROOTS),
    "chgrp": (lambda path, fd, source: os.chown(path, -1, GROUP), (5, 5, [GROUP])),
    "chown to itself": (lambda path, fd, source: os.chown(path, 5, -1), (5, 6, [GROUP])),
    "chmod": (lambda path, fd, source: os.chmod(path, 0o6755), (5, 5, [])),
    "chmod by none of the group": (lambda path, fd, source: os.chmod(path, 0o6755), (5, 6, [])),
    "acl by none of the group": (lambda path, fd, source: os.setxattr(path, "system.posix_acl_access", ACL), (5, 6, [])),
    "acl": (lambda path, fd, source: os.setxattr(path, "system.posix_acl_access", ACL), (5, 5, [])),
}


def check_set_ids():
    root = (0, 0)
    for name, act in CONTENT.items():
        modes = (0o6777, 0o2767, 0o4767, 0o6767)
        print("set-ID", name, "by another", *(after(act, mode, root, NOBODYS) for mode in modes))
        print("set-ID", name, "by a member", *(after(act, mode, (0, GROUP), MEMBER) for mode in (0o2777, 0o6767)))
        print("set-ID", name, "by root", *(after(act, mode, (5, 5), ROOTS) for mode in (0o6777, 0o6767)))
        capability = [after(act, 0o777, root, who, True) for who in (NOBODYS, ROOTS)]
        print("set-ID", name, "capability", *capability)
    for name, (act, who) in OWNER.items():
        modes = (0o6777, 0o6767, 0o2767)
        print("set-ID", name, *(after(act, mode, (5, 5), who) for mode in modes))
        print("set-ID", name, "capability", after(act, 0o777, (5, 5), who, True))


def made(how, mode, who, directory_mode, group):
    directory = at("directory")
    remove(directory)
    os.mkdir(directory)
    os.chown(directory, 0, group)
    os.chmod(directory, directory_mode)
    path = os.path.join(directory, "made")

    make = {
        "creat": lambda: os.close(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, mode)),
        "open": lambda: os.close(os.open(path, os.O_CREAT | os.O_RDWR, mode)),
        "mknod": lambda: os.mknod(path, mode | stat.S_IFREG),
        "fifo": lambda: os.mknod(path, mode | stat.S_IFIFO),
        "mkdir": lambda: os.mkdir(path, mode),
    }[how]
    said = as_user(*who, make)
    found = os.stat(path)
    return "%s:%o>%o,%d" % (said, mode, found.st_mode & 0o7777, found.st_gid)


def check_made():
    for name, who in (("user", NOBODYS), ("member", MEMBER), ("group", (NOBODY, GROUP, [])), ("root", ROOTS)):
        for directory in ((0o777, 0), (0o2777, GROUP)):
            for how in ("creat", "open", "mknod", "fifo", "mkdir"):
                found = (made(how, mode, who, *directory) for mode in (0o6755, 0o2745, 0o4711))
                print("made by %s in %o" % (name, directory[0]), how, *found)


os.umask(0)
check_times()
check_names()
check_set_ids()
check_made()
