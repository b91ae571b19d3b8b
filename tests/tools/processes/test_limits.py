"""Limits on open files: raised where possible, else named before the first step."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator

import pytest

from backbones.errors import UserError
from tools.engine.environment import user_error_of
from tools.processes import limits


@pytest.fixture
def soft_limit() -> Iterator[int]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
    yield 200
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_limit_is_raised_to_what_the_system_allows(soft_limit: int):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limits.raise_open_files()
    expected = limits.MOST if hard == resource.RLIM_INFINITY else min(hard, limits.MOST)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (expected, hard)


def test_more_workers_than_the_limit_allows_are_refused(soft_limit: int):
    limits.require_open_files(0)
    limits.require_open_files(4)  # 96 + 2 x 12 x 4 = 192
    with pytest.raises(UserError, match="--workers 5: need about 216 open files, but the system allows 200; raise the"):
        limits.require_open_files(5)


def test_a_refused_process_is_a_user_error():
    found = user_error_of(BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"))
    assert "--workers: the system refuses another process or open file (Resource temporarily" in str(found)
    assert user_error_of(FileNotFoundError(errno.ENOENT, "No such file")) is None
