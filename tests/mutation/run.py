"""Mutation tests: changes the core one expression at a time and reports the changes that no test notices.

    make mutants                                                       # a sample of all modules
    python tests/mutation/run.py --modules detection.rpn --mutants 50  # of one module
    python tests/mutation/run.py --survivors                           # those that survived, once more

The libraries and the tests of a module are imported once. Each mutant runs in a forked process, with the tests that
reach its line, until the first one fails. A mutant that needs four times the processor time of the tests is killed too.
Results are appended to build/mutants.jsonl, one line per mutant.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import json
import os
import pickle
import random
import resource
import shlex
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a forked process has none of its parent's threads

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]
import pytest  # noqa: E402
import yaml  # noqa: E402
from operators import Mutant, mutants, mutated  # noqa: E402
from transplant import transplant  # noqa: E402

RESULTS = ROOT / "build" / "mutants.jsonl"
TARGETS = Path(__file__).with_name("targets.yaml")  # module -> tests
EQUIVALENT = Path(__file__).with_name("equivalent.yaml")  # mutants that change no result, with the reason
PATIENCE = 4  # times the processor time of all tests of the module, and at least
LEAST = 5  # seconds; then a mutant counts as endless
WALL = 900  # seconds that a mutant may wait for something that never comes
SLOW = 3.0  # seconds of processor time; a test that needs more is left out


class Session:
    """pytest's session over the tests of one module: collected once, run in forked processes.

    Attributes:
        items: the tests, quickest first.
        reach: for each test by name, the lines of the module that it runs.
    """

    def __init__(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        self.session, self.items = session, items
        self.reach: dict[str, set[int]] = {}

    def measure(self, file: str) -> float:
        """Run all tests on the module as it is; keep the quick ones and note which lines each reaches.

        Returns:
            Seconds of processor time of all tests.

        Raises:
            SystemExit: a test fails.
        """
        found: dict[str, tuple[bool, float, set[int]]] = in_child(partial(self._traced, file), limit=3600) or {}
        failed = [item.nodeid for item in self.items if not found.get(item.nodeid, (False,))[0]]
        if failed:
            sys.exit(f"these tests fail without a mutant: {' '.join(failed)}")
        self.items = [item for item in self.items if found[item.nodeid][1] < SLOW]
        self.items.sort(key=lambda item: found[item.nodeid][1])
        self.reach = {item.nodeid: found[item.nodeid][2] for item in self.items}
        return sum(found[item.nodeid][1] for item in self.items)

    def reaches(self, item: pytest.Item, mutant: Mutant) -> bool:
        """Return whether a test runs the statement of a mutant, or may use a value that the module computes."""
        first, last = mutant.lines
        return not mutant.inside or any(first <= line <= last for line in self.reach[item.nodeid])

    def first_failure(self, items: list[pytest.Item]) -> str:
        """Run tests until one fails; return its name, or "" if all pass."""
        for index, item in enumerate(items):
            if not self._passes(item, items[index + 1] if index + 1 < len(items) else None):
                return item.nodeid
        return ""

    def _passes(self, item: pytest.Item, following: pytest.Item | None) -> bool:
        failures = self.session.testsfailed
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        return self.session.testsfailed == failures

    def _traced(self, file: str) -> dict[str, tuple[bool, float, set[int]]]:
        found = {}
        for index, item in enumerate(self.items):
            lines: set[int] = set()
            begin = time.process_time()
            with traced(file, lines):
                passed = self._passes(item, self.items[index + 1] if index + 1 < len(self.items) else None)
            found[item.nodeid] = passed, time.process_time() - begin, lines
        return found


@contextlib.contextmanager
def traced(file: str, lines: set[int]) -> Iterator[None]:
    """Context manager that collects the lines of a file that run."""

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename != file:
            return None
        lines.add(frame.f_lineno)
        return trace

    sys.settrace(trace)
    threading.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]


def in_child(work: Callable[[], Any], *, limit: float) -> Any:
    """Run work in a forked process, silently; return its result, or None if the process ended early or was too slow.

    Args:
        limit: seconds of processor time, which do not depend on the load of the machine.
    """
    with tempfile.TemporaryFile() as file:
        child = os.fork()
        if not child:
            _work_and_exit(work, limit, file.fileno())
        end = time.monotonic() + WALL
        while os.waitpid(child, os.WNOHANG)[0] == 0:
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what the tests started
        file.seek(0)
        content = file.read()
        return pickle.loads(content) if content else None


def _work_and_exit(work: Callable[[], Any], limit: float, descriptor: int) -> None:
    try:
        os.setpgid(0, 0)
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime + limit) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        silent = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silent, stream)
        content = pickle.dumps(work())
        os.pwrite(descriptor, content, 0)
    finally:
        os._exit(0)


def collected(arguments: list[str], then: Callable[[Session], None]) -> None:
    """Collect tests, and call `then` with the session in place of running them."""

    class Plugin:
        def pytest_runtestloop(self, session: pytest.Session) -> bool:
            try:
                then(Session(session, list(session.items)))
            except SystemExit as error:
                sys.__stderr__.write(f"{error}\n")
                os._exit(1)
            return True

    folder = f"{tempfile.gettempdir()}/mutants-{os.getpid()}"
    absent = [f"-pno:{name}" for name in ("xdist", "cacheprovider", "faulthandler", "terminal")]
    options = [*absent, "-o", "addopts=", "--basetemp", folder]
    if code := pytest.main([*options, *arguments], plugins=[Plugin()]):
        sys.exit(f"pytest could not collect {' '.join(arguments)}: status {int(code)}")


def run_module(name: str, picked: list[Mutant], tests: str, results: Path) -> None:
    """Run mutants of a module and append a line for each to the results."""
    module = importlib.import_module(name)
    source = Path(str(module.__file__)).read_text(encoding="utf-8")

    def run(session: Session) -> None:
        limit = max(LEAST, PATIENCE * session.measure(str(module.__file__)))
        for mutant in picked:
            chosen = [item for item in session.items if session.reaches(item, mutant)]
            attempt = partial(_attempt, session, module, mutated(source, mutant.number), chosen)
            killer = in_child(attempt, limit=limit) if chosen else ""
            _write(results, name, mutant, "endless" if killer is None else killer, len(chosen))

    collected(shlex.split(tests), run)


def _attempt(session: Session, module: ModuleType, tree: ast.Module, tests: list[pytest.Item]) -> str:
    """Return what notices a mutant: the name of a test, or the error of its import; "" if nothing does."""
    try:
        transplant(module, tree)
    except Exception as error:
        return f"import: {type(error).__name__}"
    return session.first_failure(tests)


def _write(results: Path, module: str, mutant: Mutant, killer: str, tests: int) -> None:
    results.parent.mkdir(parents=True, exist_ok=True)
    with open(results, "a", encoding="utf-8") as file:
        file.write(json.dumps({"module": module, **asdict(mutant), "killer": killer, "tests": tests}) + "\n")
    verdict = killer or f"SURVIVED {tests} tests"
    print(f"{module}:{mutant.line}: {mutant.before} -> {mutant.after}: {verdict}", flush=True)


def latest(results: Path) -> dict[tuple[str, int, str], dict[str, Any]]:
    """Return the last outcome of each mutant by module, number and changed expression."""
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    entries = map(json.loads, lines)
    return {(each["module"], each["number"], each["after"]): each for each in entries}


def sampled(available: dict[str, list[Mutant]], count: int, seed: int) -> dict[str, list[Mutant]]:
    """Return `count` mutants, spread evenly over the modules; small modules give all they have."""
    shares = dict.fromkeys(available, 0)
    while sum(shares.values()) < count and any(shares[name] < len(available[name]) for name in available):
        name = min((name for name in available if shares[name] < len(available[name])), key=shares.__getitem__)
        shares[name] += 1
    draw = {name: random.Random(f"{seed} {name}").sample(available[name], share) for name, share in shares.items()}
    return {name: sorted(found, key=lambda mutant: mutant.number) for name, found in draw.items()}


def summary(results: Path) -> str:
    """Return a table of the results by module, without those that change no result, and the list of survivors."""
    same = {(each["module"], each["scope"], each["before"], each["after"]) for each in known_equivalent()}
    rows: dict[str, list[int]] = {}
    survivors = []
    for each in latest(results).values():
        row = rows.setdefault(each["module"], [0, 0, 0])
        equivalent = (each["module"], each["scope"], each["before"], each["after"]) in same
        row[0 if each["killer"] else 2 if equivalent else 1] += 1
        if not each["killer"] and not equivalent:
            survivors.append(f"{each['module']}:{each['line']} {each['scope']}: {each['before']} -> {each['after']}")
    rows["total"] = [sum(column) for column in zip(*rows.values(), strict=True)] if rows else [0, 0, 0]
    lines = ["| module | killed | survived | equivalent |", "|---|---|---|---|"]
    lines += [f"| {name} | {killed} | {alive} | {equal} |" for name, (killed, alive, equal) in rows.items()]
    return "\n".join([*lines, "", *survivors])


def known_equivalent() -> list[dict[str, str]]:
    """Return the entries of `equivalent.yaml`: module, scope, before, after and why."""
    return yaml.safe_load(EQUIVALENT.read_text(encoding="utf-8")) or []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", nargs="+", help="modules of targets.yaml; absent: all")
    parser.add_argument("--mutants", type=int, default=400, help="size of the sample over all modules")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--survivors", action="store_true", help="run only those that survived in the results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file that gets a line per mutant")
    options = parser.parse_args()
    targets: dict[str, str] = yaml.safe_load(TARGETS.read_text(encoding="utf-8"))
    names = options.modules or list(targets)
    sources = {name: ROOT / f"{name.replace('.', '/')}.py" for name in names}
    available = {name: mutants(path.read_text(encoding="utf-8")) for name, path in sources.items()}
    if options.survivors:
        alive = {key for key, each in latest(options.results).items() if not each["killer"]}
        chosen = {name: [m for m in available[name] if (name, m.number, m.after) in alive] for name in names}
    else:
        chosen = sampled(available, options.mutants, options.seed)
    for name in chosen:
        importlib.import_module(name)  # here, so that the processes below need not import the libraries
    for name, picked in chosen.items():
        # Each module has a process of its own, because pytest cannot collect twice in one.
        if picked and in_child_aloud(partial(run_module, name, picked, targets[name], options.results)):
            sys.exit(f"{name}: its tests could not be run")
    print(summary(options.results))


def in_child_aloud(work: Callable[[], None]) -> int:
    """Run work in a forked process that may print; return its exit status."""
    child = os.fork()
    if not child:
        try:
            work()
        except SystemExit as error:
            print(error, file=sys.stderr)
            os._exit(1)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main()
