"""What the benchmarks share: the machine, time, memory, and where results go."""

import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import time

_PACKAGES = ("posneg-rec", "numpy", "scipy", "scikit-learn", "torch", "pandas")


def machine():
    """The versions, processor and threads that a figure belongs to."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "cpu": _cpu_name(),
        "n_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "system": platform.platform(terse=True),
        "versions": versions,
    }


def _cpu_name():
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def timed(f, repeat=5):
    """Seconds of `repeat` calls: the best and the median. The best is the least disturbed."""
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        f()
        seconds.append(time.perf_counter() - start)
    return min(seconds), sorted(seconds)[len(seconds) // 2]


def peak_rss_mib():
    """The most memory that this process ever held, in MiB."""
    try:  # getrusage would count what the parent held when it started this process
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) for line in lines if "VmHWM" in line) / 2**10
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)


def forget_peak_rss():
    """Let the peak count from what is held now, where the system can (Linux)."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass


def in_subprocess(script, *arguments):
    """Run a script in a process of its own, whose peak memory is its own, and read its JSON.

    The script prints one JSON object on the last line of its standard output.
    """
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def write_json(path, payload):
    """Write results with the machine they come from."""
    with open(path, "w") as file:
        json.dump({"machine": machine(), **payload}, file, indent=1)
        file.write("\n")


def print_table(rows):
    """Print a list of dicts with the same keys as a table."""
    cells = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


def _cell(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)
