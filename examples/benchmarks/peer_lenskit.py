"""The part of `peers.py` that runs in the environment of LensKit.

Its own job: a pipeline for the top ten, without order, whose scores come of implicit matrix
factorisation by alternating least squares, or of the nearest neighbours of items. What is not said
here is as the documentation has it. All users are asked for by `lenskit.batch` in processes, whose
start is a part of the time; it looks their histories up in the data of the fit, so that no frame
is read. One history is a user whom the fit has not seen.
"""

from common import peak_rss_mib
from lenskit import batch, recommend
from lenskit.als import ImplicitMFScorer
from lenskit.data import ItemList, RecQuery, from_interactions_df
from lenskit.knn import ItemKNNScorer
from lenskit.parallel import initialize
from lenskit.pipeline import topn_pipeline
from peer_shared import (
    SIZES,
    THREADS,
    K,
    parse_arguments,
    read_likes,
    report,
    time_all,
    time_fit,
    time_new_users,
)

SCORERS = {
    "ALS": lambda: ImplicitMFScorer(embedding_size=SIZES["embedding_dim"]),
    "item-item (nearest)": lambda: ItemKNNScorer(feedback="implicit"),
}


def main():
    args = parse_arguments()
    initialize(threads=THREADS, backend_threads=THREADS)
    likes = read_likes(args)
    users = likes["user_id"].unique()
    pipeline = topn_pipeline(SCORERS[args.variant](), n=K)

    def fit():
        pipeline.train(from_interactions_df(likes[["user_id", "item_id"]]))

    def recommend_all():
        return batch.recommend(pipeline, users, n=K, n_jobs=THREADS).to_df()

    def recommend_one(history):
        return recommend(pipeline, RecQuery(history_items=ItemList(history)), n=K).ids()

    fitted = time_fit(fit)
    trained = {"peak_mib": peak_rss_mib(), **fitted}
    report(
        ("lenskit", "torch", "numpy", "scipy", "pandas"),
        **trained,
        **time_all(recommend_all, len(users)),
        calls=time_new_users(recommend_one, likes, args.calls),
    )


if __name__ == "__main__":
    main()
