"""What a command does so that memory which was needed once can be used again."""

import os
import platform
import subprocess
import sys

import pytest

COUNT_HEAPS = """
import ctypes, os, sys, threading
from click.testing import CliRunner
from kontext_pipeline.cli import main

if sys.argv[1] == "as a command":
    # The cheapest command: the group sets the memory up before the subcommand reads its options.
    CliRunner().invoke(main, ["sandbox", "--help"])
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
# A thread takes memory from its heap when it starts.
together = threading.Barrier(8)
threads = [threading.Thread(target=together.wait) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
file = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


def heaps(how: str, **environment: str) -> int:
    found = subprocess.run(
        [sys.executable, "-c", COUNT_HEAPS, how],
        capture_output=True,
        text=True,
        check=True,
        env={key: value for key, value in os.environ.items() if key != "MALLOC_ARENA_MAX"} | environment,
    )
    return found.stdout.count("<heap nr=")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has a heap for each thread")
def test_threads_of_a_command_share_two_heaps() -> None:
    assert heaps("as a module") > 2
    assert heaps("as a command") == 2
    # What the user sets is left alone.
    assert heaps("as a command", MALLOC_ARENA_MAX="4") > 2
