"""What a time that was set by hand is worth while others read and mappings hold stores. Arguments: what, then paths.

set HERE THERE: one directory through two mounts (or twice the same); leaves files whose access time is 5.
told HERE: when the other mount has told of what it read, they are asked for anew, and it still is.
"""
import mmap
import os
import sys
import time

ROUNDS = 20
OLD, SET = (1000, 2000), (5, 5)
TICK = 0.02


def put(path):
    with open(path, "wb") as file:
        file.write(b"x" * 5000)
    os.utime(path, OLD)


def read(path):
    file = os.open(path, os.O_RDONLY)
    assert os.read(file, 10) == b"x" * 10
    os.close(file)


def accessed(here, there):
    for number in range(ROUNDS):
        name = "accessed-%d" % number
        setter, reader = (here, there) if number % 2 else (there, here)
        setter, reader = os.path.join(setter, name), os.path.join(reader, name)
        put(setter)
        read(reader)
        if number % 4 < 2:
            time.sleep(TICK)
            os.stat(reader)
        os.utime(setter, SET)
        for place in (setter, reader):
            found = os.stat(place).st_atime
            assert found == SET[0], f"round {number}: {found} at {place}, set at {setter}"
        os.chmod(reader, 0o600)
        for place in (setter, reader):
            found = os.stat(place).st_atime
            assert found == SET[0], f"round {number}: {found} at {place} after a chmod"


def stored(here, there):
    for number, (setter, flush) in enumerate([(here, True), (here, False), (there, True)]):
        name = "stored-%d" % number
        path = os.path.join(here, name)
        put(path)
        file = os.open(path, os.O_RDWR)
        mapping = mmap.mmap(file, 5000)
        mapping[0] = 65
        os.utime(os.path.join(setter, name), SET)
        if flush:
            mapping.flush()
            found = os.fstat(file).st_mtime
            assert found == SET[1], f"{found} once it was written, set at {setter}"
            mapping[1] = 66
            mapping.flush()
            found = os.stat(os.path.join(there, name)).st_mtime
            assert found > 1e9, f"{found} after a store that came later"
            os.utime(path, SET)
        mapping.close()
        os.close(file)
        for place in (here, there):
            found = os.stat(os.path.join(place, name)).st_mtime
            assert found == SET[1], f"{found} at {place} once it was unmapped, set at {setter}"


def set_by_hand(here, there):
    accessed(here, there)
    stored(here, there)


def told(here):
    for number in range(ROUNDS):
        path = os.path.join(here, "accessed-%d" % number)
        os.chmod(path, 0o644)
        found = os.stat(path).st_atime
        assert found == SET[0], f"round {number}: {found}"


{"set": set_by_hand, "told": told}[sys.argv[1]](*sys.argv[2:])
