"""Shared by all tests: one thread, no network, no hub, a cache of their own."""

import gc
import os
import signal
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

settings.register_profile("no deadlines", deadline=None)  # a busy machine is no counterexample
settings.load_profile("no deadlines")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported stays: no search for garbage looks through it again, half a second each time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def interrupts_arrive() -> None:
    """A job in the background may ignore or block interrupts, and the programs that a test starts would inherit it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hashes that tests remember, those of the programs they start too, go where the user's do not lie."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIRCUIT_DRIFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
