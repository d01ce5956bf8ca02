"""Every metric of Keras over uneven rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from checks.sharding.metrics import compare_with_one_process, probabilities
from keras import metrics as M
from keras import ops

_AT_THRESHOLDS = (
    M.SensitivityAtSpecificity,
    M.SpecificityAtSensitivity,
    M.PrecisionAtRecall,
    M.RecallAtPrecision,
)


def _of_columns() -> list[Any]:
    """Metrics of several numbers a row."""
    weights = [[1.0, 0.5, 2.0]]
    return [
        M.CategoricalAccuracy(),
        M.TopKCategoricalAccuracy(k=2),
        M.CategoricalCrossentropy(),
        M.CategoricalHinge(),
        M.KLDivergence(),
        M.Poisson(),
        M.Hinge(),
        M.SquaredHinge(),
        M.MeanSquaredError(),
        M.RootMeanSquaredError(),
        M.MeanAbsoluteError(),
        M.MeanAbsolutePercentageError(),
        M.MeanSquaredLogarithmicError(),
        M.CosineSimilarity(),
        M.LogCoshError(),
        M.PearsonCorrelation(),
        M.ConcordanceCorrelation(),
        M.Accuracy(),
        *(
            M.R2Score(class_aggregation=how, name=f"r2_{how}")
            for how in ("uniform_average", "variance_weighted_average", None)
        ),
        *(M.F1Score(average=how, name=f"f1_{how}") for how in (None, "micro", "macro", "weighted")),
        M.FBetaScore(beta=2.0, threshold=0.4, average="macro"),
        M.OneHotIoU(num_classes=3, target_class_ids=[0, 2]),
        M.OneHotMeanIoU(num_classes=3),
        M.AUC(multi_label=True, num_labels=3, name="auc_of_labels"),
        M.AUC(multi_label=True, label_weights=weights[0], name="auc_weighted"),
        M.MeanMetricWrapper(lambda y, p: ops.max(ops.abs(y - p), -1), name="own_function"),
    ]


def _of_one_number() -> list[Any]:
    return [
        M.BinaryAccuracy(),
        M.BinaryCrossentropy(),
        M.BinaryIoU(),
        M.AUC(),
        M.AUC(curve="PR", summation_method="minoring", name="auc_pr"),
        M.Precision(),
        M.Recall(thresholds=[0.3, 0.6], name="recalls"),
        M.TruePositives(),
        M.TrueNegatives(thresholds=[0.2, 0.8]),
        M.FalsePositives(),
        M.FalseNegatives(),
        *(metric(0.5) for metric in _AT_THRESHOLDS),
        "mse",
        "accuracy",
    ]


def _of_classes() -> list[Any]:
    return [
        M.SparseCategoricalAccuracy(),
        M.SparseTopKCategoricalAccuracy(k=2),
        M.SparseCategoricalCrossentropy(),
        M.IoU(num_classes=3, target_class_ids=[1], sparse_y_pred=False),
        M.MeanIoU(num_classes=3, sparse_y_pred=False),
    ]


def check_every_metric_of_keras_is_exact() -> None:
    p, y = probabilities(3)
    y[np.arange(len(y)), y.argmax(1)] = 1.0
    assert not compare_with_one_process(p, y, _of_columns(), "mse")
    assert not compare_with_one_process(*probabilities(1), _of_one_number(), "mse")
    p = p / p.sum(1, keepdims=True)
    assert not compare_with_one_process(
        p, y.argmax(1), _of_classes(), "sparse_categorical_crossentropy"
    )
    tried = {type(m) for m in [*_of_columns(), *_of_one_number(), *_of_classes()]}
    everything = {m for m in vars(M).values() if isinstance(m, type) and issubclass(m, M.Metric)}
    # These are given values, not predictions: see check_trackers_of_a_model.
    assert everything - tried == {M.Metric, M.Mean, M.Sum}
