"""The pytest plugin: the fixture `slm_cassette` and the option ``--slm-record``. pytest finds it by its entry point."""

from __future__ import annotations

import re
import warnings
from collections.abc import Generator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from slmclient.testing.cassette import Cassette

_FAILED = pytest.StashKey[bool]()
_LONGEST_NAME = 100  # characters; some file systems take 143


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--slm-record``."""
    parser.getgroup("slmclient").addoption(
        "--slm-record",
        choices=("none", "once", "all"),
        default="none",
        help="what tests with slm_cassette do: none replays (the default), once records the cassettes that are not "
        "there, all records every cassette anew",
    )


def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    """Remember that a test failed: of such a one no cassette is kept."""
    node.stash[_FAILED] = True


@pytest.fixture
def slm_secrets() -> Sequence[str]:
    """Return what is cut out of cassettes besides keys; a conftest.py may have its own."""
    return ()


@pytest.fixture
def slm_cassette(request: pytest.FixtureRequest, slm_secrets: Sequence[str]) -> Generator[Cassette, None, None]:
    """Answer what the test asks from its cassette, ``cassettes/<file>/<test>.json`` beside the test's file.

    It holds for every client that is made after it. With ``--slm-record`` the answers are real, and recorded; those of
    a test that fails are not kept.
    """
    from slmclient.testing import cassette, recorder  # only for tests that want it: every run of pytest loads this file

    path, mode = _path(request), request.config.getoption("--slm-record")
    if mode == "all" or (mode == "once" and not path.exists()):
        taken = cassette.Cassette(path)
        with recorder.written(taken, slm_secrets):
            yield taken
        if _FAILED not in request.node.stash:
            if not taken.calls:
                warnings.warn(
                    f"{path.name}: nothing was recorded. A client made before the test, a global one, is not.",
                    stacklevel=1,
                )
            taken.save()
    elif path.exists():
        taken = cassette.Cassette.load(path)
        with recorder.answered(taken):
            yield taken
        if _FAILED not in request.node.stash:
            taken.check()
    else:
        pytest.fail(
            f"There is no cassette {path}. Record it: set up the provider and its key, and run pytest once with "
            "--slm-record=once.",
            pytrace=False,
        )


def _path(request: pytest.FixtureRequest) -> Path:
    parts = request.node.nodeid.partition("::")[2].split("::") or [request.node.name]
    name = re.sub(r"[^\w.-]+", "-", ".".join(parts)).strip("-")
    if len(name) > _LONGEST_NAME or name != ".".join(parts):  # two names must not become one
        name = f"{name[:_LONGEST_NAME]}-{sha256('.'.join(parts).encode()).hexdigest()[:8]}"
    return request.path.parent / "cassettes" / request.path.stem / f"{name}.json"
