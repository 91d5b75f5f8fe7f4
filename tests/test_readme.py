"""What the README shows runs as it stands."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

import posneg_rec

README = Path(__file__).parents[1] / "README.md"


def test_snippets_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    defaults = posneg_rec.ContrastiveSeqRecommender.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "max_epochs", 1)  # what is shown takes its time
    rng = np.random.default_rng(0)
    titles = np.array(["alien", "heat", *(f"film {i}" for i in range(28))])
    interactions = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(40), 15),
            "movieId": np.concatenate([rng.permutation(titles)[:15] for _ in range(40)]),
            "timestamp": rng.integers(0, 10**6, size=600),
        }
    )
    names = {"interactions": interactions, "ratings": pd.Series(rng.integers(1, 6, size=600))}
    snippets = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    for snippet in snippets:
        exec(snippet, names)
    assert len(snippets) == 4 and len(names["items"]) == 10
    assert set(names["table"]["user"]) == set(range(40))
    assert "ndcg@10" in capsys.readouterr().out
    assert (tmp_path / "model.posneg").is_file()
