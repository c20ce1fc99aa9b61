"""Threads: the same bits on any number of them, branches whose gradients reach what they should, BLAS, memory."""

import multiprocessing
import platform
import subprocess
import sys
import threading
import traceback
import warnings

import autograd.numpy as anp
import numpy as np
import pytest
from autograd import grad, tracer
from autograd.core import make_vjp
from test_kernels import state_of

from bplcz_ref import model, nn, optim, systems
from bplcz_ref.kernels import products, threads
from bplcz_ref.kernels.threads import blas_threads, each, one_blas_thread, pieces, run, set_blas_threads
from bplcz_ref.storage import weights

needs_openblas = pytest.mark.skipif(blas_threads() == 0, reason="NumPy uses another BLAS here")


@pytest.fixture(params=["1", "2", "3"])
def count(request, monkeypatch):
    monkeypatch.setenv("BPLCZ_THREADS", request.param)


@pytest.fixture
def two_blas_threads():
    before = blas_threads()
    set_blas_threads(2)
    yield
    set_blas_threads(before)


# ------------------------------------------------------------------------------------------- tasks and pieces


@pytest.mark.usefixtures("count")
def test_results_come_in_the_order_of_the_tasks():
    for n in range(6):
        assert run([lambda k=k: k**2 for k in range(n)]) == [k**2 for k in range(n)]
    assert each(lambda part: part.stop - part.start, pieces(10, 3)) == [3, 3, 4]
    assert run([lambda: run([lambda: 1, lambda: 2]), lambda: 3]) == [[1, 2], 3]


@pytest.mark.usefixtures("count")
def test_the_first_error_is_raised_and_no_further_task_begins():
    done = []

    def task(k):
        if k in (2, 3):
            raise KeyError(k)
        done.append(k)

    for _ in range(2):  # and it still works
        with pytest.raises(KeyError, match="2"):
            run([lambda k=k: task(k) for k in range(200)])
        assert len(done) < 300


@pytest.mark.parametrize("given", ["\u00b2", "\u0663", "0", "-1", "1.5", "9" * 5000, "1e3"])
def test_a_number_of_threads_that_is_none_is_named(given, monkeypatch):
    monkeypatch.setenv("BPLCZ_THREADS", given)
    with pytest.raises(ValueError, match="environment variable BPLCZ_THREADS is .*expected a whole number"):
        threads.thread_count()
    monkeypatch.setenv("BPLCZ_THREADS", " 02 ")
    assert threads.thread_count() == 2


