"""
===============
Look at a model
===============

One picture for each question that a fit raises: did it learn enough, what do its dislikes cost,
is its probability to be liked true, where do the items lie, and why was this recommended?

The displays of ``posneg_rec.plotting`` are made like those of scikit-learn: ``from_estimator``
computes and draws, ``plot(ax=...)`` draws once more, ``ax_`` and ``figure_`` are there to change
what you do not like. They take matplotlib: ``pip install 'posneg-rec[plot]'``.
"""

# %%
# A world of 200 users
# --------------------
#
# Items come in groups, of which some oppose each other: who likes one dislikes the other. A fifth
# of the users is kept aside to look at.

import matplotlib.pyplot as plt

from posneg_rec import ContrastiveSeqRecommender
from posneg_rec.datasets import make_opposing_patterns
from posneg_rec.metrics import aversion_curve, choose_aversion, evaluate
from posneg_rec.model_selection import UserHoldoutSplit
from posneg_rec.plotting import (
    AversionCurveDisplay,
    ExplanationDisplay,
    ItemMapDisplay,
    LikeCalibrationDisplay,
    TradeoffDisplay,
    TrainingDisplay,
)

world = make_opposing_patterns(n_users=200, random_state=0)
X, y = world.interactions, world.feedback
train, validation = next(UserHoldoutSplit(n_splits=5, random_state=0).split(X))
settings = {
    "embedding_dim": 32,
    "n_layers": 1,
    "learning_rate": 5e-3,
    "max_epochs": 12,
    "random_state": 0,
}
model = ContrastiveSeqRecommender(**settings).fit(X[train], y[train])

# %%
# Did it learn enough?
# --------------------
#
# The loss falls as long as there is something to learn from the training part; what counts is the
# ranking of the events that early stopping keeps aside. Where that still rises in the last epoch,
# `max_epochs` is too low; where it has long fallen, there is too little data for so large a model.

TrainingDisplay.from_estimator(model)
plt.show()

# %%
# What does it cost to avoid dislikes?
# ------------------------------------
#
# Upwards are the likes that would have been found, to the right the dislikes that would have been
# shown: the upper left corner is the best. The numbers are the aversion, which needs no new fit;
# the large point is the one that the model has. A model of the published method has no aversion to
# choose and is a point.

held_out = {"targets": "all", "random_state": 0}
display = TradeoffDisplay.from_estimator(
    model, X[validation], y[validation], name="joint", **held_out
)
other = ContrastiveSeqRecommender(objective="pnfrec", **settings).fit(X[train], y[train])
point = evaluate(other, X[validation], y[validation], **held_out)
TradeoffDisplay(curve=point, name="pnfrec").plot(display.ax_)
plt.show()

# %%
# The same by aversion, with the one that a rule takes: the largest that finds about as many likes
# as the best (see :func:`~posneg_rec.metrics.choose_aversion`).

curve = aversion_curve(model, X[validation], y[validation], **held_out)
chosen = choose_aversion(curve)
AversionCurveDisplay(curve=curve, chosen=chosen).plot()
plt.show()

# %%
# Is p(liked) true?
# -----------------
#
# Of a hundred targets that are to be liked with a probability of 0.7, seventy should be. Below
# stands how many targets are behind each point.

LikeCalibrationDisplay.from_estimator(model, X[validation], y[validation], targets="all")
plt.show()

# %%
# Where do the items lie?
# -----------------------
#
# Items that follow each other lie together. Of a hundred dimensions a map shows two: the axes say
# how much of the whole that is.

names = {item: f"item {item}" for item in model.items_[:2].tolist()}
ItemMapDisplay.from_estimator(model, labels=names)
plt.show()

# %%
# Why was this recommended?
# -------------------------
#
# Each event is left out once. What the score loses without it is what it gave: bars to the right
# raised the item, bars to the left held it down.

mine = validation[X[validation, 0] == X[validation[0], 0]][-10:]
ExplanationDisplay.from_estimator(model, X[mine, 1], feedback=y[mine], k=3)
plt.show()
