"""The datasets of a run, which all its hosts must see alike."""

from pathlib import Path

import numpy as np

from fakedetect_jax.data import leaks, reader, sets
from fakedetect_jax.data.sets import Data
from fakedetect_jax.evaluation import evaluate
from fakedetect_jax.run import parallel
from fakedetect_jax.run.workdir import Run


def open_data(run: Run) -> Data:
    """The splits of the datasets; raises DataError where one lacks reals or fakes."""
    config = run.config
    builders = sets.open_all(config)
    facts = sets.facts_of(builders)
    evaluate.meet_on_data(run, facts)
    data = sets.open_data(config, builders, facts)
    for sentence in sets.cut_apart(config, builders):
        run.terminal.warn(sentence)
    final = config.eval.final_split
    if final and not config.eval.dataset:  # said now, not after the last step
        folder = Path(builders[config.dataset.name].data_dir)
        one_is_enough = config.dataset.allow_one_class
        videos = reader.read_videos(folder, final)
        reader.need_both_classes(videos, final, one_is_enough=one_is_enough)
    return data


def look_for_leaks(run: Run) -> leaks.LeakCounts | None:
    """What the run's datasets share; None with one. Raises DataError unless allowed."""
    builders, found = sets.open_all(run.config), []
    if len(builders) == 1:
        return None

    def look() -> None:
        found.extend(sets.find_leaks(run.config, builders, run.terminal.say))
        allowed = run.config.data.allow_leaks
        sentence = leaks.refuse(found, allowed=allowed)
        if sentence:
            run.terminal.warn(sentence)

    parallel.first_alone(look, run.hosts)
    return leaks.LeakCounts(
        *map(int, parallel.from_first(np.array(leaks.count(found))))
    )
