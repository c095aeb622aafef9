"""Stop a training between two steps, on Ctrl-C or when a scheduler asks for it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: Signals that ask for a stop: Ctrl-C, the end of a job, a scheduler's warning before that.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


#: Signals of `SIGNALS` that this process received while one of the handlers below stood.
received: list[signal.Signals] = []


class TrainingInterrupted(Exception):
    """Training stopped between two steps; its state is saved."""


class StopRequest:
    """Whether somebody asked to stop; a second Ctrl-C raises KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(signum))
        if self.asked and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True


def stop_at_once(signum: int, frame: FrameType | None) -> None:
    """Handle a signal outside the steps of a training: whatever is done there can be repeated.

    Raises:
        KeyboardInterrupt: which, unlike other errors, nobody on the way takes for his own.
    """
    received.append(signal.Signals(signum))
    raise KeyboardInterrupt(f"stopped by {received[-1].name}")


def stop_at_first(signum: int, frame: FrameType | None) -> None:
    """Do so at the first signal of this process alone.

    A rank may be asked twice, by the terminal and by the process that started it, the second time
    when it has saved already.
    """
    if not received:
        stop_at_once(signum, frame)


@contextmanager
def stop_on_signal(signals: tuple[signal.Signals, ...] = SIGNALS) -> Iterator[StopRequest]:
    """Turn signals into a `StopRequest` while training runs, and restore the handlers afterwards.

    A handler that somebody else installed, as submitit does in its jobs, is left alone. Outside the
    main thread, where Python allows no handlers, the request is never set.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    ours = (signal.SIG_DFL, signal.default_int_handler, stop_at_once, stop_at_first)
    before = {
        number: signal.signal(number, request)
        for number in signals
        if signal.getsignal(number) in ours
    }
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
