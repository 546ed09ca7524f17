"""What only a program with mappings does. Arguments: what, then paths.

dirty FILE: maps a file full of holes, changes it through the mapping, says "dirty", and lives until its input ends.
grown HERE THERE: one file through two mounts; ends with 0 if what the other mount wrote is seen once it was asked for.
"""
import mmap
import os
import sys

SIZE = 1 << 20


def dirty(path):
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    os.ftruncate(file, SIZE)
    mapping = mmap.mmap(file, SIZE)
    mapping[0:5] = b"HELLO"
    mapping[600000:600004] = b"data"
    found = os.lseek(file, 4096, os.SEEK_DATA)
    assert found <= 600000, f"data at 600000, the next is said to be at {found}"
    print("dirty", flush=True)
    sys.stdin.read()


def grown(here, there):
    first = os.open(here, os.O_RDWR | os.O_CREAT, 0o644)
    os.pwrite(first, b"x" * 65536, 0)
    mapping = mmap.mmap(first, 65536)
    assert mapping[40000] == ord("x")
    second = os.open(there, os.O_RDWR)
    os.ftruncate(second, 4096)
    os.pwrite(second, b"y" * 65536, 0)
    os.fsync(second)
    assert os.fstat(first).st_size == 65536
    assert mapping[40000:40004] == b"yyyy", mapping[40000:40004]
    os.pwritev(second, [b"B" * 10], 0, os.RWF_APPEND)
    os.fsync(second)
    os.fstat(first)
    os.pwritev(first, [b"C" * 10], 0, os.RWF_APPEND)
    end = os.pread(second, 100, 65536)
    assert end == b"B" * 10 + b"C" * 10, end
    appender = os.open(here, os.O_WRONLY | os.O_APPEND)
    os.write(appender, b"D")
    os.pwrite(second, b"E", 65557)
    os.write(appender, b"F")
    end = os.pread(second, 100, 65556)
    assert end == b"DEF", end


{"dirty": dirty, "grown": grown}[sys.argv[1]](*sys.argv[2:])
