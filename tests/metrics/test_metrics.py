import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from fakedetect_jax.metrics import metrics
from fakedetect_jax.metrics.records import Unscored, Video
from tests.made_scores import changed, known, made_rows
from tfds_ffpp.errors import DataError

# Scores in tenths have ties and fall on 0, 0.5 and 1.
tied = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 10)), min_size=2, max_size=40
)


def split(pairs):
    labels = np.array([label for label, _ in pairs])
    return labels, np.array([score / 10 for _, score in pairs])


def brute_auc(labels, scores):
    pairs = [(f, r) for f in scores[labels == 1] for r in scores[labels == 0]]
    return sum((f > r) + (f == r) / 2 for f, r in pairs) / len(pairs)


def brute_average_precision(labels, scores):
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        called = scores >= threshold
        recall = np.sum(called & (labels == 1)) / np.sum(labels == 1)
        total += (recall - before) * np.mean(labels[called])
        before = recall
    return total


def brute_eer(labels, scores):
    """The crossing, found by walking each straight piece of the curve."""
    points = [(0.0, 0.0)]
    for threshold in sorted(set(scores), reverse=True):
        called = scores >= threshold
        points.append(
            (np.mean(called[labels == 0]).item(), np.mean(called[labels == 1]).item())
        )
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        if x1 >= 1 - y1 - 1e-12:
            low, high = 0.0, 1.0
            for _ in range(60):
                middle = (low + high) / 2
                x, y = x0 + middle * (x1 - x0), y0 + middle * (y1 - y0)
                low, high = (low, middle) if x >= 1 - y else (middle, high)
            return x0 + high * (x1 - x0)
    raise AssertionError


@given(tied)
@settings(deadline=None, max_examples=150)
def test_ranking_metrics_are_their_definitions_and_scikit_learn(pairs):
    labels, scores = split(pairs)
    if len(set(labels)) < 2:
        assert metrics.auc(labels, scores) is None
        assert metrics.eer(labels, scores) is None
        assert metrics.average_precision(labels, scores) is None
        return
    assert metrics.auc(labels, scores) == pytest.approx(brute_auc(labels, scores))
    assert metrics.auc(labels, scores) == pytest.approx(
        reference.roc_auc_score(labels, scores)
    )
    assert metrics.eer(labels, scores) == pytest.approx(brute_eer(labels, scores))
    assert metrics.average_precision(labels, scores) == pytest.approx(
        brute_average_precision(labels, scores)
    )


@given(tied, st.integers(0, 10))
@settings(deadline=None, max_examples=100)
def test_decisions_are_their_definitions_and_scikit_learn(pairs, tenths):
    labels, scores = split(pairs)
    threshold = tenths / 10
    called = (scores > threshold).astype(int)
    found = metrics.decisions(labels, scores, threshold)
    expected = reference.confusion_matrix(labels, called, labels=[0, 1])
    assert found.confusion == expected.tolist()
    assert found.accuracy == pytest.approx(reference.accuracy_score(labels, called))
    if len(set(labels)) == 2:
        assert found.balanced_accuracy == pytest.approx(
            reference.balanced_accuracy_score(labels, called)
        )
    else:
        assert found.balanced_accuracy is None


@given(tied)
@settings(deadline=None, max_examples=100)
def test_probability_metrics_are_their_definitions(pairs):
    labels, scores = split(pairs)
    assert metrics.brier(labels, scores) == pytest.approx(
        sum((s - y) ** 2 for y, s in zip(labels, scores, strict=True)) / len(labels)
    )
    tiny = np.finfo(float).eps
    loss = 0.0
    for label, score in zip(labels, scores, strict=True):
        chance = min(max(score if label else 1 - score, tiny), 1.0)
        loss -= math.log(chance) / len(labels)
    assert metrics.log_loss(labels, scores) == pytest.approx(loss, abs=1e-9)
    error = 0.0
    for left in range(metrics.CALIBRATION_BINS):
        inside = [
            i
            for i, score in enumerate(scores)
            if min(int(score * metrics.CALIBRATION_BINS), metrics.CALIBRATION_BINS - 1)
            == left
        ]
        if inside:
            gap = labels[inside].mean() - scores[inside].mean()
            error += len(inside) / len(labels) * abs(gap)
    assert metrics.ece(labels, scores) == pytest.approx(error)


