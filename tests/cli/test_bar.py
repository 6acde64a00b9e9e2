"""The live bar on a terminal: log lines go above it, and a second line says why requests wait."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

SHOW = """
import logging, time
from types import SimpleNamespace
from kontext_pipeline import console, logs

logs.configure()
run = SimpleNamespace(
    succeeded=3, found=0, failed=0, unknown=0, in_flight=8, spent=300_000, possibly_charged=0,
    paused_until=time.monotonic() + 1000, pause_reason="rate limit", waiting={"503": 7}, fetching=0,
)
with console.progress(200) as show:
    show.watch(lambda: run)
    time.sleep(0.4)
    logging.getLogger("kontext_pipeline.of_a_test").warning("the API is slow")
    run.paused_until, run.waiting, run.succeeded = 0.0, {}, 200
"""


def shown_on_a_terminal(code: str, columns: int) -> str:
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    ) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                part = os.read(mine, 4096)
            except OSError:
                break
            if not part:
                break
            seen += part
    os.close(mine)
    assert process.returncode == 0, seen
    return re.sub(r"\x1b\[[0-9;?]*m", "", seen.decode())


def test_log_lines_and_reasons_leave_the_bar_whole() -> None:
    seen = shown_on_a_terminal(SHOW, columns=100)
    frames = re.split(r"\r?\x1b\[2K(?:\x1b\[1A\x1b\[2K)?", seen)
    waiting = next(frame for frame in frames if "paused" in frame)
    bar, reasons = waiting.splitlines()[:2]
    assert re.search(r"3/200 .*0 failed, 8 in flight, 0\.30 USD spent", bar)
    assert re.match(r"paused (1,000|999) s: rate limit; 7 waiting to retry: 503", reasons)
    [log] = [frame for frame in frames if "the API is slow" in frame]
    assert re.match(r"\S+ WARNING of_a_test: the API is slow\s*\r?\n", log), "it starts on a line of its own"
    assert "generating" in log, "the bar is drawn again below it"
    assert "200/200" in frames[-1]
    assert "paused" not in frames[-1]
