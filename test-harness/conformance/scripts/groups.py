"""groups.py DIRECTORY: says what a user gets from the groups it is in besides its own, a line for each case.

`groups.expected` is what it says of ext4 (Linux 6.18). Run as root; the directory must be open to other users.
"""
import os
import struct
import sys

ROOT = sys.argv[1]
NOBODY, OWN = 65534, 65534
MINE, ALSO_MINE, FOREIGN = 4711, 4712, 999
NONE = 0xFFFFFFFF
OF_USER = ((1, 7, NONE), (2, 4, 1), (4, 7, NONE), (16, 7, NONE), (32, 5, NONE))


def at(name):
    return os.path.join(ROOT, name)


def as_member(act):
    """What came of `act` in a process of nobody that is in two groups more."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([MINE, ALSO_MINE])
        os.setresgid(OWN, OWN, OWN)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        try:
            act()
            said = "ok"
        except OSError as error:
            said = "E%d" % error.errno
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    said = os.read(read, 100).decode()
    os.close(read)
    os.waitpid(child, 0)
    return said


def trial(what, path, act):
    said = as_member(act)
    found = os.lstat(path) if os.path.lexists(path) else None
    print(what, said, found and "%o %d %d" % (found.st_mode, found.st_uid, found.st_gid))


def made(name, uid, gid, mode):
    path = at(name)
    with open(path, "wb") as file:
        file.write(b"0123456789")
    os.chown(path, uid, gid)
    os.chmod(path, mode)
    return path


def write(path):
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, b"new")
    os.close(fd)


def read(path):
    os.close(os.open(path, os.O_RDONLY))


def access(path, entries):
    """Sets an access ACL: (tag, permissions, id) each, as acl(5) orders them."""
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(path, "system.posix_acl_access", acl)


def of_group(group):
    return ((1, 6, NONE), (4, 0, NONE), (8, 6, group), (16, 6, NONE), (32, 0, NONE))


def permissions():
    for group in (MINE, ALSO_MINE, FOREIGN):
        path = made("shared-%d" % group, 0, group, 0o660)
        trial("write %d" % group, path, lambda: write(path))
        trial("truncate %d" % group, path, lambda: os.truncate(path, 3))
        trial("set attribute %d" % group, path, lambda: os.setxattr(path, "user.a", b"1"))
        trial("touch %d" % group, path, lambda: os.utime(path))
        trial("set times %d" % group, path, lambda: os.utime(path, (1, 1)))
        trial("chmod %d" % group, path, lambda: os.chmod(path, 0o666))
        path = made("others-%d" % group, 0, group, 0o604)
        trial("read what only others may %d" % group, path, lambda: read(path))
        path = made("listed-%d" % group, 0, 0, 0o600)
        access(path, of_group(group))
        trial("write by ACL %d" % group, path, lambda: write(path))


def ownership():
    for group in (MINE, FOREIGN):
        path = made("given-%d" % group, NOBODY, OWN, 0o6775)
        trial("chgrp to %d" % group, path, lambda: os.chown(path, -1, group))
        path = made("set-%d" % group, NOBODY, group, 0o644)
        trial("chmod g+s of %d" % group, path, lambda: os.chmod(path, 0o2775))
        path = made("acl-%d" % group, NOBODY, group, 0o2775)
        trial("ACL of set-ID file of %d" % group, path, lambda: access(path, OF_USER))


def directories():
    for group in (MINE, ALSO_MINE, FOREIGN):
        top = at("open-%d" % group)
        os.mkdir(top)
        os.chown(top, 0, group)
        os.chmod(top, 0o2777)
        file = os.path.join(top, "file")
        trial("create in %d" % group, file, lambda: os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o2775)))
        trial("chmod what was made in %d" % group, file, lambda: os.chmod(file, 0o2777))
        trial("write to it %d" % group, file, lambda: write(file))
        below = os.path.join(top, "below")
        trial("mkdir in %d" % group, below, lambda: os.mkdir(below, 0o2775))
        pipe = os.path.join(top, "pipe")
        trial("mkfifo in %d" % group, pipe, lambda: os.mkfifo(pipe, 0o2775))
        top = at("closed-%d" % group)
        os.mkdir(top)
        os.chown(top, 0, group)
        os.chmod(top, 0o770)
        file, other = os.path.join(top, "file"), os.path.join(top, "other")
        trial("create below %d" % group, file, lambda: os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o644)))
        trial("rename below %d" % group, other, lambda: os.rename(file, other))
        trial("list %d" % group, top, lambda: os.listdir(top))
        trial("remove below %d" % group, other, lambda: os.unlink(other))


os.umask(0o002)
permissions()
ownership()
directories()