def test_a_calibrated_score_has_no_calibration_error():
    labels = np.array([1] * 3 + [0] * 1 + [1] * 1 + [0] * 3)
    scores = np.array([0.75] * 4 + [0.25] * 4)
    assert metrics.ece(labels, scores) == pytest.approx(0)
    assert metrics.ece(labels, 1 - scores) == pytest.approx(0.5)


def test_a_summary_of_one_class_says_why_it_has_no_auc():
    fakes = [row for row in made_rows() if row.video.label == 1]
    summary = metrics.summary(metrics.videos(metrics.clips(fakes)))
    assert summary.auc is summary.eer is summary.ap is None
    assert summary.balanced_accuracy is None
    assert "no real" in known(summary.undefined)
    assert summary.accuracy is not None


def test_the_loss_of_clips_is_exact_where_their_scores_are_saturated():
    rows = made_rows(num_identities=2, num_clips=1)[:2]
    rows[0] = changed(rows[0], logit=800.0, score=1.0)  # a real, called fake
    rows[1] = changed(rows[1], logit=2.0, score=0.880797)
    loss = metrics.clip_summary(metrics.clips(rows)).loss
    assert loss == pytest.approx((800 + math.log1p(math.exp(-2))) / 2)


# The known wrong ways.


def test_videos_of_one_name_under_several_methods_are_several_videos():
    """S1 033_097 under several methods: several videos, not one."""
    rows = made_rows(num_identities=20)
    videos = metrics.videos(metrics.clips(rows))
    assert len(videos.label) == 20 * 5
    by_name = {row.video.name for row in rows}
    assert len(by_name) == 20 * 2  # what grouping by `033_097` would make of them
    merged = metrics.videos(
        metrics.clips(
            [
                changed(
                    row, method="any" if row.video.label else "youtube", clip=number
                )
                for number, row in enumerate(rows)
            ]
        )
    )
    true_auc = metrics.auc(videos.label, videos.score)
    merged_auc = metrics.auc(merged.label, merged.score)
    assert merged_auc is not None
    assert true_auc is not None
    assert merged_auc > true_auc + 0.01  # the bug flatters


def test_levels_of_compression_are_not_merged_either():
    rows = [r for level in ("c23", "c40") for r in made_rows(compression=level)]
    videos = metrics.videos(metrics.clips(rows))
    assert len(videos.label) == 2 * 20 * 5


def test_the_tail_behind_the_last_whole_batch_counts():
    """S2 A last, smaller batch: its clips count."""
    rows = made_rows(num_identities=5, num_clips=1)  # 25 clips, batches of 8
    rows[-1] = changed(rows[-1], logit=-30.0, score=0.0)  # the tail is a grave error
    summary = metrics.clip_summary(metrics.clips(rows))
    kept = metrics.clip_summary(metrics.clips(rows[:24]))
    assert summary.num_real + summary.num_fake == 25
    assert known(summary.loss) > known(kept.loss) + 1
    losses = [np.logaddexp(0, r.logit) - r.video.label * r.logit for r in rows]
    assert summary.loss == pytest.approx(np.mean(losses))
    of_batches = np.mean([np.mean(losses[i : i + 8]) for i in range(0, 25, 8)])
    assert abs(known(summary.loss) - of_batches) > 1  # a mean of batch means is wrong


def test_the_auc_of_clips_is_not_the_auc_of_videos():
    """S3 Clip AUC reported as video AUC: the two stand apart."""
    rows = made_rows(num_identities=40, num_clips=6)
    rng = np.random.default_rng(0)
    for i, row in enumerate(rows):
        logit = row.logit + float(rng.normal(0, 6))
        rows[i] = changed(
            row, logit=logit, score=float(metrics.sigmoid(np.array(logit)))
        )
    clips = metrics.clips(rows)
    videos = metrics.videos(clips)
    of_clips, of_videos = metrics.summary(clips), metrics.summary(videos)
    assert known(of_videos.auc) > known(of_clips.auc) + 0.05
    key = rows[0].video.key
    mean = np.mean([row.score for row in rows if row.video.key == key])
    assert videos.score[videos.keys().index(key)] == pytest.approx(mean)


