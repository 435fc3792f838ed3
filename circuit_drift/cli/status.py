"""Exit statuses, and how the program ends: in one line, whatever is closed, full or interrupted.

    0    done; ``diff``: no significant difference; ``audit`` and ``verify``: nothing found
    1    ``diff``: they differ; ``audit``: warnings; ``verify``: something is damaged
    2    trouble: nothing was done, or its output could not be written; ``audit``: errors
    3    done in part: some checkpoints or measures failed, each named on standard error
    130  interrupted

Nothing heavy is imported here, so that an interrupt finds this in place from the first moments on.
"""

import errno
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, NoReturn

DONE, DIFFERENT, TROUBLE, PARTLY, INTERRUPTED = 0, 1, 2, 3, 130
AGAIN = 0.01
INTERRUPT = "interrupted; what was computed is stored, and the same command goes on from there"

_said: list[str] = []


def say(message: str) -> None:
    """One line on standard error, if it can be written there."""
    _said.append(message)
    with suppress(OSError, ValueError):
        print(f"circuit-drift: {one_line(message)}", file=sys.stderr, flush=True)  # noqa: T201


def advise(next_step: str) -> None:
    """The last line of a command that went well: what to do next, on standard error."""
    say(f"next: {next_step}")


def one_line(message: str) -> str:
    """A message in one line, with what moves a terminal's cursor or turns its text around written as its escape."""
    text = " ".join(line.strip() for line in message.splitlines())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def leave(status: int) -> None:
    """End a command with a status."""
    if status != DONE:
        raise SystemExit(status)


def leave_partly(lacking: Collection[str], whole: str) -> None:
    """End a command whose output lacks something that was asked for; done where it lacks nothing.

    Args:
        lacking: what is missing, by name.
        whole: what it is missing from.
    """
    if not lacking:
        return
    names = ", ".join(sorted(lacking)[:5]) + (", ..." if len(lacking) > 5 else "")
    say(f"{whole} is incomplete, so the exit status is {PARTLY}: {names}; the reasons are above")
    leave(PARTLY)


def describe_error(error: OSError) -> str:
    """What an error of the operating system says; one without a file's name is of the output."""
    why = error.strerror or str(error)
    if error.filename is not None:
        return f"{why}: {error.filename}"
    return f"the output cannot be written: {why}" if error.errno in (errno.EPIPE, errno.ENOSPC, errno.EBADF) else why


def end(command: Callable[[], object]) -> NoReturn:
    """Run a command, have its output written to the end, and leave the program with its status."""
    _fill_standard_descriptors()
    if sys.stdout is None:
        say("standard output is closed, so there is nowhere to print to")
        sys.exit(TROUBLE)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # where it cannot show a character, it says which
    with _interrupts_noted() as interrupts:
        try:
            status = _written(sys.stdout, _status(command, interrupts))
        except KeyboardInterrupt:
            status = TROUBLE
        if interrupts:
            status = INTERRUPTED
            if INTERRUPT not in _said:
                say(INTERRUPT)
    _written(sys.stderr, status)
    sys.exit(status)


def _status(command: Callable[[], object], interrupts: list[int]) -> int:
    try:
        command()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else DONE if stop.code is None else TROUBLE
    except OSError as error:
        say(describe_error(error))
        return TROUBLE
    except MemoryError:
        say("there is not enough memory; measure a smaller model, or fewer prompts at once")
        return TROUBLE
    except BaseException:
        if not interrupts:  # a defect, which must not end with the status that says that two checkpoints differ
            traceback.print_exc()
        return TROUBLE
    return DONE


def _written(stream: IO[str], status: int) -> int:
    """The status once a stream is written to its end; what cannot be is dropped, or the interpreter would complain."""
    try:
        stream.flush()
    except (OSError, ValueError) as error:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if status not in (TROUBLE, INTERRUPTED):
            say(describe_error(error) if isinstance(error, OSError) else str(error))
            return TROUBLE
    return status


@contextmanager
def _interrupts_noted() -> Iterator[list[int]]:
    """Note interrupts, whatever becomes of the exception that each raises; at the end they are ignored.

    One that comes while a library is imported may end as another exception, and one within a destructor is dropped.
    """
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as nohup and a shell's background jobs want it
        yield noted
        return

    def note(number: int, _frame: Any) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    def again(dropped: "sys.UnraisableHookArgs") -> None:
        if dropped.exc_type is KeyboardInterrupt:
            threading.Timer(AGAIN, os.kill, (os.getpid(), signal.SIGINT)).start()  # once this hook is left
        else:
            sys.__unraisablehook__(dropped)

    signal.signal(signal.SIGINT, note)
    sys.unraisablehook = again
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _fill_standard_descriptors() -> None:
    """Have something behind descriptors 0 to 2, so that no file that is opened later is taken for standard error."""
    with suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(descriptor, True)
        os.close(descriptor)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
