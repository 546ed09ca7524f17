"""A process that commits transactions to an SQLite database until it is killed, and the check of what it left.

  sqlite_writer.py write DATABASE ACKNOWLEDGED WRITER MODE   (runs until killed)
  sqlite_writer.py check DATABASE ACKNOWLEDGED...            (exit code 0 when all holds)

A transaction inserts three rows and raises a counter. Its number is appended to the file ACKNOWLEDGED, which lies on
another file system, after COMMIT returned. The check wants an intact database, every acknowledged transaction
complete, no transaction in part, and the counter equal to the number of transactions found.
"""

import hashlib
import os
import random
import sqlite3
import sys
import time

ROWS = 3


def payload(writer, number, row):
    """The text of one row; long enough that a transaction touches several pages."""
    word = hashlib.sha256(f"{writer}/{number}/{row}".encode()).hexdigest()
    return word * (1 + (number + row) % 40)


def opened(path):
    """A connection that waits for locks."""
    connection = sqlite3.connect(path, timeout=120, isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def switched(connection, mode):
    """The journal mode after asking for `mode`.

    Changing it needs the whole database, and SQLite refuses without waiting when another process is at the same: each would
    wait for the other's shared lock. So it is asked for again, for two minutes at most, as for any lock.
    """
    limit = time.monotonic() + 120
    while True:
        try:
            return connection.execute(f"PRAGMA journal_mode = {mode}").fetchone()[0]
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > limit:
                raise
            time.sleep(0.01)


def write(path, acknowledged, writer, mode):
    """Commits transactions for ever."""
    log = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    connection = opened(path)
    found = switched(connection, mode)
    if found != mode:
        sys.exit(f"journal mode is {found}, not {mode}")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS rows (writer INT, number INT, row INT, text TEXT, "
        "PRIMARY KEY (writer, number, row))"
    )
    connection.execute("CREATE TABLE IF NOT EXISTS counter (writer INT PRIMARY KEY, count INT)")
    connection.execute("INSERT OR IGNORE INTO counter VALUES (?, 0)", (writer,))
    last = connection.execute("SELECT max(number) FROM rows WHERE writer = ?", (writer,))
    number = (last.fetchone()[0] or 0) + 1
    while True:
        connection.execute("BEGIN IMMEDIATE")
        for row in range(ROWS):
            text = payload(writer, number, row)
            connection.execute("INSERT INTO rows VALUES (?, ?, ?, ?)", (writer, number, row, text))
        connection.execute("UPDATE counter SET count = count + 1 WHERE writer = ?", (writer,))
        connection.execute("COMMIT")
        os.write(log, f"{writer} {number}\n".encode())
        number += 1
        # SQLite waits for locks by sleeping; without a pause one writer would starve the other.
        time.sleep(random.random() * 0.02)


def acknowledged_in(paths):
    """The set of (writer, number) that were acknowledged."""
    numbers = set()
    for path in paths:
        with open(path, encoding="ascii") as log:
            numbers.update(tuple(map(int, line.split())) for line in log)
    return numbers


def check(path, logs):
    """Stops with a message when something does not hold."""
    wanted = acknowledged_in(logs)
    connection = opened(path)
    verdict = connection.execute("PRAGMA integrity_check").fetchone()[0]
    if verdict != "ok":
        sys.exit(f"integrity_check: {verdict}")
    found = {}
    for writer, number, row, text in connection.execute("SELECT * FROM rows"):
        if text != payload(writer, number, row):
            sys.exit(f"transaction {writer}/{number} row {row} holds something else")
        found[writer, number] = found.get((writer, number), 0) + 1
    partial = [key for key, rows in found.items() if rows != ROWS]
    if partial:
        sys.exit(f"transactions in part: {partial[:5]}")
    lost = sorted(wanted - found.keys())
    if lost:
        sys.exit(f"{len(lost)} acknowledged transactions are lost, first {lost[:5]}")
    counted = connection.execute("SELECT coalesce(sum(count), 0) FROM counter").fetchone()[0]
    if counted != len(found):
        sys.exit(f"the counter says {counted}, the rows {len(found)}")
    print(f"{len(wanted)} acknowledged, {len(found)} found")


if sys.argv[1] == "write":
    write(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
else:
    check(sys.argv[2], sys.argv[3:])
