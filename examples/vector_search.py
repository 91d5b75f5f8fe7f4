"""Find candidates by an index of vectors: how much of the exact answer, how fast.

`item_vectors_` go into an index of faiss or hnswlib, `encode` makes the queries, `rerank` the
answer. Without a model the vectors are synthetic, which tells what an index costs at a size::

    pip install faiss-cpu hnswlib
    python examples/vector_search.py --items 1000000
    python examples/vector_search.py --model model.posneg --json out.json

Indexes whose library is not installed are left out.
"""

import argparse
import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from posneg_rec import serving
from posneg_rec.answering import ServedRecommender

Search = Callable[[np.ndarray, int], np.ndarray]  # (queries, n) to positions of items


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", metavar="FILE", help="a saved model; else synthetic vectors")
    parser.add_argument("--items", type=int, default=100_000, help="synthetic items (%(default)s)")
    parser.add_argument("--dim", type=int, default=131, help="of synthetic vectors (%(default)s)")
    parser.add_argument("--queries", type=int, default=200, help="histories (%(default)s)")
    parser.add_argument("-k", type=int, default=10, help="length of an answer (%(default)s)")
    parser.add_argument("--candidates", type=int, default=100, help="an index finds (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of each index (%(default)s)")
    parser.add_argument(
        "--indexes", nargs="+", choices=INDEXES, default=list(INDEXES), help="default: all"
    )
    parser.add_argument("--random-state", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="write the table there")
    args = parser.parse_args(arguments)

    rng = np.random.default_rng(args.random_state)
    model = histories = None
    if args.model:
        model = serving.load(args.model)
        histories = draw_histories(model, args.queries, rng)
        items = model.item_vectors_
        queries = np.concatenate([model.encode(h, feedback=signs) for h, signs in histories])
    else:
        items, queries = draw_vectors(args.items, args.queries, args.dim, rng)
    n_found = min(args.candidates, len(items))
    k = min(args.k, n_found)

    begin = time.perf_counter()
    top = exact(items)(queries, k)
    seconds = time.perf_counter() - begin
    rows = [row("exact (NumPy)", 0.0, seconds, top, top)]
    found_by = {"exact (NumPy)": exact(items)(queries, n_found)}
    for name in args.indexes:
        package, build = INDEXES[name]
        if find_spec(package) is None:
            print(f"{name} is left out: {package} is not installed.")
            continue
        begin = time.perf_counter()
        search = build(items, args.threads)
        built = time.perf_counter() - begin
        begin = time.perf_counter()
        found = np.concatenate([search(query[None], n_found) for query in queries])
        rows.append(row(name, built, time.perf_counter() - begin, found, top))
        found_by[name] = found
    if model is not None and histories is not None:
        for entry in rows:
            entry |= reranked(
                model, histories, found_by[entry["index"]], found_by["exact (NumPy)"], k
            )

    print(f"{len(items):,} items of {items.shape[1]} numbers, {len(queries)} queries")
    print_table(rows)
    if args.json:
        sizes = {"n_items": len(items), "dim": items.shape[1], "n_queries": len(queries)}
        sizes |= {"k": k, "candidates": n_found, "threads": args.threads}
        Path(args.json).write_text(json.dumps(sizes | {"indexes": rows}, indent=1))


