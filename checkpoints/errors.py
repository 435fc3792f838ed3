"""Every exception this distribution raises on purpose, one tree.

DriftError
├── NotACheckpoint          a path or name that holds no checkpoint
├── CorruptWeights          weights that are missing, truncated, unreadable or not finite
├── CheckpointMismatch      two checkpoints or results that cannot be compared
├── UnsupportedArchitecture a model that a method cannot treat correctly
├── BadPrompt               prompts, needles or facts that cannot be scored
└── StoreError              a result that cannot be read or written
    └── DamagedResult       one that is gone, or not what was written; computing it anew mends it

Each message names the object, the value seen, and what to do next.
"""

from collections.abc import Collection, Iterable


class DriftError(Exception):
    """Root of everything a caller may want to catch; the command line turns it into exit status 2."""


class NotACheckpoint(DriftError):
    """A path, step or series name that holds no checkpoint."""


class CorruptWeights(DriftError):
    """Weights that are missing, empty, truncated, unreadable or not finite."""


class CheckpointMismatch(DriftError):
    """Two checkpoints or results whose shapes, tokenizers or prompts differ: no diff would mean anything."""


class UnsupportedArchitecture(DriftError):
    """A model that a method cannot treat correctly."""


class BadPrompt(DriftError):
    """Prompts, needles or facts that cannot be scored as given."""


def is_failure(error: BaseException) -> bool:
    """Whether something failed, rather than that the program is to end: a panic of a Rust library is no `Exception`."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


class StoreError(DriftError):
    """A result that cannot be read or written."""


class DamagedResult(StoreError):
    """A result that is gone, or not what was written; computing it anew mends it."""


def require_choice(what: str, value: object, known: Collection[str], *, error: type[DriftError] = BadPrompt) -> None:
    """Refuse a value that is none of those an option can take.

    Args:
        what: the option, as its user calls it.
        value: what was given.
        known: what can be given.
        error: the exception to raise.

    Raises:
        BadPrompt: (or ``error``) names the option, the value and every choice.
    """
    require_choices(what, (value,), known, error=error)


def require_choices(
    what: str, values: Iterable[object], known: Collection[str], *, error: type[DriftError] = BadPrompt
) -> None:
    """Refuse values of which one is none of those an option can take; see `require_choice`."""
    for value in values:
        if value not in known:
            raise error(f"unknown {what} {value!r}; choose from {', '.join(known)}")
