"""The app of the examples under load: each answer right or refused, none lost."""

import asyncio
import contextlib
import http.client
import importlib.util
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
import warnings
from collections import Counter
from contextlib import closing
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from tiny import X, Y, tiny

fastapi = pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
pytestmark = pytest.mark.usefixtures("few_steps")

APP = Path(__file__).parents[1] / "examples" / "serve_app.py"
N_THREADS, N_REQUESTS = 8, 40
LARGE = 2**60


@pytest.fixture(scope="module")
def app():
    spec = importlib.util.spec_from_file_location("serve_app", APP)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def models():
    return [tiny(random_state=seed).fit(X, Y) for seed in range(2)]


class Server:
    """The app in processes of its own."""

    def __init__(self, path, log):
        self.path = path
        root = str(Path(__file__).parents[1])
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
        }
        command = [sys.executable, APP, path, "--port", "0", "--workers", "2"]
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment
            )
        for _ in range(1200):
            self.log = log.read_text()
            if self.log.count("Application startup complete") == 2:
                break
            assert self.process.poll() is None, self.log
            time.sleep(0.1)
        self.port = int(re.search(r"http://127\.0\.0\.1:(\d+)", self.log)[1])
        self.workers = [int(found) for found in re.findall(r"server process \[(\d+)\]", self.log)]

    def connection(self):
        return closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60))

    def get(self, path):
        with self.connection() as connection:
            connection.request("GET", path)
            with connection.getresponse() as answer:
                assert answer.status == 200
                return answer.read().decode()

    def post(self, body):
        with self.connection() as connection:
            return post(connection, body)

    def version(self):
        found = os.stat(self.path)
        return f"{found.st_mtime_ns:x}-{found.st_ino:x}-{found.st_size:x}"

    def memory(self):
        """Of each worker, MiB that no other process has."""
        return [
            sum(
                int(line.split()[1])
                for line in Path(f"/proc/{worker}/status").read_text().splitlines()
                if line.startswith("RssAnon")
            )
            / 2**10
            for worker in self.workers
        ]


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    models[0].save(folder / "model.posneg")
    server = Server(folder / "model.posneg", folder / "log")
    yield server
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(60)
    assert "Traceback" not in (folder / "log").read_text()


def post(connection, body):
    connection.request("POST", "/recommend", body, {"content-type": "application/json"})
    with connection.getresponse() as answer:
        return answer.status, json.loads(answer.read(), parse_constant=pytest.fail)


def query_of(rng):
    """A request that is in order, and what the estimator is asked for it."""
    items = X[:, 1].tolist()
    n = rng.choice([0, 1, 3, 10, 200])
    query = {"history": [rng.choice([*items, 10**6]) for _ in range(n)], "k": rng.randint(1, 30)}
    if rng.random() < 0.5:
        query["feedback"] = [rng.choice([-1, 1]) for _ in range(n)]
    if rng.random() < 0.5:
        query["times"] = sorted(rng.randint(0, 10**4) for _ in range(n))
    for name in ("allowed_items", "denied_items"):
        if rng.random() < 0.3:
            query[name] = rng.sample(sorted(set(items)), rng.randint(1, 9))
    if rng.random() < 0.3:
        query["pinned_items"] = rng.sample(sorted(set(items)), min(query["k"], 2))
    if rng.random() < 0.3:
        query |= {"exclude_seen": rng.random() < 0.5, "dislike_aversion": rng.choice([0, 0.5, 9])}
    return query