def draw_vectors(
    n_items: int, n_queries: int, dim: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Make items about some hundred tastes, some longer than others, and queries among them."""
    centres = rng.normal(size=(300, dim)).astype(np.float32)
    items = rng.normal(scale=0.7, size=(n_items, dim)).astype(np.float32)
    items += centres[rng.integers(len(centres), size=n_items)]
    items *= rng.lognormal(sigma=0.2, size=(n_items, 1)).astype(np.float32)
    queries = rng.normal(scale=0.7, size=(n_queries, dim)).astype(np.float32)
    return items, queries + centres[rng.integers(len(centres), size=n_queries)]


def draw_histories(
    model: ServedRecommender, n: int, rng: np.random.Generator
) -> list[tuple[list, list[bool]]]:
    """Draw popular items, liked as often as they are."""
    likes, events = model.item_likes_ + 1, model.item_likes_ + model.item_dislikes_ + 2
    share = events / events.sum()
    histories = []
    for length in rng.integers(5, 50, size=n):
        codes = rng.choice(len(share), size=min(length, len(share)), replace=False, p=share)
        signs = rng.random(len(codes)) < likes[codes] / events[codes]
        histories.append((model.items_[codes].tolist(), signs.tolist()))
    return histories


def row(name: str, built: float, seconds: float, found: np.ndarray, top: np.ndarray) -> dict:
    hits = [np.isin(best, near).mean() for best, near in zip(top, found, strict=True)]
    return {
        "index": name,
        "build_s": round(built, 2),
        "ms_per_query": round(1e3 * seconds / len(top), 3),
        "recall": round(float(np.mean(hits)), 4),
    }


def reranked(
    model: ServedRecommender, histories: list, found: np.ndarray, best: np.ndarray, k: int
) -> dict[str, float]:
    """Compare what candidates become with the model's own answer.

    That an answer is exact is certain only where the candidates are the best by their products.
    """
    hits, exact_ones, seconds = [], [], 0.0
    for (history, signs), positions, true in zip(histories, found, best, strict=True):
        candidates = model.items_[positions[positions >= 0]]
        options = {"feedback": signs, "exclude_seen": False}
        begin = time.perf_counter()
        answer = model.rerank(history, candidates, k, **options)
        seconds += time.perf_counter() - begin
        hits.append(np.isin(model.recommend(history, k, **options)[0], answer.items).mean())
        exact_ones.append(answer.is_exact and np.isin(true, positions).all())
    return {
        "recall_of_model": round(float(np.mean(hits)), 4),
        "certified": round(float(np.mean(exact_ones)), 4),
        "rerank_ms": round(1e3 * seconds / len(histories), 3),
    }


def print_table(rows: list[dict]) -> None:
    head = list(rows[0])
    lines = [head, *[[str(entry[name]) for name in head] for entry in rows]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


# -- Indexes: what searches, made of vectors of items ------------------------------------------


def exact(items: np.ndarray) -> Search:
    def search(queries: np.ndarray, n: int) -> np.ndarray:
        found = []
        for query in queries:
            products = items @ query
            best = np.argpartition(products, len(products) - n)[len(products) - n :]
            found.append(best[np.argsort(-products[best])])
        return np.array(found)

    return search


def faiss_flat(items: np.ndarray, threads: int) -> Search:
    """Compare with every item, as NumPy does."""
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items)
    return lambda queries, n: index.search(queries, n)[1]


def faiss_ivf(items: np.ndarray, threads: int) -> Search:
    """Compare with the items of a twelfth of some clusters, those nearest to the query."""
    import faiss

    faiss.omp_set_num_threads(threads)
    n_lists = max(1, min(1024, len(items) // 40))
    quantizer = faiss.IndexFlatIP(items.shape[1])
    index = faiss.IndexIVFFlat(quantizer, items.shape[1], n_lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, 64
    index.train(items)
    index.add(items)
    index.nprobe = max(8, n_lists // 12)
    return lambda queries, n: index.search(queries, n)[1]


def hnsw(items: np.ndarray, threads: int) -> Search:
    """Walk a graph of near items.

    Products are no distances: long vectors would be everybody's neighbours, and parts of the graph
    out of reach. With one more number all items are of one length, and the nearest to a query, of
    which that number is 0, are those of the greatest products.
    """
    import hnswlib

    squares = np.einsum("nd,nd->n", items, items)
    further = np.sqrt(squares.max() - squares)
    index = hnswlib.Index(space="l2", dim=items.shape[1] + 1)
    index.init_index(max_elements=len(items), ef_construction=100, M=16, random_seed=0)
    index.add_items(np.column_stack([items, further]), num_threads=threads)

    def search(queries: np.ndarray, n: int) -> np.ndarray:
        index.set_ef(max(800, 2 * n))  # a larger catalogue takes more
        longer = np.column_stack([queries, np.zeros(len(queries), np.float32)])
        return index.knn_query(longer, k=n, num_threads=threads)[0].astype(np.int64)

    return search


INDEXES: dict[str, tuple[str, Callable[[np.ndarray, int], Search]]] = {
    "faiss flat": ("faiss", faiss_flat),
    "faiss IVF": ("faiss", faiss_ivf),
    "hnswlib": ("hnswlib", hnsw),
}


if __name__ == "__main__":
    main()
