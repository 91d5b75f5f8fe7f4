"""
What dislikes are worth
=======================

A small world in which only dislikes tell some items to keep away from: who ignores them recommends
what gets disliked. One fitted model is asked with more and more aversion.
"""

import matplotlib.pyplot as plt

from posneg_rec import ContrastiveSeqRecommender
from posneg_rec.datasets import make_opposing_patterns
from posneg_rec.metrics import summarize
from posneg_rec.model_selection import LeaveLastOutSplit

world = make_opposing_patterns(n_users=300, random_state=0)
X, y = world.interactions, world.feedback
train, test = next(LeaveLastOutSplit().split(X))

# %%
# One model of everything, and one of the likes alone
# ---------------------------------------------------

settings = {
    "embedding_dim": 32,
    "n_layers": 1,
    "dropout": 0.1,
    "learning_rate": 5e-3,
    "max_epochs": 15,
    "random_state": 0,
}
model = ContrastiveSeqRecommender(**settings)
model.fit(X[train], y[train])
likes_only = ContrastiveSeqRecommender(
    objective="pnfrec", negative_weight=0, contrastive_weight=0, **settings
)
likes_only.fit(X[train], y[train])

# %%
# The curve of one fit
# --------------------
# The aversion is no parameter of the fit: each point asks the same model again.


def hits(fitted, k=3):
    result = summarize(fitted.target_ranks(X[test], y[test]), k=k, random_state=0)
    return result["hit_rate_disliked"], result["hit_rate_liked"]


aversions = [0, 1, 2, 3, 5, 8]
curve = [hits(model.set_params(dislike_aversion=aversion)) for aversion in aversions]

fig, ax = plt.subplots(layout="constrained")
ax.plot(*zip(*curve, strict=True), marker="o", label="likes and dislikes")
for aversion, point in zip(aversions, curve, strict=True):
    ax.annotate(f"{aversion}", point, textcoords="offset points", xytext=(6, -10))
ax.plot(*hits(likes_only), marker="s", linestyle="none", label="likes only")
ax.set(
    xlabel="hit rate on dislikes (less is better)",
    ylabel="hit rate on likes (more is better)",
    title="Top 3; numbers are the aversion",
)
ax.legend()

# %%
# How the fit went
# ----------------

fig, ax = plt.subplots(layout="constrained")
ax.plot(model.history_["epoch"], model.history_["item_loss"], label="which item")
ax.plot(model.history_["epoch"], model.history_["feedback_loss"], label="liked or not")
ax.set(xlabel="epoch", ylabel="loss, nats", title="Learning curve")
ax.legend()
plt.show()
