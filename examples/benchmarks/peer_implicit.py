"""The part of `peers.py` that runs in the environment of implicit.

Its own job: a matrix of users by liked items, without order, factorised by alternating least
squares, or the cosines of its items. What is not said here is as the documentation has it, BLAS on
one thread included. One history is a user whom the fit has not seen: its factors are made from the
history. Times hold what a caller must add: codes, the matrix, raw ids.
"""

import numpy as np
from common import peak_rss_mib
from implicit.als import AlternatingLeastSquares
from implicit.nearest_neighbours import CosineRecommender
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
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

MODELS = {
    "ALS": lambda: AlternatingLeastSquares(
        factors=SIZES["embedding_dim"], num_threads=THREADS, random_state=0
    ),
    "item-item (cosine)": lambda: CosineRecommender(num_threads=THREADS),
}


def main():
    args = parse_arguments()
    likes = read_likes(args)
    items = np.sort(likes["item_id"].unique())
    model = MODELS[args.variant]()

    def matrix_of(events):
        users, _ = events["user_id"].factorize()
        codes = np.searchsorted(items, events["item_id"])
        ones = np.ones(len(codes), np.float32)
        return csr_matrix((ones, (users, codes)), shape=(users.max() + 1, len(items)))

    def recommend_all():
        matrix = matrix_of(likes)
        users = np.arange(matrix.shape[0])
        codes, scores = model.recommend(users, matrix, N=K, filter_already_liked_items=True)
        return items[codes[scores != 0]]  # neighbours may be too few: what is left is 0

    code_of = {item: code for code, item in enumerate(items)}

    def recommend_one(history):
        codes = np.unique([code_of[item] for item in history])
        ones = np.ones(len(codes), np.float32)
        row = csr_matrix((ones, codes, [0, len(codes)]), shape=(1, len(items)))
        codes, _ = model.recommend(
            0, row, N=K, filter_already_liked_items=True, recalculate_user=True
        )
        return items[codes]

    with threadpool_limits(1, "blas"):
        fit = time_fit(lambda: model.fit(matrix_of(likes), show_progress=False))
        trained = {"peak_mib": peak_rss_mib(), **fit}
        report(
            ("implicit", "numpy", "scipy", "pandas"),
            **trained,
            **time_all(recommend_all, likes["user_id"].nunique()),
            calls=time_new_users(recommend_one, likes, args.calls),
        )


if __name__ == "__main__":
    main()
