"""The one change that is made to autograd: how deeply traces are nested is counted for each thread by itself.

autograd counts it in one global without a lock. Two threads that trace at once could give one number to an outer
and an inner trace, and gradients would silently be wrong. It also forgets to count back when a traced function
raises an exception. Importing this module puts a count of its own into every thread; `depth` and `resume` carry
the count from a thread to one that works for it, so that new traces lie above those that are open already.
"""

import contextlib
import threading
from collections.abc import Iterator

from autograd import tracer


class _TraceStack(threading.local):
    top = -1

    @contextlib.contextmanager
    def new_trace(self):
        self.top += 1
        try:
            yield self.top
        finally:
            self.top -= 1


if not isinstance(tracer.trace_stack, threading.local):
    outer, tracer.trace_stack = tracer.trace_stack.top, _TraceStack()
    tracer.trace_stack.top = outer  # this module may be imported inside a trace


def depth() -> int:
    """The number of the innermost open trace of this thread; -1 without one."""
    return tracer.trace_stack.top


@contextlib.contextmanager
def resume(depth: int) -> Iterator[None]:
    """A context in which this thread counts on from `depth`."""
    before, tracer.trace_stack.top = tracer.trace_stack.top, depth
    try:
        yield
    finally:
        tracer.trace_stack.top = before
