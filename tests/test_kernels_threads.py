"""concurrently: the same bits on any number of threads, gradients that reach what they should, and its errors."""

import multiprocessing
import subprocess
import sys
import threading
import traceback
import warnings

import autograd.numpy as np
import numpy as onp
import pytest
from autograd import grad
from autograd.core import make_vjp

from bplcz_ref import nn, systems
from bplcz_ref.kernels import cores


def branch(p):
    h, _ = nn.batch_norm(nn.conv2d(p["x"], p["conv"]["weight"], padding=1), *p["bn"], STATE, train=True, relu=True)
    return nn.spatial_mean(nn.max_pool2d(h, 2)), {"seen": [p["conv"]["weight"], "label"], "h": h}


STATE = {"running_mean": onp.zeros(8), "running_var": onp.ones(8), "num_batches_tracked": onp.array(0)}


def branch_parameters(n=7):
    r = onp.random.default_rng(4)
    return {
        f"b{k}": {
            "x": r.standard_normal((4, 8, 8, 3)),
            "conv": {"weight": r.standard_normal((8, 3, 3, 3)), "unused": onp.ones(3)},
            "bn": (r.standard_normal(8), r.standard_normal(8)),
        }
        for k in range(n)
    }


def value_and_gradients(concurrently, params):
    def f(p):
        ys, aux = concurrently([branch] * len(params), [p[k] for k in params])
        f.aux = aux
        return sum(np.sum(np.sin(y)) for y in ys)

    vjp, y = make_vjp(f, params)
    return y, vjp(1.0), f.aux


def leaves(tree):
    if isinstance(tree, dict):
        return [leaf for value in tree.values() for leaf in leaves(value)]
    return [leaf for value in tree for leaf in leaves(value)] if isinstance(tree, (list, tuple)) else [tree]


@pytest.mark.parametrize("count", ["1", "2", "5"])
def test_the_number_of_threads_does_not_change_a_bit(count, monkeypatch):
    params = branch_parameters()
    y, gradients, aux = value_and_gradients(nn.concurrently.definition, params)
    monkeypatch.setenv("BPLCZ_THREADS", count)
    for _ in range(3):
        z, ours, seen = value_and_gradients(nn.concurrently, params)
        assert z == y
        assert ours.keys() == gradients.keys()
        for a, b in zip(leaves(ours), leaves(gradients), strict=True):
            assert onp.shape(a) == onp.shape(b)
            assert (a == b).all()
        for a, b in zip(leaves(seen), leaves(aux), strict=True):
            assert type(a) is type(b)
            assert onp.all(a == b)


def test_a_gradient_reaches_only_its_own_branch_and_shared_values_add_up():
    x = onp.array([2.0, 3.0])
    functions = [lambda p: p["a"] * p["s"], lambda p: p["a"] ** 2 * p["s"]]

    def f(a, b, s):
        (y, z), aux = nn.concurrently(functions, [{"a": a, "s": s}, {"a": b, "s": s}])
        assert aux == [None, None]
        return np.sum(y) + 10 * np.sum(z)

    assert grad(f, 0)(x, x, x).tolist() == [2.0, 3.0]
    assert grad(f, 1)(x, x, x).tolist() == [80.0, 180.0]
    assert grad(f, 2)(x, x, x).tolist() == [42.0, 93.0]

    def tuples(s):
        return np.sum(nn.concurrently([lambda p: p[0]["w"] * p[1]], [({"w": x}, s)])[0][0])

    assert grad(tuples)(x).tolist() == [2.0, 3.0]


