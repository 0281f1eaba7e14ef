"""Blocks on threads: whole, in order, alone, and nothing left of them."""

import os
import signal
import subprocess
import sys
import threading
import time
import weakref

import pytest
import torch

from parfocal.numerics.cpu import threads
from parfocal.numerics.cpu.threads import runs

SOME = list(range(40))


def in_parallel(work, pieces):
    """Of so many elements that they are shared."""
    return threads.in_parallel(work, pieces, 2**23)


@pytest.fixture(autouse=True, params=["of OpenMP", "new"])
def two_threads(request, monkeypatch):
    """As many as the smallest machine can have that shares anything, of either sort."""
    if request.param == "new":
        monkeypatch.setattr(threads, "_process", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def settings():
    return torch.get_num_threads(), torch.get_num_interop_threads(), torch.is_grad_enabled()


def in_thread(function):
    """What the function returns in a new thread."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


@pytest.mark.parametrize("count", [1, 2**16, 2**17 - 1, 2**17, 2**18 + 1, 2**20 + 7, 2**24 + 65])
@pytest.mark.parametrize("width", [1, 21, 32000])
def test_runs_cover_all_once(count, width):
    count = max(1, count // width)
    blocks = runs(count, width, 2**17)
    assert [place for block in blocks for place in (block.start, block.stop)] == [
        0,
        *(stop for block in blocks[:-1] for stop in (block.stop, block.stop)),
        count,
    ]
    assert all(block.stop > block.start for block in blocks)
    if width == 1:
        assert all(block.start % 64 == 0 for block in blocks)
        most = 2**17 if count >= 2**20 else 2 * 2**17  # of two threads
        assert all(block.stop - block.start <= most for block in blocks)


def test_shared_blocks_are_those_of_any_number_of_threads():
    at_two = runs(2**23, 1, 2**17)
    for count in (1, 4, 16):
        torch.set_num_threads(count)
        assert runs(2**23, 1, 2**17) == at_two


def test_few_blocks_are_left_to_the_threads_of_torch():
    """They would wait for the interpreter more than they compute."""
    blocks = runs(2**19, 1, 2**17)
    before = torch.get_num_threads()

    def who(block):
        return threading.get_ident(), torch.get_num_threads()

    found = threads.in_parallel(who, blocks, 2**19)
    assert found == [(threading.get_ident(), before)] * len(blocks)


def test_results_are_in_the_order_of_the_pieces():
    def work(piece):
        time.sleep(0.002 * (piece % 3))  # the threads overtake each other
        return piece

    assert in_parallel(work, SOME) == SOME


def test_the_pieces_are_shared():
    met = threading.Barrier(2)

    def work(piece):
        if piece < 2:
            met.wait(600)  # two threads, or this ends in an error
        return threading.get_ident()

    assert len(set(in_parallel(work, SOME))) == 2


def test_none_ends_the_work():
    begun = []

    def work(piece):
        begun.append(piece)
        return None if piece == 3 else piece

    assert in_parallel(work, list(range(100_000))) is None
    assert len(begun) < 100_000
    assert in_parallel(lambda piece: None, [0]) is None


@pytest.mark.parametrize("failing", [0, 1, 39])
def test_an_error_is_raised_once_in_the_caller(failing):
    def work(piece):
        if piece == failing:
            raise ZeroDivisionError(piece)
        return piece

    before = settings()
    with pytest.raises(ZeroDivisionError, match=f"^{failing}$"):
        in_parallel(work, SOME)
    assert settings() == before


def test_an_error_of_a_helper_is_raised_in_the_caller():
    caller, failed = threading.get_ident(), threading.Event()

    def work(piece):
        if threading.get_ident() != caller:
            failed.set()
            raise ZeroDivisionError
        assert failed.wait(600)
        return piece

    with pytest.raises(ZeroDivisionError):
        in_parallel(work, SOME)


def test_nothing_runs_afterwards():
    """Also where the caller fails while a helper is in the middle of a piece."""
    caller, begun, ended = threading.get_ident(), threading.Event(), []

    def work(piece):
        if threading.get_ident() == caller:
            assert begun.wait(600)
            raise ZeroDivisionError
        begun.set()
        time.sleep(0.2)
        ended.append(piece)
        return piece

    with pytest.raises(ZeroDivisionError):
        in_parallel(work, SOME)
    assert len(ended) == 1
    time.sleep(0.3)
    assert len(ended) == 1


def test_an_interrupt_waits_for_the_helpers():
    caller, begun, ended = threading.get_ident(), threading.Event(), []

    def work(piece):
        if threading.get_ident() == caller:
            assert begun.wait(600)
            while True:
                time.sleep(0.001)
        begun.set()
        signal.raise_signal(signal.SIGINT)  # for the main thread, which is the caller
        time.sleep(0.2)
        ended.append(piece)
        return piece

    before = settings()
    with pytest.raises(KeyboardInterrupt):
        in_parallel(work, SOME)
    assert len(ended) == 1
    assert settings() == before


def test_an_interrupt_that_comes_before_the_work(monkeypatch):
    """Helpers drop what hasn't begun, and the region is left."""
    caller, join, ended = threading.get_ident(), threads._join, []

    def interrupted(job):
        if threading.get_ident() == caller:
            raise KeyboardInterrupt
        join(job)

    def work(piece):
        time.sleep(0.05)
        ended.append(piece)
        return piece

    before = settings()
    monkeypatch.setattr(threads, "_join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        in_parallel(work, SOME)
    assert len(ended) <= 2
    assert settings() == before


def test_what_was_worked_on_is_let_go():
    """A thread that ends a little later holds no tensor: autograd would copy a gradient."""
    for _ in range(50):
        tensor = torch.zeros(3)
        gone = weakref.ref(tensor)
        in_parallel(lambda piece, tensor=tensor: float(tensor[0]), SOME)
        del tensor
        assert gone() is None


def test_a_piece_is_computed_by_one_thread():
    """Without gradients or autocast, and with all of torch's functions of long vectors."""
    x = torch.rand(2**22, dtype=torch.float64)

    def work(piece):
        modes = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
        return torch.get_num_threads(), torch.get_num_interop_threads() > 0, modes

    with torch.autocast("cpu"):
        assert set(in_parallel(work, SOME)) == {(1, True, (False, False))}

    def alone(piece):
        own, all_threads = time.thread_time(), time.process_time()
        for function in (torch.exp, torch.sqrt, torch.log, torch.log1p):
            function(x)
        return (time.process_time() - all_threads) / (time.thread_time() - own)

    job = threads._Job(alone, [0, 1, 2], is_inference=False)
    in_thread(lambda: threads._run_alone(job))
    assert max(job.parts) < 1.5


def test_settings_are_left_as_they_were():
    before, before_elsewhere = settings(), in_thread(settings)
    in_parallel(lambda piece: piece, SOME)
    assert settings() == before
    assert in_thread(settings) == before_elsewhere


def test_a_nested_call_uses_no_further_threads():
    def work(piece):
        return set(in_parallel(lambda _: threading.get_ident(), SOME)) == {threading.get_ident()}

    assert all(in_parallel(work, SOME))


@pytest.mark.parametrize("pieces", [1, 40])
def test_one_thread_is_the_calling_one(pieces):
    torch.set_num_threads(1)
    assert set(in_parallel(lambda _: threading.get_ident(), SOME[:pieces])) == {
        threading.get_ident()
    }


def test_inference_tensors_may_be_written_to():
    with torch.inference_mode():
        out = torch.zeros(len(SOME))
        in_parallel(lambda piece: out[piece].fill_(piece), SOME)
    assert out.tolist() == SOME


def test_where_no_thread_can_be_started_the_caller_does_it(monkeypatch):
    def refuse(*arguments):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "_process", 0)
    monkeypatch.setattr(threads._thread, "start_new_thread", refuse)
    assert in_parallel(lambda _: threading.get_ident(), SOME) == [threading.get_ident()] * 40


def test_unknown_libraries(monkeypatch):
    """Where OpenMP can't be set, blocks are too small to be divided."""
    monkeypatch.setattr(threads, "_library", lambda: threads._Library(False, int, int, None, int))
    blocks = runs(2**23, 1, 2**17)
    assert all(block.stop - block.start < 2**15 for block in blocks)
    before = settings()
    assert in_parallel(lambda block: block, blocks) == blocks
    assert settings() == before


def loss_and_gradient(x):
    """What eight threads are to find alike."""
    out = torch.empty_like(x)

    def work(block):
        part = x[block].double().exp_()
        out[block] = part.float()
        return part.sum().item()

    return sum(in_parallel(work, runs(len(x), 1, 2**15))), out


def test_threads_of_the_user_find_the_same_to_the_bit():
    x = torch.randn(2**19 + 5)
    total, gradient = loss_and_gradient(x)
    results = []

    def user():
        results.extend(loss_and_gradient(x) for _ in range(5))

    users = [threading.Thread(target=user) for _ in range(8)]
    for thread in users:
        thread.start()
    for thread in users:
        thread.join()
    assert len(results) == 40
    assert all(found == total and torch.equal(out, gradient) for found, out in results)


# In a process of its own, in which no other library has threads.
FORK = """
import os, signal, threading
import torch
from parfocal.numerics.cpu.threads import in_parallel, runs

def loss_and_gradient(x):
    out = torch.empty_like(x)
    def work(block):
        part = x[block].double().exp_()
        out[block] = part.float()
        return part.sum().item()
    return sum(in_parallel(work, runs(len(x), 1, 2**15), 2**21)), out.tolist()

torch.set_num_threads(2)
x = torch.randn(2**19)
expected = loss_and_gradient(x)
child = os.fork()
if child == 0:
    signal.alarm(300)  # ends a hang
    same = loss_and_gradient(x) == expected
    met = threading.Barrier(2)
    # There are threads again.
    in_parallel(lambda piece: met.wait(60) if piece < 2 else 0, list(range(16)), 2**21)
    os._exit(0 if same else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_of_a_process_that_has_used_it():
    child = subprocess.run(
        [sys.executable, "-c", FORK], capture_output=True, text=True, timeout=600, check=True
    )
    assert child.stdout == "0\n"


AT_EXIT = """
import atexit, sys, threading
import torch
from parfocal.numerics.cpu.threads import in_parallel

def add():
    return sum(in_parallel(lambda piece: piece, list(range(20)), 2**23))

def forever():
    while True:
        add()

torch.set_num_threads(2)
atexit.register(lambda: print(add(), flush=True))
threading.Thread(target=forever, daemon=True).start() if "daemon" in sys.argv else None
"""


@pytest.mark.parametrize("how", ["alone", "daemon"])
def test_at_the_exit_of_the_interpreter(how):
    child = subprocess.run(
        [sys.executable, "-c", AT_EXIT, how],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert child.stdout == "190\n"
    assert "Traceback" not in child.stderr
    # Before Python 3.14 a daemon's thread that is cut off within torch ends in an abort, as
    # torch's own functions do; it must end.
    assert child.returncode == 0 or (how == "daemon" and child.returncode == -signal.SIGABRT)
