"""Which share each dataset has of a training's clips, as a config says it."""

from collections.abc import Mapping, Sequence

import numpy as np

from fakedetect_jax.errors import ConfigError

LONGEST = 200  # characters that an export allows for a name
CYCLE = 1000  # twos of clips over which the shares hold exactly


def parse_shares(text: str, own: str) -> dict[str, float]:
    """Dataset -> its share of the clips, of `c23=2,celeb=1`; without numbers all alike.

    own: the run's own dataset, which is the only one where the text is empty. Raises
    ConfigError.
    """
    weights: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, sign, number = part.partition("=")
        name = name.strip()
        try:
            weight = float(number) if sign else 1.0
        except ValueError:
            weight = 0.0
        if not name or not 0 < weight < float("inf") or name in weights:
            raise ConfigError(
                f"config.data.train is {text!r}; it must be datasets, each once, with "
                "their weights above 0, as in c23=2,celeb=1"
            )
        weights[name] = weight
    if weights and own not in weights:
        raise ConfigError(
            f"config.data.train is {text!r}, without {own}; the run's own dataset, "
            "config.dataset.name, must be one of them"
        )
    total = sum(weights.values())
    return {n: w / total for n, w in weights.items()} if weights else {own: 1.0}


def parse_names(text: str, trained: Sequence[str]) -> list[str]:
    """The datasets whose val chooses the checkpoint, of `c23,celeb`.

    Those of the training where the text is empty. Raises ConfigError.
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    if len(set(names)) < len(names) or any("=" in name for name in names):
        raise ConfigError(
            f"config.eval.validation is {text!r}; it must be datasets, each once, as "
            "in c23,celeb"
        )
    return names or list(trained)


def trained_sets(config: Mapping[str, object]) -> list[str]:
    """The datasets that a run was trained on, of its flat config; its own is first."""
    own = str(config.get("dataset.name") or "")
    shares = parse_shares(str(config.get("data.train") or ""), own)
    return sorted(shares, key=lambda name: name != own)


def sets_in_words(config: Mapping[str, object]) -> str:
    """trained_sets as reports and exports name them; of very many the first."""
    names = trained_sets(config)
    text = " + ".join(names)
    if len(text) > LONGEST:
        return f"{names[0][: LONGEST - 20]} + {len(names) - 1} more"
    return text


def share_cycle(shares: Sequence[float] | np.ndarray) -> np.ndarray:
    """int[L]: which set each of L twos of clips is of, each set's as even as can be.

    L is the least number in which all shares are whole, at most CYCLE; there a share is
    off by less than 1 / L. Raises ConfigError for one that would have nothing.
    """
    wanted = np.asarray(shares, np.float64) / np.sum(shares)
    lengths = np.arange(len(wanted), CYCLE + 1)
    exact = np.abs(np.outer(lengths, wanted) - np.round(np.outer(lengths, wanted)))
    fits = lengths[exact.max(axis=1) < 1e-9]
    length = int(fits[0]) if len(fits) else CYCLE
    counts = np.floor(wanted * length + 1e-9).astype(int)
    rest = wanted * length - counts
    counts[np.argsort(-rest, kind="stable")[: length - counts.sum()]] += 1
    if not counts.all():
        raise ConfigError(
            f"config.data.train gives a dataset less than 1/{CYCLE} of the clips; "
            "raise its weight or leave it out"
        )
    places = [(np.arange(n) + 0.5) / n for n in counts]
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner[np.lexsort((owner, np.concatenate(places)))]
