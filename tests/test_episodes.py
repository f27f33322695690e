"""Episodes as a function of seed and index."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dmf.draws import derived_seed
from dmf.episodes import EpisodeSampler

LABELS = np.random.RandomState(0).permutation(np.repeat(np.arange(7), 12))


def sampler(seed: int = 0) -> EpisodeSampler:
    return EpisodeSampler(LABELS, way=5, shot=2, queries=3, seed=seed)


def test_shapes_and_classes() -> None:
    episodes = sampler()(range(20))
    assert episodes.support.shape == (20, 5, 2)
    assert episodes.query.shape == episodes.targets.shape == (20, 15)
    labels = torch.from_numpy(LABELS)
    for support, query, targets in zip(episodes.support, episodes.query, episodes.targets, strict=True):
        classes = labels[support]
        assert (classes == classes[:, :1]).all(), "all shots of a way are of one class"
        assert len(classes[:, 0].unique()) == 5
        assert torch.equal(labels[query], classes[targets, 0])
        rows = torch.cat([support.flatten(), query])
        assert len(rows.unique()) == len(rows), "support and query are disjoint"


def test_an_episode_does_not_depend_on_how_it_is_asked_for() -> None:
    whole = sampler()(range(10))
    for index in (7, 2):
        alone = sampler()(range(index, index + 1))
        assert torch.equal(alone.support[0], whole.support[index])
        assert torch.equal(alone.query[0], whole.query[index])


def test_seeds() -> None:
    assert sampler(3)(range(10)).hash == sampler(3)(range(10)).hash
    assert sampler(3)(range(10)).hash != sampler(4)(range(10)).hash
    assert derived_seed(1, 2) != derived_seed(2, 1)


def test_the_bank_stays_what_it_is() -> None:
    """Published numbers use these episodes, so they must not change."""
    assert sampler(112)(range(50)).hash == "c8c1a6fd7bc12b43"


def test_every_class_and_image_is_drawn() -> None:
    episodes = sampler()(range(200))
    assert set(torch.cat([episodes.support.flatten(), episodes.query.flatten()]).tolist()) == set(range(len(LABELS)))


def test_too_little_data_is_refused() -> None:
    with pytest.raises(ValueError, match="way=8 needs 8 classes, but the split has 7"):
        EpisodeSampler(LABELS, way=8, shot=1, queries=1, seed=0)
    with pytest.raises(ValueError, match="need 13 images per class, but the smallest class has 12"):
        EpisodeSampler(LABELS, way=5, shot=1, queries=12, seed=0)
