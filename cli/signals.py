"""Signals that end a command as Ctrl-C does: what is done is kept, and nothing is left behind."""

from __future__ import annotations

import signal
import threading
from types import FrameType


def end_like_ctrl_c() -> None:
    """From now on SIGTERM and SIGHUP (a closed terminal; not under nohup) raise KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
