"""Tasks side by side on the machine's cores; calls inside a task are helped by the threads that are idle.

`run(tasks)` returns [task() for task in tasks]. Five rules make it right:

1. The caller works too. A helper, a thread without work, takes a task of the outermost open call: the longest.
2. A caller whose last tasks run elsewhere helps meanwhile, but only with calls made inside of such tasks: never
   with a second branch inside a branch, which would take its memory twice and delay the first.
3. A task holds no scratch memory (cores.workspace) while it calls `run`: a task done meanwhile would use it too.
4. Work is cut by its shape alone (`pieces`), and partial sums are added in the order of the pieces: bits depend
   neither on the number of threads nor on who did what.
5. A helper works in a copy of the caller's context, so that np.errstate holds, and at the caller's depth of
   autograd's traces.

What a task must be worth: a call of `run` takes about 20 us and waking a helper 60, so a task should take 100 us.
NumPy holds Python's lock while it prepares an operation, so two threads gain only if an operation carries many
numbers; three operations per task on two threads, gain over one thread: 16k numbers 0.8, 32k 1.1, 64k 1.4, 128k
1.7, 256k 1.75. Therefore kernels work in blocks of NUMBERS = 128k, which a core's second-level cache still holds.
"""

import contextvars
import os
import threading
from collections.abc import Callable, Sequence

from .cores import in_one_blas_thread, one_blas_thread, thread_count
from .trace_stack import depth, resume

NUMBERS = 1 << 17  # that an array operation should carry

_own = threading.local()  # .level: how many calls of `run` this thread is inside of, 0 or missing for none


def run(tasks: Sequence[Callable], order: Sequence[int] | None = None) -> list:
    """[task() for task in tasks], side by side; of several exceptions the earliest task's is raised.

    Tasks are begun in the given order of their numbers: with the longest first, the threads end together.
    """
    if not getattr(_own, "level", 0) and not in_one_blas_thread():
        with one_blas_thread():
            return run(tasks, order)
    helpers = min(thread_count(), len(tasks)) - 1
    if helpers < 1:
        return [tasks[k]() for k in range(len(tasks))]
    job = _Job(tasks, range(len(tasks)) if order is None else order, getattr(_own, "level", 0))
    _crew.offer(job, thread_count() - 1)
    try:
        job.work()
    finally:
        _crew.finish(job)
    if job.errors:
        raise job.errors[min(job.errors)]
    return job.results


def pieces(n: int, least: int, most: int = 8) -> list[slice]:
    """range(n) cut into `most` parts of about equal length, or fewer, so that none is below `least`.

    >>> pieces(10, 3), pieces(2, 3), pieces(0, 3)
    ([slice(0, 3, None), slice(3, 6, None), slice(6, 10, None)], [slice(0, 2, None)], [slice(0, 0, None)])
    """
    count = max(1, min(most, n // max(1, least)))
    edges = [n * k // count for k in range(count + 1)]
    return [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]


def each(work: Callable, parts: Sequence) -> list:
    """[work(part) for part in parts], side by side."""
    if len(parts) == 1 and in_one_blas_thread():
        return [work(parts[0])]
    return run([lambda part=part: work(part) for part in parts])


class _Job:
    """One call of `run`: its tasks, and what has become of them."""

    def __init__(self, tasks, order, level):
        self.tasks, self.level = tasks, level
        self.results, self.errors = [None] * len(tasks), {}
        self.waiting = list(order)[::-1]
        self.helpers = 0  # at work on it now
        self.context, self.depth = contextvars.copy_context(), depth()

    def work(self):
        """Do tasks until none is waiting."""
        before, _own.level = getattr(_own, "level", 0), self.level + 1
        try:
            while self.waiting:
                try:
                    k = self.waiting.pop()  # of several threads, each gets another
                except IndexError:
                    break
                try:
                    self.results[k] = self.tasks[k]()
                except BaseException as error:
                    self.errors[k] = error
                    self.waiting.clear()
        finally:
            _own.level = before

    def help(self):
        with resume(self.depth):
            self.context.copy().run(self.work)


class _Crew:
    """The helpers, and the jobs that are open; every change is made with `changed` held."""

    def __init__(self):
        self.changed = threading.Condition()
        self.jobs = []
        self.threads = self.idle = self.busy = 0
        self.limit = 0  # of busy helpers: BPLCZ_THREADS may be lowered while threads exist

    def offer(self, job, helpers):
        with self.changed:
            self.limit = helpers
            while self.threads < helpers:
                self.threads += 1
                threading.Thread(target=self._helper, name=f"bplcz_ref_{self.threads}", daemon=True).start()
            self.jobs.append(job)
            if self.idle:
                self.changed.notify_all()  # not one: that could be a caller who may not take this job

    def finish(self, job):
        """Return when nobody works on the job any more; help with jobs inside of it meanwhile."""
        with self.changed:
            self.jobs.remove(job)
            while job.helpers:
                inner = self._take(job.level + 1)
                if inner is None:
                    self._wait()
                else:
                    self._help(inner)

    def _helper(self):
        with self.changed:
            while True:
                job = self._take(0) if self.busy < self.limit else None
                if job is None:
                    self._wait()
                else:
                    self.busy += 1
                    self._help(job)
                    self.busy -= 1
                    job = None  # an idle thread keeps no result alive

    def _take(self, level):
        """The outermost open job of this level or deeper, or None."""
        job = min((j for j in self.jobs if j.waiting and j.level >= level), key=lambda j: j.level, default=None)
        if job is not None:
            job.helpers += 1
        return job

    def _help(self, job):  # `changed` is let go meanwhile
        self.changed.release()
        try:
            job.help()
        finally:
            self.changed.acquire()
            job.helpers -= 1
            if not job.helpers:
                self.changed.notify_all()

    def _wait(self):
        self.idle += 1
        self.changed.wait()
        self.idle -= 1


_crew = _Crew()


def _after_fork():  # a child has none of its parent's threads, and may have inherited a lock that is held
    global _crew
    _crew = _Crew()
    _own.level = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