@pytest.mark.usefixtures("count")
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 3), (300, 40, 64), (40, 700, 64), (64, 64, 700), (0, 3, 2)])
@pytest.mark.parametrize("piece", [1, 1 << 23])
def test_products_are_products_however_they_are_cut(shape, piece, monkeypatch):
    monkeypatch.setattr(products, "PIECE", piece)
    M, K, N = shape
    rng = np.random.default_rng(0)
    a, b, bias = rng.standard_normal((K, M)).T, rng.standard_normal((K, N)), rng.standard_normal(N)
    first, second = products.products((a, b), (b.T, b))
    np.testing.assert_allclose(first, a @ b, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(second, b.T @ b, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(products.product(a, b, bias), a @ b + bias, rtol=1e-12, atol=1e-12)


def test_a_long_sum_is_cut_and_added_in_order(monkeypatch):
    """Sums added in the order in which threads end would differ."""
    monkeypatch.setattr(products, "PIECE", 1)
    a, b = np.random.default_rng(1).standard_normal((2, 1000, 4)).astype("f")
    parts = [a[k].T @ b[k] for k in pieces(1000, products.LEAST, products.PIECES)]
    assert (products.product(a.T, b) == ((parts[0] + parts[1]) + parts[2]) + parts[3]).all()
    assert (products.product(a.T, b) != ((parts[3] + parts[2]) + parts[1]) + parts[0]).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", list(systems.SYSTEMS))
def test_two_training_steps_and_an_evaluation_have_the_same_bits_on_1_2_and_3_threads(name, monkeypatch):
    network = systems.build(name, systems.SMALL)
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((5, 32, 32, 18)).astype("f"), rng.integers(0, 17, 5)

    def bits(count):
        monkeypatch.setenv("BPLCZ_THREADS", count)
        params, state = network.init(np.random.default_rng(0), "float32")
        velocity = None
        for k in range(2):
            rng = np.random.default_rng(k)
            _, gradients, trace = model.loss_and_gradients(network.loss, params, state, (x, y), rng=rng)
            state = trace["state"]
            params, velocity = optim.sgd(
                params, velocity, gradients, learning_rate=0.01, momentum=0.9, weight_decay=0.002, in_place=True
            )
        c_hat = network.apply(params, state, x, train=False)[0]
        return [a.tobytes() for a in (*weights.named(params).values(), *weights.named(state).values(), c_hat)]

    one = bits("1")
    assert bits("2") == one
    assert bits("3") == one


# ---------------------------------------------------------------------------------------------------- branches


def branch(p):
    h = nn.conv2d(p["x"], p["conv"]["weight"], padding=1)
    h = nn.relu(nn.batch_norm(h, *p["bn"], state_of(8), train=True)[0])
    return nn.spatial_mean(nn.max_pool2d(h, 2)), {"seen": [p["conv"]["weight"], "label"], "h": h}


def branch_parameters(n=7):
    r = np.random.default_rng(4)
    return {
        f"b{k}": {
            "x": r.standard_normal((4, 8, 8, 3)),
            "conv": {"weight": r.standard_normal((8, 3, 3, 3)), "unused": np.ones(3)},
            "bn": (r.standard_normal(8), r.standard_normal(8)),
        }
        for k in range(n)
    }


def value_and_gradients(concurrently, params):
    def f(p):
        ys, f.aux = concurrently([branch] * len(params), [p[k] for k in params])
        return sum(anp.sum(anp.sin(y)) for y in ys)

    vjp, y = make_vjp(f, params)
    return y, vjp(1.0), f.aux


@pytest.mark.parametrize("number", ["1", "2", "5"])
def test_branches_have_the_bits_of_one_after_the_other(number, monkeypatch):
    params = branch_parameters()
    right = value_and_gradients(nn.concurrently.definition, params)
    monkeypatch.setenv("BPLCZ_THREADS", number)
    for _ in range(3):
        np.testing.assert_equal(value_and_gradients(nn.concurrently, params), right)


def test_a_gradient_reaches_only_its_own_branch_and_shared_values_add_up():
    x = np.array([2.0, 3.0])
    functions = [lambda p: p["a"] * p["s"], lambda p: p["a"] ** 2 * p["s"]]

    def f(a, b, s):
        (y, z), aux = nn.concurrently(functions, [{"a": a, "s": s}, {"a": b, "s": s}])
        assert aux == [None, None]
        return anp.sum(y) + 10 * anp.sum(z)

    assert grad(f, 0)(x, x, x).tolist() == [2.0, 3.0]
    assert grad(f, 1)(x, x, x).tolist() == [80.0, 180.0]
    assert grad(f, 2)(x, x, x).tolist() == [42.0, 93.0]

    def tuples(s):
        return anp.sum(nn.concurrently([lambda p: p[0]["w"] * p[1]], [({"w": x}, s)])[0][0])

    assert grad(tuples)(x).tolist() == [2.0, 3.0]


def test_a_branch_without_gradient_an_unused_one_and_nested_ones():
    x = np.ones(2)
    (y, z), _ = nn.concurrently([lambda p: p * 2, lambda p: p + 1], [x, x])
    assert (y.tolist(), z.tolist()) == ([2.0, 2.0], [2.0, 2.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a frozen branch is no reason for a warning

        def f(p):
            return anp.sum(nn.concurrently([lambda p: p * 2, lambda p: x], [p, p])[0][0])

        assert grad(f)(x).tolist() == [2.0, 2.0]

    def outer(p):
        ys, _ = nn.concurrently([lambda p: p**3, lambda p: p**3], [p, 2 * p])
        return ys[0] + ys[1]

    nested = lambda p: anp.sum(nn.concurrently([outer, outer, outer], [p, p, p])[0][1])
    assert grad(nested)(np.array([1.0, 2.0])).tolist() == [27.0, 108.0]


def test_what_branches_cannot_do_is_said():
    x = np.ones(2)
    for tree in (lambda s: x, lambda s: s):
        with pytest.raises(ValueError, match="not in its parameters"):
            grad(lambda s, t=tree: anp.sum(nn.concurrently([lambda p: p * s], [t(s)])[0][0]))(x)
    with pytest.raises(ValueError, match="2 functions and 1 trees"):
        nn.concurrently([branch, branch], [x])
    slope = lambda a: anp.sum(grad(lambda b: anp.sum(nn.concurrently([anp.sin], [b])[0][0] ** 2))(a))
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        grad(slope)(x)


def failing_branch(p):
    raise KeyError("what went wrong")


@pytest.mark.usefixtures("count")
def test_an_exception_comes_with_its_own_traceback():
    before = blas_threads()
    for tree in (np.ones(2), branch_parameters(1)["b0"]):
        with pytest.raises(KeyError, match="what went wrong") as info:
            grad(lambda p, t=tree: anp.sum(nn.concurrently([anp.sum, failing_branch, anp.sum], [p, t, p])[0][0]))(
                np.ones(2)
            )
        assert "failing_branch" in "".join(traceback.format_tb(info.value.__traceback__))
    assert blas_threads() == before
    assert value_and_gradients(nn.concurrently, branch_parameters(2))[0]  # and the pool still works


@pytest.mark.slow
def test_traces_opened_at_once_in_many_threads_stay_apart(monkeypatch):
    """A gradient inside a branch: its trace must lie above the branch's, whatever other threads open and close."""
    monkeypatch.setenv("BPLCZ_THREADS", "8")
    x = np.array([1.0, 2.0])

    def slope_of_slopes(p):
        y = p
        for _ in range(20):
            y = y + grad(lambda q: anp.sum(q**2 * 0.5))(p)  # y = p + 20 p
        return y

    def f(p):
        return sum(anp.sum(y) for y in nn.concurrently([slope_of_slopes] * 16, [p] * 16)[0])

    for _ in range(3):
        assert grad(f)(x).tolist() == [16 * 21.0] * 2


def test_autograd_itself_is_unharmed():
    """Nested gradients see what they should, and after an exception the count of traces goes back."""
    assert grad(lambda x: x * grad(lambda y: x * y * y)(x))(3.0) == 54.0  # x * 2 x x, by x: 6 x^2
    assert grad(grad(anp.sin))(0.5) == -np.sin(0.5)
    with pytest.raises(ZeroDivisionError):
        grad(lambda x: x * (1 // 0))(1.0)
    with tracer.trace_stack.new_trace() as outer, tracer.trace_stack.new_trace() as inner:
        assert (outer, inner) == (0, 1)


# ------------------------------------------------------------------------------------------------------- BLAS


def test_the_settings_of_the_caller_hold_in_the_threads(monkeypatch):
    monkeypatch.setenv("BPLCZ_THREADS", "3")
    before = blas_threads()
    inside = run([blas_threads] * 3) + run([blas_threads])
    assert inside == [1] * 4 or before == 0
    assert blas_threads() == before
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        nn.concurrently([lambda p: np.ones(1) / np.zeros(1)] * 6, [0] * 6)


@needs_openblas
@pytest.mark.usefixtures("two_blas_threads")
def test_a_number_of_blas_threads_that_the_user_sets_meanwhile_is_kept():
    with one_blas_thread():
        assert blas_threads() == 1
        set_blas_threads(3)  # a user's callback
    assert blas_threads() == 3
    set_blas_threads(1)
    with one_blas_thread():
        pass
    assert blas_threads() == 1


@needs_openblas
@pytest.mark.usefixtures("two_blas_threads")
@pytest.mark.parametrize("number", [2, 3])  # what it is before; what the user sets beside running work
def test_contexts_that_overlap_in_threads_set_the_users_number_back_once(number):
    inside, leave = threading.Event(), threading.Event()

    def work():
        with one_blas_thread():
            inside.set()
            leave.wait(60)

    other = threading.Thread(target=work)
    other.start()
    inside.wait(60)
    if number == 3:
        set_blas_threads(3)
    with one_blas_thread():
        assert blas_threads() == 1
    assert blas_threads() == 1
    leave.set()
    other.join()
    assert blas_threads() == number


def in_child(queue):
    before = blas_threads()
    with one_blas_thread():
        y = float(value_and_gradients(nn.concurrently, branch_parameters(2))[0])
    queue.put((y, before, blas_threads()))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.usefixtures("two_blas_threads")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own_and_the_users_number(monkeypatch):
    monkeypatch.setenv("BPLCZ_THREADS", "2")
    expected = float(value_and_gradients(nn.concurrently, branch_parameters(2))[0])
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with one_blas_thread():
        child = context.Process(target=in_child, args=(queue,))
        child.start()
        number = 2 if blas_threads() else 0
        assert queue.get(timeout=60) == (expected, number, number)
    child.join(60)
    assert child.exitcode == 0


FAULTS = """
import resource, sys
import numpy as np
from bplcz_ref.kernels import threads
if sys.argv[1] == "kept":
    threads.keep_memory()
np.ones(12_000_000, np.float32)  # 48 MB: by default glibc gives back at once what is larger than 32
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(12_000_000, np.float32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps memory")
def test_kept_memory_is_not_taken_from_the_system_again():
    kept, default = (int(subprocess.check_output([sys.executable, "-c", FAULTS, how])) for how in ("kept", "not"))
    assert kept < 0.25 * default
