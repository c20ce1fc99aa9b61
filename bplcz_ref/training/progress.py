"""What a long job says on the way: whole lines, and within an epoch one line that is written over, or few lines.

On a terminal the line of a step is renewed a few times per second; into a file or a pipe it is written as a line
of its own, at most once per minute.
"""

import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

ON_A_TERMINAL, ELSEWHERE = 0.2, 60.0  # seconds between two lines of steps
ERASE = "\r\x1b[K"  # to the start of the line, and what is right of it


class Reporter:
    """`line` says a whole line, `step` where an epoch is, `end` leaves the terminal at the start of a line.

    stream: default stderr. A `say` function takes the whole lines in the stream's place, and no steps.
    """

    def __init__(self, stream: TextIO | None = None, say: Callable[[str], None] | None = None) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.say = say
        self.terminal = say is None and self.stream.isatty()
        self.wait = ON_A_TERMINAL if self.terminal else ELSEWHERE
        self.last, self.open = time.perf_counter(), False

    def line(self, text: str) -> None:
        """A whole line."""
        self.end()
        self.last = time.perf_counter()
        if self.say is not None:
            self.say(text)
        else:
            print(text, file=self.stream, flush=True)

    def step(self, text: Callable[[], str]) -> None:
        """Where an epoch is, unless something was said a moment ago; `text` is called only if it is needed."""
        if self.say is not None or time.perf_counter() - self.last < self.wait:
            return
        if not self.terminal:
            self.line(text())
            return
        width = shutil.get_terminal_size().columns - 1
        self.stream.write(ERASE + text()[:width])
        self.stream.flush()
        self.last, self.open = time.perf_counter(), True

    def end(self) -> None:
        """Remove the line of a step, if there is one."""
        if self.open:
            self.stream.write(ERASE)
            self.stream.flush()
            self.open = False


def to_stderr(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(41.6), duration(125), duration(7300)
    ('42 s', '2 min 05 s', '2 h 01 min')
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
