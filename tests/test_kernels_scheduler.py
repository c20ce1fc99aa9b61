"""The scheduler: who helps whom, errors, the same bits on any number of threads; and the products that it cuts."""

import threading
import time

import numpy as np
import pytest

from bplcz_ref import model, optim, systems, weights
from bplcz_ref.kernels import cores, products, scheduler
from bplcz_ref.kernels.scheduler import each, pieces, run


@pytest.fixture(params=["1", "2", "3"])
def threads(request, monkeypatch):
    monkeypatch.setenv("BPLCZ_THREADS", request.param)
    return int(request.param)


def test_results_come_in_the_order_of_the_tasks(threads):
    order = [4, 3, 2, 1, 0]
    assert run([lambda k=k: k**2 for k in range(5)], order) == [0, 1, 4, 9, 16]
    assert run([]) == []
    assert each(lambda part: part.stop - part.start, pieces(10, 3)) == [3, 3, 4]


@pytest.mark.parametrize("n", [0, 1, 7, 8, 1000])
@pytest.mark.parametrize("least", [0, 1, 3, 1001])
def test_pieces_are_the_whole_range_and_none_is_small(n, least):
    parts = pieces(n, least, 8)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(n))
    assert 1 <= len(parts) <= 8
    assert len(parts) == 1 or min(part.stop - part.start for part in parts) >= least


def test_a_nested_call_is_helped_by_an_idle_thread(monkeypatch):
    """The first branch is over at once; its thread must then meet the other inside the second's nested call."""
    monkeypatch.setenv("BPLCZ_THREADS", "2")
    meet = threading.Barrier(2)
    inner = lambda: meet.wait(30) is not None
    assert run([lambda: 0, lambda: run([inner, inner])])[1] == [True, True]


def test_no_thread_begins_a_second_branch_inside_a_branch(monkeypatch):
    monkeypatch.setenv("BPLCZ_THREADS", "3")
    inside, twice = threading.local(), []

    def branch():
        if getattr(inside, "branch", False):
            twice.append(True)
        inside.branch = True
        for _ in range(20):
            run([lambda: time.sleep(1e-4)] * 4)
        inside.branch = False

    run([branch] * 9)
    assert not twice


def test_helpers_keep_to_a_number_that_was_lowered(monkeypatch):
    monkeypatch.setenv("BPLCZ_THREADS", "4")
    run([lambda: time.sleep(1e-3)] * 8)
    monkeypatch.setenv("BPLCZ_THREADS", "2")
    now, most, lock = [0], [0], threading.Lock()

    def task():
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(1e-3)
        with lock:
            now[0] -= 1

    run([task] * 20)
    assert most[0] == 2


def test_the_first_error_is_raised_and_no_further_task_begins(threads):
    done = []

    def task(k):
        if k in (2, 3):
            raise KeyError(k)
        done.append(k)

    with pytest.raises(KeyError, match="2"):
        run([lambda k=k: task(k) for k in range(200)])
    assert len(done) < 150
    assert run([lambda: run([lambda: 1, lambda: 2]), lambda: 3]) == [[1, 2], 3]  # and it still works


def test_two_users_at_once(threads):
    """Calls from threads of the user's, side by side: each gets its own results."""
    results = {}

    def user(n):
        results[n] = [run([lambda k=k: (n, k) for k in range(30)]) for _ in range(20)]

    users = [threading.Thread(target=user, args=(n,)) for n in range(3)]
    for u in users:
        u.start()
    for u in users:
        u.join(60)
    assert all(results[n] == [[(n, k) for k in range(30)]] * 20 for n in range(3))


def test_tasks_run_with_one_blas_thread(threads):
    if cores.blas_threads() == 0:
        pytest.skip("NumPy uses another BLAS here")
    before = cores.blas_threads()
    cores.blas_threads(2)
    try:
        assert run([cores.blas_threads] * 3) == [1, 1, 1]
        assert run([cores.blas_threads]) == [1]
        assert cores.blas_threads() == 2
    finally:
        cores.blas_threads(before)


# ---------------------------------------------------------------------------------------------------- products


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 3), (300, 40, 64), (40, 700, 64), (64, 64, 700), (0, 3, 2)])
@pytest.mark.parametrize("piece", [1, 1 << 23])
def test_products_are_products_however_they_are_cut(shape, piece, threads, monkeypatch):
    monkeypatch.setattr(products, "PIECE", piece)
    M, K, N = shape
    rng = np.random.default_rng(0)
    a, b, bias = rng.standard_normal((K, M)).T, rng.standard_normal((K, N)), rng.standard_normal(N)
    first, second = products.products((a, b, bias), (b.T, b, None))
    np.testing.assert_allclose(first, a @ b + bias, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(second, b.T @ b, rtol=1e-12, atol=1e-12)
    assert (products.product(a, b, bias) == products.product(a, b, bias)).all()


def test_a_long_sum_is_cut_and_added_in_order(monkeypatch):
    monkeypatch.setattr(products, "PIECE", 1)
    a, b = np.random.default_rng(1).standard_normal((2, 1000, 4)).astype("f")
    parts = [a[k].T @ b[k] for k in pieces(1000, products.LEAST, products.PIECES)]
    assert len(parts) == 4
    assert (products.product(a.T, b) == ((parts[0] + parts[1]) + parts[2]) + parts[3]).all()


@pytest.mark.parametrize("width", [1, 255, 256, 257, 1024])
def test_strips_are_one_product(width):
    rng = np.random.default_rng(2)
    a, x = rng.standard_normal((36, 16)), rng.standard_normal((16, width))
    np.testing.assert_allclose(products.narrow(a, x, np.empty((36, width))), a @ x, rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------------------------------------- whole steps


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


def test_the_wrong_scheduler_is_seen(monkeypatch):
    """Sums added in the order in which threads end would differ: what the bits above are there to notice."""
    parts = np.random.default_rng(0).standard_normal((8, 50)).astype("f")
    forward, back = parts[0].copy(), parts[-1].copy()
    for k in range(1, 8):
        forward += parts[k]
        back += parts[-1 - k]
    assert (forward != back).any()
    assert scheduler.NUMBERS >= 65_536  # below, a second thread costs more than it gives
