"""The command line of `scripts/bench`."""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
import time
import traceback
from pathlib import Path

from benches import report
from benches.catalogue import BENCHES, Bench
from benches.environment import ensure_installed, hardware
from benches.measuring import BenchError, Measured
from benches.rendering import table as as_markdown
from benches.results import FOLDER, Column, ResultError, Table, read_result, renewed, write_result
from benches.weights import present_weights


def main(script: str, about: str) -> None:
    """Run what was asked for.

    Args:
        script: the file that was started, to start it again inside the project's environment.
        about: its docstring, the help.
    """
    options = parsed(about)
    if options.what == "report":
        sys.exit(make_report(check=options.check))
    ensure_installed(script)
    write = options.write or options.what == "all"
    chosen = BENCHES if options.what == "all" else {options.what: BENCHES[options.what]}
    print(f"# {hardware(options.device)}", flush=True)
    wrong = [name for name, bench in chosen.items() if not ran(name, bench, options, write=write)]
    if write:
        make_report(check=False)
    if wrong and (options.what != "all" or len(wrong) == len(chosen)):
        sys.exit(1)


def parsed(about: str) -> argparse.Namespace:
    listed = "\n".join(
        f"    scripts/bench {name:<19} {one.summary}" for name, one in BENCHES.items()
    )
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=about.replace("{benches}", listed),
    )
    parser.add_argument("what", choices=[*BENCHES, "all", "report"], metavar="NAME")
    parser.add_argument("--write", action="store_true", help="put the figures in the result files")
    parser.add_argument(
        "--check", action="store_true", help="report: fail where BENCHMARKS.md is out of date"
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--images", type=Path, help="pictures to use instead of made ones (score, clean)"
    )
    parser.add_argument("--strange", type=Path, nargs="+", help="out-of-distribution ones")
    parser.add_argument("--test", type=Path, help="known pictures to test with (clipn)")
    parser.add_argument("--model", default="bundled", help="the model to measure (clean)")
    parser.add_argument("--corpus", default="bundled", help="words for negatives (collect)")
    parser.add_argument("--count", type=int, help="how many pictures or prompts")
    return parser.parse_args()


def make_report(*, check: bool) -> int:
    """Write BENCHMARKS.md, or say whether it is what the result files give; return 0 or 1."""
    try:
        if not check:
            report.write()
        elif not report.is_current():
            print(
                "BENCHMARKS.md is not what the files in scripts/benches/results give: run "
                "scripts/bench report",
                file=sys.stderr,
            )
            return 1
    except ResultError as error:
        print(f"scripts/bench report: {error}", file=sys.stderr)
        return 1
    return 0


def ran(name: str, bench: Bench, options: argparse.Namespace, *, write: bool) -> bool:
    """Run one bench, print its tables and, if asked, write each as soon as it is there."""
    missing = bench.missing() if options.what == "all" or not options.images else ""
    if missing:
        print(f"{name}: not measured: {missing}", file=sys.stderr, flush=True)
        return False
    begun = time.process_time()
    try:
        for one in bench.run(options):
            made = dated(one, command(name, options), options.device)
            print("\n" + "\n\n".join(as_markdown(made, present_weights())), flush=True)
            if write:
                save(one.result, made)
    except Exception as error:  # the other benches go on
        if not isinstance(error, BenchError | ResultError):
            traceback.print_exc()
        print(f"{name}: not measured: {error}", file=sys.stderr, flush=True)
        return False
    print(f"\n{name}: {time.process_time() - begun:.0f} s of this process", flush=True)
    return True


def dated(one: Measured, asked: str, device: str) -> Table:
    """Add to figures when, on what and how they were measured."""
    columns = tuple(Column(c) if isinstance(c, str) else Column(*c) for c in one.columns)
    return Table(
        name=one.name,
        date=datetime.date.today().isoformat(),
        hardware=hardware(device),
        commands=(asked, *one.commands),
        columns=columns,
        rows=one.rows,
        caption=one.caption,
        keys=one.keys,
        weights=present_weights() if one.bundled else None,
    )


def command(name: str, options: argparse.Namespace) -> str:
    """Return the command that was given, as it would be given for this bench alone."""
    words = ["scripts/bench", name]
    if options.what != "all":
        for option in ("images", "strange", "test", "model", "corpus", "count", "device"):
            value = getattr(options, option)
            if value is None or value in ("bundled", "cpu"):
                continue
            words.append(f"--{option}")
            words += map(str, value) if isinstance(value, list) else [str(value)]
    return shlex.join(words)


def save(result: str, made: Table, folder: Path = FOLDER) -> None:
    """Put a table in its result file, which is there already with its title and words."""
    path = folder / f"{result}.json"
    if not path.exists():
        raise ResultError(f"{path.name} is not there; make it with a title, a group and an order")
    write_result(renewed(read_result(path), [made]), folder)