def test_a_branch_without_gradient_and_an_unused_one():
    x = onp.ones(2)
    (y, z), _ = nn.concurrently([lambda p: p * 2, lambda p: p + 1], [x, x])
    assert (y.tolist(), z.tolist()) == ([2.0, 2.0], [2.0, 2.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a frozen branch is no reason for a warning

        def f(p):
            return np.sum(nn.concurrently([lambda p: p * 2, lambda p: x], [p, p])[0][0])

        assert grad(f)(x).tolist() == [2.0, 2.0]


def test_a_traced_value_from_outside_is_an_error():
    x = onp.ones(2)
    with pytest.raises(ValueError, match="not in its parameters"):
        grad(lambda s: np.sum(nn.concurrently([lambda p: p * s], [x])[0][0]))(x)
    with pytest.raises(ValueError, match="not in its parameters"):
        grad(lambda s: np.sum(nn.concurrently([lambda p: p * s], [s])[0][0]))(x)
    with pytest.raises(ValueError, match="2 functions and 1 trees"):
        nn.concurrently([branch, branch], [x])


def failing_branch(p):
    raise KeyError("what went wrong")


@pytest.mark.parametrize("count", ["1", "3"])
def test_an_exception_comes_with_its_own_traceback(count, monkeypatch):
    monkeypatch.setenv("BPLCZ_THREADS", count)
    before = cores.blas_threads()
    for tree in (onp.ones(2), branch_parameters(1)["b0"]):
        with pytest.raises(KeyError, match="what went wrong") as info:
            grad(lambda p, t=tree: np.sum(nn.concurrently([np.sum, failing_branch, np.sum], [p, p, p])[0][0]))(
                onp.ones(2)
            )
        assert "failing_branch" in "".join(traceback.format_tb(info.value.__traceback__))
    assert cores.blas_threads() == before
    assert value_and_gradients(nn.concurrently, branch_parameters(2))[0]  # and the pool still works


def test_nested_use():
    x = onp.array([1.0, 2.0])

    def outer(p):
        ys, _ = nn.concurrently([lambda p: p**3, lambda p: p**3], [p, 2 * p])
        return ys[0] + ys[1]

    def f(p):
        return np.sum(nn.concurrently([outer, outer, outer], [p, p, p])[0][1])

    assert grad(f)(x).tolist() == [27.0, 108.0]


@pytest.mark.slow
def test_traces_opened_at_once_in_many_threads_stay_apart(monkeypatch):
    """A gradient inside a branch: its trace must lie above the branch's, whatever other threads open and close."""
    monkeypatch.setenv("BPLCZ_THREADS", "8")
    x = onp.array([1.0, 2.0])

    def slope_of_slopes(p):
        y = p
        for _ in range(20):
            y = y + grad(lambda q: np.sum(q**2 * 0.5))(p)  # y = p + 20 p
        return y

    def f(p):
        return sum(np.sum(y) for y in nn.concurrently([slope_of_slopes] * 16, [p] * 16)[0])

    for _ in range(3):
        assert grad(f)(x).tolist() == [16 * 21.0] * 2


def test_the_settings_of_the_caller_hold_in_the_threads(monkeypatch):
    monkeypatch.setenv("BPLCZ_THREADS", "3")
    before = cores.blas_threads()
    inside = nn.concurrently([lambda p: onp.array(cores.blas_threads())] * 3, [0] * 3)[0]
    if before:
        assert [int(n) for n in inside] == [1, 1, 1]
    assert cores.blas_threads() == before
    with onp.errstate(divide="raise"), pytest.raises(FloatingPointError):
        nn.concurrently([lambda p: onp.ones(1) / onp.zeros(1)] * 6, [0] * 6)
    monkeypatch.setenv("BPLCZ_THREADS", "many")
    with pytest.raises(ValueError, match="BPLCZ_THREADS is 'many'"):
        nn.concurrently([np.sum, np.sum], [onp.ones(1)] * 2)


needs_openblas = pytest.mark.skipif(cores.blas_threads() == 0, reason="NumPy uses another BLAS here")


@pytest.fixture
def two_blas_threads():
    before = cores.blas_threads()
    cores.blas_threads(2)
    yield
    cores.blas_threads(before)


@needs_openblas
@pytest.mark.usefixtures("two_blas_threads")
def test_a_number_of_blas_threads_that_the_user_sets_meanwhile_is_kept():
    with cores.one_blas_thread():
        assert cores.blas_threads() == 1
        cores.blas_threads(3)  # a user's callback
    assert cores.blas_threads() == 3
    with cores.one_blas_thread():
        cores.blas_threads(4)
        with cores.one_blas_thread():  # the next step
            assert cores.blas_threads() == 1
        assert cores.blas_threads() == 1
    assert cores.blas_threads() == 4
    cores.blas_threads(1)
    with cores.one_blas_thread():
        pass
    assert cores.blas_threads() == 1


@needs_openblas
@pytest.mark.usefixtures("two_blas_threads")
def test_a_limit_of_threadpoolctl_set_beside_running_work_holds():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    inside, leave = threading.Event(), threading.Event()

    def work():
        with cores.one_blas_thread():
            inside.set()
            leave.wait(60)

    other = threading.Thread(target=work)
    other.start()
    inside.wait(60)
    threadpoolctl.threadpool_limits(3)
    leave.set()
    other.join()
    assert cores.blas_threads() == 3


@needs_openblas
@pytest.mark.usefixtures("two_blas_threads")
def test_contexts_that_overlap_in_threads_set_the_number_back_once():
    first, second = cores.one_blas_thread(), cores.one_blas_thread()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert cores.blas_threads() == 1
    second.__exit__(None, None, None)
    assert cores.blas_threads() == 2


def number_in_child(queue):
    before = cores.blas_threads()
    with cores.one_blas_thread():
        pass
    queue.put((before, cores.blas_threads()))


@needs_openblas
@pytest.mark.usefixtures("two_blas_threads")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("user", [None, 3])
def test_a_process_forked_in_a_context_has_the_users_number(user):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with cores.one_blas_thread():
        if user:
            cores.blas_threads(user)
        child = context.Process(target=number_in_child, args=(queue,))
        child.start()
        assert queue.get(timeout=60) == (user or 2, user or 2)
    child.join(60)


@pytest.mark.slow
@needs_openblas
@pytest.mark.usefixtures("two_blas_threads")
@pytest.mark.parametrize("name", ["resnet50", "ebcnn-bplcz"])
def test_evaluation_beside_training_gives_the_same_bits(name):
    network = systems.build(name, systems.SMALL)
    rng = onp.random.default_rng(0)
    params, state = network.init(rng, "float32")
    x = rng.standard_normal((8, 32, 32, 18)).astype("float32")
    alone = network.apply(params, state, x, train=False)[0]
    stop, beside = threading.Event(), []

    def train():  # what training does to BLAS, many times while the other evaluates
        while not stop.is_set():
            with cores.one_blas_thread():
                onp.ones((64, 64)) @ onp.ones((64, 64))

    other = threading.Thread(target=train)
    other.start()
    for _ in range(5):
        beside.append(network.apply(params, state, x, train=False)[0])
    stop.set()
    other.join()
    assert all((c_hat == alone).all() for c_hat in beside)
    assert cores.blas_threads() == 2


@pytest.mark.parametrize("given", ["\u00b2", "\u0663", "0", "-1", "1.5", "9" * 5000, "1e3"])
def test_a_number_of_threads_that_is_none_is_named(given, monkeypatch):
    monkeypatch.setenv("BPLCZ_THREADS", given)
    with pytest.raises(ValueError, match="environment variable BPLCZ_THREADS is .*expected a whole number"):
        cores.thread_count()
    monkeypatch.setenv("BPLCZ_THREADS", " 02 ")
    assert cores.thread_count() == 2


def in_child(queue):
    queue.put(float(value_and_gradients(nn.concurrently, branch_parameters(2))[0]))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_makes_threads_of_its_own(monkeypatch):
    monkeypatch.setenv("BPLCZ_THREADS", "2")
    expected = float(value_and_gradients(nn.concurrently, branch_parameters(2))[0])
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == expected
    child.join(60)
    assert child.exitcode == 0


def test_second_derivatives_are_an_error():
    x = onp.ones(2)
    slope = lambda a: np.sum(grad(lambda b: np.sum(nn.concurrently([np.sin], [b])[0][0] ** 2))(a))
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        grad(slope)(x)


FAULTS = """
import resource, sys
import numpy as np
from bplcz_ref.kernels import cores
if sys.argv[1] == "kept" and not cores.keep_memory():
    sys.exit("no glibc")
np.ones(12_000_000, np.float32)  # 48 MB: by default glibc gives back at once what is larger than 32
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(12_000_000, np.float32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_kept_memory_is_not_taken_from_the_system_again():
    def faults(how):
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True)
        if done.stderr.strip() == "no glibc":
            pytest.skip("the C library is not glibc")
        return int(done.stdout)

    assert faults("kept") < 0.25 * faults("by default")
