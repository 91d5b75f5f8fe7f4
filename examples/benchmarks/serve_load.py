"""How long the app of examples/serve_app.py takes to answer at a stated load.

    python examples/benchmarks/serve_load.py --rate 50 --json serve_load.json

sends requests at random moments, so many a second on average whether or not earlier ones are
answered, to the app with a model shaped like one of MovieLens-1M (3,416 items, histories of 100
rated events), and, where `implicit` is installed, to the same app with its ALS, which takes the
liked ones. A time counts from the moment a request was due. Clients share the machine with the app.
Weights are random: they take as long as learned ones.
"""

import argparse
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from common import print_table, write_json

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))

N_ITEMS, LENGTH, DIM = 3_416, 100, 128


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    apps = {"posneg_rec": write_ours}
    if find_spec("implicit"):
        apps["implicit (ALS)"] = write_implicit
    load = {name: getattr(args, name) for name in ("rate", "seconds", "workers", "connections")}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, write in apps.items():
            path = Path(folder, name)
            write(path)
            rows.append({"app": name, **measured(write.__name__ == "write_ours", path, **load)})
    print_table(rows)
    if args.json:
        write_json(args.json, {"load": load, "results": rows})


# -- The same app with two models ----------------------------------------------------------------


def write_ours(path):
    from serving import model_of

    model_of(N_ITEMS, embedding_dim=DIM).save(path)


def write_implicit(path):
    from implicit.als import AlternatingLeastSquares
    from scipy.sparse import random as random_matrix

    likes = random_matrix(6_040, N_ITEMS, density=0.03, format="csr", dtype=np.float32, rng=0)
    model = AlternatingLeastSquares(factors=DIM, iterations=1, random_state=0)
    model.fit(likes, show_progress=False)
    with open(path, "wb") as file:
        model.save(file)


class Implicit:
    """What the app asks of a model, answered by `implicit`: liked items alone, no times."""

    def __init__(self, model):
        self.model, self.items_ = model, np.arange(len(model.item_factors))

    @classmethod
    def load(cls, path, mmap=False):
        from implicit.cpu.als import AlternatingLeastSquares

        with open(path, "rb") as file:
            return cls(AlternatingLeastSquares.load(file))

    def recommend(self, history, k, *, feedback=None, **others):
        from scipy.sparse import csr_matrix

        ratings = np.full(len(history), 5) if feedback is None else np.asarray(feedback)
        liked = np.unique(np.asarray(history, dtype=np.int64)[ratings >= 4])
        user = csr_matrix(
            (np.ones(len(liked), np.float32), liked, [0, len(liked)]), (1, len(self.items_))
        )
        return self.model.recommend(0, user, N=k, recalculate_user=True)


def implicit_app():
    import serve_app

    serve_app.load = Implicit.load
    return serve_app.create_app()


def serve(kind, path, workers):
    import uvicorn

    os.environ["POSNEG_REC_MODEL"] = path
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        uvicorn.run(
            "serve_app:create_app" if kind == "ours" else "serve_load:implicit_app",
            factory=True,
            port=0,
            workers=int(workers),
            access_log=False,
            timeout_worker_healthcheck=60,
        )


# -- The load ------------------------------------------------------------------------------------


def measured(ours, path, *, rate, seconds, workers, connections):
    kind = "ours" if ours else "implicit"
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), *sys.path[1:]]),
    }
    command = [sys.executable, __file__, "--serve", kind, str(path), str(workers)]
    log = path.with_suffix(".log")
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    try:
        while (text := log.read_text()).count("startup complete") < workers:
            if process.poll() is not None or "Traceback" in text:
                raise RuntimeError(text)
            time.sleep(0.1)
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)", text)[1])
        ask(port, rate, min(2.0, seconds), connections, seed=1)
        spent, n_failed = ask(port, rate, seconds, connections, seed=0)
    finally:
        process.terminate()
        process.wait()
    p50, p99 = np.quantile(spent, [0.5, 0.99]) * 1e3
    return {
        "requests": len(spent) + n_failed,
        "failed": n_failed,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "max_ms": max(spent) * 1e3,
    }


def ask(port, rate, seconds, connections, seed):
    """Send requests when they are due, each on the next free connection."""
    rng = np.random.default_rng(seed)
    due = np.cumsum(rng.exponential(1 / rate, int(rate * seconds))).tolist()
    bodies = [
        json.dumps(
            {
                "history": rng.integers(0, N_ITEMS, LENGTH).tolist(),
                "feedback": rng.integers(1, 6, LENGTH).tolist(),
                "k": 10,
            }
        )
        for _ in range(100)
    ]
    jobs, lock, spent, failed = iter(enumerate(due)), threading.Lock(), [], []
    start = time.perf_counter()

    def work():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while True:
            with lock:
                number, moment = next(jobs, (None, None))
            if number is None:
                break
            time.sleep(max(0.0, start + moment - time.perf_counter()))
            try:
                headers = {"content-type": "application/json"}
                connection.request("POST", "/recommend", bodies[number % len(bodies)], headers)
                answer = connection.getresponse()
                n_items = len(json.loads(answer.read())["items"]) if answer.status == 200 else 0
                (spent if n_items == 10 else failed).append(time.perf_counter() - start - moment)
            except (OSError, http.client.HTTPException):
                failed.append(number)
                connection.close()
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return spent, len(failed)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
    else:
        sys.exit(main())
