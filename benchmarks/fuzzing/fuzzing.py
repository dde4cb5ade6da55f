"""Write a page about fuzzing from libFuzzer's logs.

It says what was run, how much of the code was reached, and what was found.

`make fuzz SECONDS=N` leaves a log for each target in build/fuzz-logs. A target that is not there was not run.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from benchmarks.common import add_page, markdown, write_results

PAGE = Path(__file__).with_name("results.md")
TARGETS = {
    "models": "opening, normalising and running packed models (C++, every instruction set, 1 to 3 threads)",
    "json": "the JSON reader alone (C++)",
    "schema": "programs, specs, names, preprocessing (C++)",
    "resize": "pictures resized in native code (C++)",
    "both-readers": "packed models in Python's and the native reader",
    "pictures": "pictures (Python)",
    "zip": "zip archives (Python)",
    "tar": "tar archives (Python)",
    "parquet": "parquet files (Python)",
    "masks": "archives of images with masks (Python)",
    "bodies": "bodies of requests to the server (Python)",
    "journals": "what interrupted runs left of their results (Python)",
    "lists": "lists of pictures on standard input (Python)",
    "recipes": "recipes (Python)",
    "checkpoints": "checkpoints and published weights (Python)",
}


def row(log: Path) -> tuple[str, ...]:
    """Target, executions, seconds, edges, features, corpus and findings of one log, which may hold several runs."""
    text = log.read_text(encoding="utf-8", errors="replace")
    runs = sum(int(count) for count in re.findall(r"^stat::number_of_executed_units: *(\d+)", text, re.MULTILINE))
    seconds = sum(int(count) for count in re.findall(r"^Done \d+ runs in (\d+) second", text, re.MULTILINE))
    states = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", text)
    edges, features, corpus = (str(max(map(int, values))) for values in zip(*states, strict=True)) if states else "–––"
    found = len(re.findall(r"^SUMMARY: ", text, re.MULTILINE))
    return TARGETS[log.stem], f"{runs:,}", str(seconds), edges, features, corpus, str(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logs", type=Path, help="the folder of logs, build/fuzz-logs")
    parser.add_argument("--note", default="", help="a sentence about the run")
    add_page(parser, PAGE)
    args = parser.parse_args()
    rows = [row(log) for target in TARGETS if (log := args.logs / f"{target}.log").is_file()]
    executions = sum(int(cells[1].replace(",", "")) for cells in rows)
    seconds = sum(int(cells[2]) for cells in rows if cells[2].isdigit())
    findings = sum(int(cells[-1]) for cells in rows)
    text = (
        f"{executions:,} executions, {findings} findings; the runs that ended by themselves took {seconds / 60:.0f} "
        f"minutes. {args.note}\n\n"
        "Edges and features are libFuzzer's: of C++ all that is linked, of Python the functions of bhvit, Pillow and "
        "python-multipart. Sanitizers of the C++ targets: AddressSanitizer, LeakSanitizer and "
        "UndefinedBehaviorSanitizer. Runs that ended with a finding or were ended have no seconds.\n\n"
    )
    header = ("Target", "Executions", "Seconds", "Edges", "Features", "Corpus", "Findings")
    write_results(args.page, "Fuzzing", text + markdown(header, rows))


if __name__ == "__main__":
    main()
