"""The book of finished episodes: means by member, and when each of them ended."""

import numpy as np

from rlab.experience.episode_counts import Episode
from rlab.learning.episodes import EpisodeBook, FinishedEpisode
from rlab.types import Clock


def test_episodes_that_are_looked_at_late_are_told_with_the_step_in_which_they_ended() -> None:
    heard: list[FinishedEpisode] = []
    book = EpisodeBook((3, 4), [heard.extend])
    book.add([Episode(1, 0, 5.0, 7, steps_ago=2), Episode(1, 1, 9.0, 3)], Clock(80, 100, per_step=8))
    assert heard == [FinishedEpisode(4, 0, 5.0, 7, 64), FinishedEpisode(4, 1, 9.0, 3, 80)]
    found = book.take()
    assert np.isnan(found["train/episode_return"][0])
    assert found["train/episode_return"][1] == 7.0
    assert found["train/episode_length"][1] == 5.0
    assert all(np.isnan(values).all() for values in book.take().values())  # a new stretch
