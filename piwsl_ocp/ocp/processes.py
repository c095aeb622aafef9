"""Data-parallel processes on this machine: started, watched, and asked to stop as one."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch
from fairchem.core.common.distutils import get_free_port

from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.interruption import (
    SIGNALS,
    StopRequest,
    TrainingInterrupted,
    stop_at_first,
    stop_on_signal,
)

#: Seconds between two looks at the processes.
POLL_SECONDS = 0.2
#: Seconds that the others have to end by themselves after one has failed.
GRACE_SECONDS = 5.0
#: Characters of the traceback of an error that nobody foresaw.
TRACEBACK_LENGTH = 8000


def run_ranks(run: Callable[[Any], None], argument: Any, count: int) -> None:
    """Call a function in several new processes that are the ranks of one process group.

    A signal to this process reaches every rank, once, whether the terminal sent it to the ranks,
    too, or not. When a rank fails, the others are ended.

    Args:
        run: a function of a module, called with the variables of torch's launchers set.
        argument: what it is given.
        count: number of processes.

    Raises:
        UserError: as the first rank that failed, or if a rank was killed.
        TrainingInterrupted: if the ranks have saved and stopped.
        RuntimeError: for any other error of a rank; holds its traceback.
        KeyboardInterrupt: if the signal came before the first step, or a second time.
    """
    outcomes = torch.multiprocessing.get_context("spawn").SimpleQueue()
    arguments = (run, argument, count, get_free_port(), outcomes)
    with stop_on_signal() as request:
        with _signals_held_back():
            started = torch.multiprocessing.start_processes(
                _one_rank, arguments, nprocs=count, join=False, start_method="spawn"
            )
        try:
            failures = _wait(started.processes, outcomes, request)
        finally:
            for process in started.processes:
                process.kill()
                process.join()
    for failure in sorted(failures, key=lambda error: isinstance(error, TrainingInterrupted)):
        raise failure


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Let signals wait; a process started meanwhile holds them back until it is ready for them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _one_rank(
    rank: int,
    run: Callable[[Any], None],
    argument: Any,
    count: int,
    port: int,
    outcomes: SimpleQueue,
) -> None:
    """Run one rank, and tell the first process how it failed."""
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port), WORLD_SIZE=str(count))
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    try:
        for number in SIGNALS:
            signal.signal(number, stop_at_first)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        run(argument)
    except (UserError, TrainingInterrupted) as error:
        outcomes.put(error)
    except KeyboardInterrupt:
        outcomes.put(KeyboardInterrupt())
    except Exception:
        text = traceback.format_exc()[-TRACEBACK_LENGTH:]
        outcomes.put(RuntimeError(f"rank {rank} of {count} failed:\n{text}"))


def _wait(
    processes: Sequence[BaseProcess], outcomes: SimpleQueue, request: StopRequest
) -> list[BaseException]:
    """Wait until all ranks have ended, or one has failed; return what they told, in that order."""
    failures: list[BaseException] = []
    is_told = False
    while any(process.exitcode is None for process in processes):
        _wait_for_an_end(processes, POLL_SECONDS)
        if request.asked and not is_told:
            is_told = True
            for process in processes:
                process.terminate()
        failures += _told(outcomes)
        killed = [process.exitcode for process in processes if process.exitcode]
        if killed or any(not isinstance(error, TrainingInterrupted) for error in failures):
            for process in processes:
                process.join(GRACE_SECONDS)
            break
    failures += _told(outcomes)
    codes = [process.exitcode for process in processes if process.exitcode]
    return failures or [_killed(code) for code in codes]


def _wait_for_an_end(processes: Sequence[BaseProcess], seconds: float) -> None:
    running = [process.sentinel for process in processes if process.exitcode is None]
    connection.wait(running, timeout=seconds)


def _told(outcomes: SimpleQueue) -> list[BaseException]:
    failures = []
    while not outcomes.empty():
        failures.append(outcomes.get())
    return failures


def _killed(code: int) -> UserError:
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return UserError(
        f"one of the processes of the training ended with {name}, perhaps for want of memory: "
        "go on with `piwsl resume`, with fewer processes or a smaller optim.batch_size"
    )
