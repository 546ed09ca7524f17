"""What only a program with mappings does. Arguments: what, then paths.

dirty FILE: maps a file full of holes, changes it through the mapping, says "dirty", and lives until its input ends.
grown_in_page, opened_after_reading HERE THERE: what a mapping changes behind the old end of a file, in its last page, arrives.
grown HERE THERE: one file through two mounts; ends with 0 if what the other mount wrote is seen once it was asked for.
"""
import ctypes
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


def grown_in_page(here, there):
    first = os.open(here, os.O_RDWR | os.O_CREAT, 0o644)
    os.pwrite(first, b"a" * mmap.PAGESIZE, 0)
    mapping = mmap.mmap(first, mmap.PAGESIZE)
    second = os.open(there, os.O_RDWR)
    for end in (2100, 3000, 9000):
        os.ftruncate(second, 100)
        assert os.fstat(first).st_size == 100
        os.pwrite(second, b"b" * (end - 100), 100)
        os.fsync(second)
        assert mapping[1000:1004] == b"bbbb", mapping[1000:1004]
        mapping[1000:1004] = b"MINE"
        mapping.flush()
        os.fsync(first)
        found = os.pread(second, 4, 1000)
        assert found == b"MINE", f"stored and synced at 1000 of {end} bytes, found {found}"
        assert os.fstat(second).st_size == end


def opened_after_reading(here, there):
    with open(there, "wb") as file:
        file.write(b"a" * mmap.PAGESIZE)
    reader = os.open(here, os.O_RDONLY)
    view = mmap.mmap(reader, mmap.PAGESIZE, prot=mmap.PROT_READ)
    second = os.open(there, os.O_RDWR)
    os.ftruncate(second, 100)
    assert os.fstat(reader).st_size == 100
    os.pwrite(second, b"c" * 2000, 100)
    os.fsync(second)
    assert view[1000:1004] == b"cccc", view[1000:1004]
    writer = os.open(here, os.O_RDWR)
    # Python's own mapping looks at the size first, which tells the kernel.
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    page = libc.mmap(None, mmap.PAGESIZE, protection, mmap.MAP_SHARED, writer, 0)
    ctypes.memmove(page + 1000, b"LATE", 4)
    os.fsync(writer)
    found = os.pread(second, 4, 1000)
    assert found == b"LATE", f"stored by who opened after a reader's page, found {found}"


ACTS = [dirty, grown, grown_in_page, opened_after_reading]
{act.__name__: act for act in ACTS}[sys.argv[1]](*sys.argv[2:])
