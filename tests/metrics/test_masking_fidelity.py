"""AUC and clean accuracy are those of protocol 4.2."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from attention_chains.metrics.errors import MetricError
from attention_chains.metrics.masking import METRICS, curve, row, summarise


def test_the_check_of_protocol_4_2():
    """Accuracies .8, .6, .4, .2, 0 of ten images."""
    found = summarise(np.array([8, 6, 4, 2, 0]), 10)
    assert found["AUC"] == pytest.approx(0.5, abs=1e-15) and found["Clean"] == pytest.approx(80)


def test_an_accuracy_that_never_falls_has_the_area_one_and_one_that_falls_at_once_half_a_step():
    assert summarise(np.full(21, 7), 9)["AUC"] == pytest.approx(1)
    assert summarise(np.array([5] + [0] * 20), 9)["AUC"] == pytest.approx(1 / 40)


@given(arrays.arrays(np.int64, (3, 21), elements=st.integers(0, 50)))
def test_every_set_of_sums_is_summarised_by_the_trapezoid_rule(sums):
    sums[:, 0] = sums[:, 0] + 1
    found = summarise(sums, 60)
    for index, right in enumerate(sums):
        relative = right / right[0]
        area = sum((relative[i] + relative[i + 1]) / 2 * (1 / 20) for i in range(20))
        assert found["AUC"][index] == pytest.approx(area)
        assert found["Clean"][index] == pytest.approx(100 * right[0] / 60)
        assert curve(sums)[index] == pytest.approx(relative)


def test_metrics_come_from_sums_of_records_and_not_from_averages_of_averages():
    records = [{"correct": [1, 1, 0]}, {"correct": [1, 0, 0]}, {"correct": [0, 0, 1]}]
    found = summarise(np.sum([row(record) for record in records], 0), len(records))
    assert found["AUC"] == pytest.approx((1 + 0.5) / 4 + (0.5 + 0.5) / 4) and found["Clean"] == pytest.approx(200 / 3)


def test_metrics_are_named_as_the_table_has_them():
    assert [(metric.name, metric.better, metric.unit) for metric in METRICS] == [
        ("AUC", "lower", ""),
        ("Clean", "higher", "%"),
    ]
    assert list(summarise(np.ones(3), 1)) == ["AUC", "Clean"]


def test_without_a_right_clean_answer_there_is_no_area():
    found = summarise(np.array([[0, 1], [2, 1]]), 4)
    assert np.isnan(found["AUC"][0]) and found["AUC"][1] == 0.75 and found["Clean"].tolist() == [0, 50]


@pytest.mark.parametrize("sums", [np.array([3]), np.array(3), np.zeros((4, 0))], ids=repr)
def test_one_fraction_is_no_curve(sums):
    with pytest.raises(MetricError, match="two fractions"):
        summarise(sums, 4)


def test_a_summary_needs_an_image():
    with pytest.raises(MetricError, match="at least one image"):
        summarise(np.ones((2, 5)), np.array([3, 0]))


@pytest.mark.parametrize("stats", [{}, {"correct": []}, {"correct": [1, 2]}, {"correct": [0.5]}], ids=str)
def test_a_record_holds_right_and_wrong_answers_and_nothing_else(stats):
    with pytest.raises(MetricError, match="0 or 1"):
        row(stats)