# What is wrong with each body.
MALFORMED = {
    "no JSON": b"{",
    "no UTF-8": b'{"history": ["\xff"]}',
    "no object": b"[1, 2]",
    "nothing": b"",
    "no history": b'{"k": 3}',
    "deep": b"[" * 100_000,
    "an unknown name": b'{"history": [1], "n": 3}',
    "half a character as a name": b'{"history": [1], "\\ud800": 3}',
    "half a character as an id": b'{"history": ["\\ud800"]}',
    "ids of another kind": b'{"history": ["one"]}',
    "a boolean as an id": b'{"history": [true]}',
    "NaN as an id": b'{"history": [NaN]}',
    "an id of no 64 bits": b'{"history": [%d]}' % 2**64,
    "a list as an id": b'{"history": [[1]]}',
    "NaN as feedback": b'{"history": [1], "feedback": [NaN]}',
    "words as feedback": b'{"history": [1], "feedback": ["yes"]}',
    "feedback of no known coding": b'{"history": [1], "feedback": [7]}',
    "feedback of another length": b'{"history": [1], "feedback": [1, 1]}',
    "times that fall": b'{"history": [1, 2], "times": [5, 1]}',
    "times of no date": b'{"history": [1], "times": ["tomorrow"]}',
    "times of no clock": b'{"history": [1], "times": [%d]}' % 10**40,
    "zones here and there": (
        b'{"history": [1, 2], "times": ["2024-01-01", "2024-01-02T00:00:00+00:00"]}'
    ),
    "no items": b'{"history": [1], "k": 0}',
    "too many items": b'{"history": [1], "k": 1001}',
    "half an item": b'{"history": [1], "k": 1.5}',
    "k as text": b'{"history": [1], "k": "3"}',
    "no aversion but liking": b'{"history": [1], "dislike_aversion": -1}',
    "infinite aversion": b'{"history": [1], "dislike_aversion": Infinity}',
    "seen or not": b'{"history": [1], "exclude_seen": "auto"}',
    "a filter of other ids": b'{"history": [1], "denied_items": ["one"]}',
    "pins of other ids": b'{"history": [1], "pinned_items": ["one"]}',
    "a long history": json.dumps({"history": [1] * 10_001}).encode(),
    "a long filter": json.dumps({"history": [1], "allowed_items": [1] * 50_001}).encode(),
    "huge": b" " * (2**20 + 1),
    "very huge": b" " * 2**22,
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_is_malformed_is_refused_with_its_cause(server, what):
    status, answer = server.post(MALFORMED[what])
    assert status in ({413} if "huge" in what else {400, 422})
    assert answer["detail"]
    assert len(json.dumps(answer)) < 3_000  # not what was sent


def test_what_never_ends_is_refused_before_it_ends(server):
    with server.connection() as connection:
        connection.putrequest("POST", "/recommend")
        connection.putheader("content-length", str(10**12))
        connection.endheaders(b"{")
        with connection.getresponse() as answer:
            assert answer.status == 413

    def endless():
        while True:
            yield b" " * 2**16

    # It goes on sending, and may find the door closed before it reads why.
    with contextlib.suppress(ConnectionError):
        assert server.post(endless())[0] == 413
    assert server.post(b'{"history": [1]}')[0] == 200


def test_what_comes_too_slowly_is_refused(app, monkeypatch):
    monkeypatch.setattr(app, "BODY_SECONDS", 0.05)
    sent = []

    async def never():
        await asyncio.sleep(3600)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/recommend", "headers": []}
    asyncio.run(app.Door(None, mock.Mock())(scope, never, send))
    assert sent[0]["status"] == 408


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_under_load_each_answer_is_right_or_refused_while_models_are_swapped(server, models):
    served, wrong, right, statuses = {server.version(): models[0]}, [], [], Counter()
    done = threading.Event()

    def ask(seed):
        rng = random.Random(seed)
        with server.connection() as connection:  # which is kept alive, but for what is huge
            for _ in range(N_REQUESTS):
                query = query_of(rng) if rng.random() < 0.7 else None
                body = json.dumps(query) if query else MALFORMED[rng.choice(sorted(MALFORMED))]
                try:
                    status, answer = post(connection, body)
                except Exception as error:
                    wrong.append((body[:100], error))
                    continue
                statuses[status] += 1
                if query and status == 200:
                    right.append((query, answer))
                elif query or not 400 <= status < 500:
                    wrong.append((body[:100], answer))

    def swap():
        turn = 0
        while not done.wait(0.2):
            turn += 1
            models[turn % 2].save(server.path)
            served[server.version()] = models[turn % 2]

    def load():
        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(N_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    swapping = threading.Thread(target=swap)
    swapping.start()
    load()
    before = server.memory()
    load()
    after = server.memory()
    done.set()
    swapping.join()
    assert not wrong
    assert sum(statuses.values()) == 2 * N_THREADS * N_REQUESTS
    assert len({answer["version"] for _, answer in right}) > 2
    for query, answer in right:
        model, query = served[answer["version"]], dict(query)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* have fewer than k=")
            items, scores = model.recommend(query.pop("history"), **query)
        assert (answer["items"], answer["scores"]) == (items.tolist(), scores.tolist())
    # What was held once is held again; nothing of a request or of an old model stays.
    assert max(np.subtract(after, before)) < 24


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_workers_load_neither_scikit_learn_nor_torch(server):
    for worker in server.workers:
        loaded = Path(f"/proc/{worker}/maps").read_text()
        assert "numpy" in loaded
        assert "/sklearn/" not in loaded and "/torch/" not in loaded


def test_all_workers_count_together(server):
    def answered():
        counts = re.findall(r'requests_total{status="200"} ([\d.]+)', server.get("/metrics"))
        return float(*counts or [0])

    before = answered()
    for _ in range(20):
        assert server.post(b'{"history": [1]}')[0] == 200
    assert {answered() for _ in range(8)} == {before + 20}


def test_a_file_that_cannot_be_read_leaves_the_old_model_in_service(server, models):
    models[1].save(server.path)
    version = _until(server, lambda health: health["version"] == server.version())["version"]
    beside = server.path.with_suffix(".bad")
    beside.write_bytes(b"no model")
    beside.replace(server.path)
    health = _until(server, lambda health: health["refused"])
    assert (health["status"], health["version"]) == ("ok", version)
    _, answer = server.post(b'{"history": [1, 2], "k": 3}')
    assert answer["items"] == models[1].recommend([1, 2], k=3)[0].tolist()
    server.path.unlink()
    assert _until(server, lambda health: health["refused"])["version"] == version
    models[0].save(server.path)
    health = _until(server, lambda health: health["version"] == server.version())
    assert not health["refused"]


def _until(server, holds):
    """Wait for something to be so in all workers, as far as a few questions tell."""
    for _ in range(300):
        answers = [json.loads(server.get("/health")) for _ in range(8)]
        if all(map(holds, answers)):
            return answers[0]
        time.sleep(0.1)
    raise AssertionError(answers)


@pytest.mark.parametrize(
    ("items", "sent", "read", "written"),
    [
        ([3, 5], [3, "5", 4.0], [3, 5, 4], [3, 5]),
        ([-LARGE - 1, 5], [5, str(-LARGE - 1)], [5, -LARGE - 1], [str(-LARGE - 1), "5"]),
        ([0.5, 2.0], [2, 0.5], [2.0, 0.5], [0.5, 2.0]),
        (["a", "ü"], ["ü", "3"], ["ü", "3"], ["a", "ü"]),
        ([uuid.UUID(int=7)], [str(uuid.UUID(int=7))], [uuid.UUID(int=7)], [str(uuid.UUID(int=7))]),
    ],
)
def test_ids_go_out_and_come_back_as_they_were(app, items, sent, read, written):
    kind = object if isinstance(items[0], str | uuid.UUID) else None
    ids = app.Ids(np.array(items, dtype=kind))
    assert json.loads(json.dumps(ids.written(ids_of(items, kind)))) == written
    found = ids.read(sent, "history")
    assert found == read
    assert [type(one) for one in found] == [type(one) for one in read]
    assert ids.read(written, "history") == items


def ids_of(items, kind):
    return np.array(items, dtype=kind)


@pytest.mark.parametrize(
    ("items", "bad"),
    [
        ([3, 5], 2.5),
        ([3, 5], "05"),
        ([3, 5], "x"),
        ([3, 5], 2**63),
        ([0.5], "0.5"),
        ([0.5], 2**60 + 1),
        (["a"], 3),
        ([uuid.UUID(int=7)], "7"),
        ([uuid.UUID(int=7)], 7),
    ],
)
def test_ids_that_no_item_can_have_are_named(app, items, bad):
    kind = object if isinstance(items[0], str | uuid.UUID) else None
    ids = app.Ids(np.array(items, dtype=kind))
    with pytest.raises(fastapi.HTTPException) as caught:
        ids.read([*ids.written(ids_of(items, kind)), bad], "denied_items")
    assert caught.value.status_code == 422
    assert repr(bad) in caught.value.detail and "denied_items" in caught.value.detail
