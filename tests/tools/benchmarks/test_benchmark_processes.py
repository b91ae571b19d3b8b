"""Groups of processes send what a ring all-reduce sends, and compute what one process does."""

from __future__ import annotations

import pytest

from backbones.errors import UserError
from tools import benchmark
from tools.benchmarks.processes import EVALUATED, run_group, summary


@pytest.mark.parametrize("count", [2, 4])
def test_bytes_gradients_and_shards(count: int):
    found = summary(run_group(count))
    assert found["ring_bytes"] == 2 * (count - 1) / count * found["gradient_bytes"]
    assert found["ring_bytes"] <= found["sent_bytes"] < 1.02 * found["ring_bytes"]  # headers besides
    assert found["difference"] < 1e-5
    assert (found["evaluated"], found["twice"]) == (EVALUATED, 0)


@pytest.mark.parametrize("values", ["1", "3", "two", ""])
def test_user_errors_are_named(values: str, tmp_path):
    with pytest.raises(UserError, match="--values"):
        benchmark.main(["processes", "--values", values, "--output", str(tmp_path / "new")])