def test_the_order_of_clips_does_not_matter():
    rows = made_rows()
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    one = metrics.videos(metrics.clips(rows))
    two = metrics.videos(metrics.clips(shuffled))
    assert len(one.label) == len(two.label)
    first, second = metrics.summary(one), metrics.summary(two)
    assert first.confusion == second.confusion
    for name in ("loss", "auc", "eer", "ap", "brier", "ece", "accuracy"):
        assert getattr(first, name) == pytest.approx(getattr(second, name)), name


# Bad input.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clip": 1}, "scored twice"),
        ({"score": 1.5}, "score 1.5"),
        ({"logit": math.nan}, "logit nan"),
        ({"label": 2}, "label 2"),
    ],
)
def test_a_bad_clip_is_named(change, words):
    rows = made_rows(num_identities=2)
    rows[0] = changed(rows[0], **change)
    with pytest.raises(DataError, match=words) as error:
        metrics.clips(rows)
    assert "ffpp/youtube/c23/000" in str(error.value)


def test_a_video_with_both_labels_is_named():
    rows = made_rows(num_identities=2)
    rows[1] = changed(rows[1], label=1)
    with pytest.raises(DataError, match="ffpp/youtube/c23/000 have both labels"):
        metrics.videos(metrics.clips(rows))


# Methods, policy, coverage.


def missing(*names):
    return [
        Unscored(
            Video("ffpp", "FaceSwap", name, name[:3], name[4:], "c23", label=1),
            reason="no face",
        )
        for name in names
    ]


def test_each_method_stands_against_all_reals_of_its_dataset_and_level():
    rows = made_rows(num_identities=6)
    videos = metrics.videos(metrics.clips(rows))
    groups = metrics.groups(videos)
    assert list(groups) == ["Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures"]
    for name, chosen in groups.items():
        own = videos.take(chosen)
        assert set(own.method) == {"youtube", name}
        assert (own.label == 0).sum() == (own.label == 1).sum() == 6
    both = rows + made_rows(num_identities=4, compression="c40", dataset="dfd")
    videos = metrics.videos(metrics.clips(both))
    groups = metrics.groups(videos)
    assert len(groups) == 8
    own = videos.take(groups["dfd/FaceSwap@c40"])
    assert set(own.dataset) == {"dfd"}
    assert len(own.label) == 8


def test_a_method_without_reals_of_its_own_takes_those_of_its_level():
    rows = made_rows(num_identities=4)
    foreign = [
        changed(row, dataset="deeper")
        for row in made_rows(num_identities=3)
        if row.video.method == "FaceSwap"
    ]
    reals = [row for row in rows if not row.video.label]
    videos = metrics.videos(metrics.clips(reals + foreign))
    own = videos.take(metrics.groups(videos)["FaceSwap"])
    assert (own.label == 0).sum() == 4


def test_unscored_videos_are_left_out_or_decided_by_policy():
    videos = metrics.videos(metrics.clips(made_rows()))
    gone = missing("900_901", "901_900")
    excluded = metrics.add_unscored(videos, gone, policy="exclude")
    assert len(excluded.label) == len(videos.label)
    as_real = metrics.summary(metrics.add_unscored(videos, gone, policy="as_real"))
    as_fake = metrics.summary(metrics.add_unscored(videos, gone, policy="as_fake"))
    plain = metrics.summary(videos)
    assert as_real.num_fake == as_fake.num_fake == plain.num_fake + 2
    assert known(as_real.auc) < known(plain.auc) < known(as_fake.auc)
    assert as_real.confusion[1][0] == plain.confusion[1][0] + 2
    assert as_real.loss == as_fake.loss == plain.loss  # no probability given
    with pytest.raises(DataError, match="policy 'drop'"):
        metrics.add_unscored(videos, gone, policy="drop")


def test_coverage_counts_the_missing_of_each_class_and_method():
    videos = metrics.videos(metrics.clips(made_rows(num_identities=20)))
    covered = metrics.coverage(videos, missing("900_901", "901_900"))
    assert (covered.scored, covered.of) == (100, 102)
    assert covered.by_class["real"].share == 1
    assert covered.by_class["fake"] == metrics.Share(80, 82, 80 / 82)
    assert covered.by_method["FaceSwap"].of == 22
    assert covered.by_method["Deepfakes"].share == 1
