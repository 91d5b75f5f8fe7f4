"""What importing takes: the estimator and the light door, beside what they stand on.

    python examples/benchmarks/imports.py [--rounds 9] [--json imports.json]

Each import is the first in a process of its own, whose files and bytecode the system has read
before: a round runs all of them, and the first round is not counted. Seconds are the median, those
of the import alone; "peak MiB" is what the process holds then. torch is imported by a fit, never by
an import of the package.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

from common import print_table, write_json

IMPORTS = {
    "NumPy": "import numpy",
    "scikit-learn, what estimators inherit": "import sklearn.base",
    "scikit-learn, an estimator": "from sklearn.linear_model import LogisticRegression",
    "posneg-rec, the estimator": "from posneg_rec import ContrastiveSeqRecommender",
    "posneg-rec, to answer only": "from posneg_rec.serving import load",
    "torch, at the first fit": "import torch",
}
PROGRAM = """
import sys, time
sys.path.append({here!r})
start = time.perf_counter()
{statement}
seconds = time.perf_counter() - start
from common import peak_rss_mib
print(seconds, peak_rss_mib())
"""


def measured(statement):
    """Seconds of an import and the memory after it, in a new process."""
    program = PROGRAM.format(here=str(Path(__file__).parent), statement=statement)
    # Bytecode that is not kept would be made anew each time.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    seconds, mib = map(float, done.stdout.split())
    return seconds, mib


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args(arguments)
    found = {name: [] for name in IMPORTS}
    for _ in range(1 + options.rounds):
        for name, statement in IMPORTS.items():
            found[name].append(measured(statement))
    rows = []
    for name, runs in found.items():
        seconds, mib = (statistics.median(values) for values in zip(*runs[1:], strict=True))
        rows.append({"import": name, "seconds": seconds, "peak MiB": mib})
    print_table(rows)
    if options.json:
        write_json(options.json, {"rounds": options.rounds, "rows": rows})


if __name__ == "__main__":
    main()
