"""slmclient and its peers side by side: each client in an environment and a process of its own, all on one server.

    make bench
    python benchmarks/compare [--quick] [--clients openai litellm …] [--only sync chunk …] [--instructions]

Every round measures all clients one after the other, and a client's ratio is to openai's value of the same round; told
are the medians of values and ratios, and the least and the greatest ratio. slmclient, openai and the floors are in
every round, other peers in the first ones; what no budget is about is in fewer. Written to benchmarks/results: JSON, a
table and a chart.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

if not __package__:  # run by its folder's name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from compare import report, running
from compare.environments import EnvironmentFailedError, python_of
from compare.measures import AGAINST, BUDGETS, INSTRUCTIONS, MEASURES, US, Measure
from compare.results import Results

ROUNDS, PEER_ROUNDS, REPEATS, SECONDS = 5, 2, 3, 0.5
FEW = 2  # rounds of what no budget is about
QUICK = {"rounds": 2, "peer_rounds": 1, "repeats": 2, "seconds": 0.2}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", nargs="+", metavar="NAME", help="all, if none is named")
    names = [each.name for each in MEASURES]
    parser.add_argument("--only", nargs="+", metavar="MEASURE", choices=names, help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="what budgets are about, in few and short rounds")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--peer-rounds", type=int, default=PEER_ROUNDS, help="of clients that no budget is against")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="of a process's start, in a round; of peers one")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of CPU for one value")
    parser.add_argument("--instructions", action="store_true", help="count instructions too, with valgrind: slow")
    parser.add_argument("--against", default=AGAINST, metavar="NAME", help="the client that ratios are to")
    parser.add_argument("--python", type=Path, help="a Python that has all clients, in place of their environments")
    parser.add_argument("--results", type=Path, default=Path(__file__).resolve().parent.parent / "results")
    parser.add_argument("--name", default=f"{datetime.now(UTC):%Y-%m-%d}", help="of the files of results")
    given = parser.parse_args()
    if given.quick:
        given.only = given.only or [each.name for each in MEASURES if decides(each)]
        for name, value in QUICK.items():
            if getattr(given, name) == parser.get_default(name):
                setattr(given, name, value)
    return given


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def all_clients(names: list[str] | None) -> list[running.Client]:
    """Return the clients that are named, ours and the one that budgets are against first."""
    files = sorted((running.HERE / "clients").glob("[!_]*.py"))
    clients = [running.Client.of(path) for path in files]
    unknown = set(names or ()) - {client.name for client in clients}
    if unknown:
        sys.exit(f"No such clients: {', '.join(sorted(unknown))}. Known: {', '.join(each.name for each in clients)}.")
    clients = [client for client in clients if names is None or client.name in names]
    return sorted(clients, key=lambda client: (client.name != US, client.name != AGAINST, client.floor, client.name))


def ready(client: running.Client, bench: running.Bench, python: Path | None) -> str:
    """Make a client's environment, have it answer once, and return its version.

    Raises:
        EnvironmentFailedError: It cannot be installed.
        running.FailedError: It cannot answer.
    """
    client.python = python_of(client) if python is None else python.absolute()
    version = client.version(bench.folder)
    if "sync_chat" in client.functions:
        bench.cold(client)  # its .pyc files are there from now on
    return version


def measure_all(bench: running.Bench, clients: list[running.Client], given: argparse.Namespace) -> Results:
    results = Results(given.against, given.rounds)
    for client in list(clients):
        try:
            results.versions[client.name] = ready(client, bench, given.python)
        except (EnvironmentFailedError, running.FailedError) as error:
            results.missing[client.name] = str(error)
            tell(f"{client.name}: left out: {error}")
            clients.remove(client)
    if lost := {US, given.against} & set(results.missing):
        sys.exit(f"Without {' and '.join(sorted(lost))} there is nothing to compare.")
    measures = [each for each in MEASURES if given.only is None or each.name in given.only]
    if given.instructions and running.counts_instructions():
        measures += INSTRUCTIONS
    elif given.instructions:
        tell("There is no valgrind here: instructions are not counted.")
    for number in range(given.rounds):
        for measure in measures:
            tell(f"round {number + 1} of {given.rounds}: {measure.name}")
            for repeat in range(given.repeats if measure.several else 1):
                results.begin()
                taking = [each for each in clients if not repeat or always(each, given)]
                one_round(bench, measure, taking, results, number, given)
    return results


def one_round(
    bench: running.Bench,
    measure: Measure,
    clients: list[running.Client],
    results: Results,
    number: int,
    given: argparse.Namespace,
) -> None:
    """Measure all clients that take part in this round, each time beginning with another one."""
    taking = [
        client
        for client in clients
        if number < rounds_of(measure, client, given)
        and measure.needs in client.functions
        and (client.name, measure.name) not in results.failed
    ]
    shift = number % len(taking) if taking else 0
    for client in taking[shift:] + taking[:shift]:
        before = bench.seen()
        try:
            results.take(measure, client.name, bench.value(measure, client))
        except (running.FailedError, ValueError) as error:
            results.failed[client.name, measure.name] = str(error)
            tell(f"{client.name}: {measure.name}: {error}")
            continue
        after = bench.seen()
        results.noticed(measure, client.name, {name: after[name] - before[name] for name in after})


def decides(measure: Measure) -> bool:
    """Whether a budget is about it."""
    return not {budget.figure for budget in BUDGETS}.isdisjoint(figure.name for figure in measure.figures.values())


def rounds_of(measure: Measure, client: running.Client, given: argparse.Namespace) -> int:
    """Return in how many rounds a client is measured: most in those that decide about budgets."""
    if measure in INSTRUCTIONS:  # they hardly differ
        return 1
    if not decides(measure):
        return min(FEW, given.rounds) if always(client, given) else 1
    return int(given.rounds if always(client, given) else given.peer_rounds)


def always(client: running.Client, given: argparse.Namespace) -> bool:
    """Whether it is measured as often as can be: ours, the one that ratios are to, and the floors."""
    return client.floor or client.name in (US, given.against)


def machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    found = {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version()}
    return {**found, "os": f"{platform.system()} {platform.release().partition('-')[0]}"}


def main() -> None:
    given = parsed()
    clients = all_clients(given.clients)
    with tempfile.TemporaryDirectory() as folder:
        bench = running.Bench(Path(folder), given.seconds)
        with bench.serving():
            results = measure_all(bench, clients, given)
    found = results.whole(machine())
    for path in report.written(found, given.results, given.name):
        tell(f"written: {path}")
    print(report.table(found))


if __name__ == "__main__":
    main()
