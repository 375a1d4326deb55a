"""Quantiles, distances and histograms from counts, against plain statements of the same over random values."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.publish.distributions import Distributions

numbers = st.one_of(st.sampled_from([0.0, 1.0, 2.0]), st.floats(-100, 100)).map(lambda value: float(f"{value:.5g}"))
some_values = st.lists(numbers, min_size=1, max_size=30)
INTEGERS = [0, 1, 1, 5, None, float("nan"), float("inf")]


def distributions_of(**parts: Sequence[float | None]) -> Distributions:
    """Distributions of one fact `f`; each part is added in two pieces, as buckets are."""
    distributions = Distributions(["f"])
    for part, values in parts.items():
        for piece in (values[::2], values[1::2]):
            rows = pa.table({"f": pa.array(piece, pa.float64())})
            distributions.add(f"SELECT '{part}' AS part, * FROM rows", ["f"], rows=rows)
    return distributions


@settings(max_examples=15, deadline=None)
@given(first=some_values, second=some_values)
def test_the_distance_is_the_largest_gap_between_the_shares_below_a_value(
    first: list[float], second: list[float]
) -> None:
    at = np.array(sorted({*first, *second}))
    below = [np.searchsorted(np.sort(part), at, side="right") / len(part) for part in (first, second)]
    with distributions_of(first=first, second=second, again=first[::-1]) as distributions:
        assert distributions.ks_distance("f", "first", "second") == pytest.approx(
            np.abs(below[0] - below[1]).max(), abs=1e-6
        )
        assert distributions.ks_distance("f", "first", "again") == pytest.approx(0, abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(values=some_values)
def test_a_quantile_is_the_smallest_value_that_covers_its_share(values: list[float]) -> None:
    shares = [0.0, 0.1, 0.5, 0.9, 1.0]
    with distributions_of(first=values) as distributions:
        wanted = np.quantile(np.array(values), shares, method="inverted_cdf")
        assert distributions.quantiles("f", "first", shares) == pytest.approx(wanted.tolist())


@settings(max_examples=15, deadline=None)
@given(first=some_values, second=some_values)
def test_every_value_is_in_one_bin_and_none_is_lost(first: list[float], second: list[float]) -> None:
    with distributions_of(kept=first, dropped=second) as distributions:
        histogram = distributions.histogram("f", ("kept", "dropped"))
    assert histogram is not None
    assert {part: sum(counts) for part, counts in histogram.counts.items()} == {
        "kept": len(first),
        "dropped": len(second),
    }
    assert len(histogram.edges) == len(histogram.counts["kept"]) + 1
    assert (histogram.low, histogram.high) == pytest.approx(
        (min(*first, *second), max(*first, *second)), rel=1e-4, abs=0
    )
    for low, high, count in zip(histogram.edges, histogram.edges[1:], histogram.counts["kept"], strict=False):
        inner = low > histogram.edges[0] and high < histogram.edges[-1]
        slack = 1e-6 * (high - low)  # a value on an edge may fall to either side by rounding
        if inner:
            assert sum(low + slack < value < high - slack for value in first) <= count


def test_integers_have_a_bin_each() -> None:
    with distributions_of(kept=INTEGERS) as distributions:
        histogram = distributions.histogram("f", ("kept", "dropped"))
    assert histogram is not None
    assert histogram.is_integer
    assert histogram.edges == [0, 1, 2, 3, 4, 5, 6]
    assert histogram.counts == {"kept": [1, 2, 0, 0, 0, 1], "dropped": [0] * 6}


def test_null_nan_and_infinity_are_unknown() -> None:
    with distributions_of(kept=INTEGERS) as distributions:
        assert (distributions.known_count("f", "kept"), distributions.unknown_count("f", "kept")) == (4, 3)


def test_a_part_without_values_has_no_quantiles_no_distance_and_no_histogram() -> None:
    with distributions_of(kept=INTEGERS) as distributions:
        assert distributions.quantiles("f", "dropped", [0.5]) == []
        assert distributions.ks_distance("f", "kept", "dropped") is None
        assert distributions.histogram("f", ("dropped",)) is None


def test_a_few_values_far_out_share_the_last_bin() -> None:
    with distributions_of(kept=[float(n % 100) / 7 for n in range(1000)] + [1e6]) as distributions:
        histogram = distributions.histogram("f", ("kept",))
        assert histogram is not None
        assert histogram.edges[-1] < 100
        assert histogram.high == 1e6
        assert histogram.counts["kept"][-1] >= 1


def test_counts_that_are_put_together_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3).normal(size=400).astype(np.float32).tolist()
    with distributions_of(first=random, second=random[:90]) as unmerged:
        monkeypatch.setattr("data.publish.distributions.MERGE_AFTER", 50)
        with distributions_of(first=random, second=random[:90]) as merged:
            assert merged.merged_rows > 0
            assert merged.ks_distance("f", "first", "second") == pytest.approx(
                unmerged.ks_distance("f", "first", "second")
            )
            assert merged.histogram("f", ("first", "second")) == unmerged.histogram("f", ("first", "second"))


def test_a_value_is_known_to_five_digits() -> None:
    with distributions_of(kept=[0.12345678, 123456.0, -3.0000001, 1e-30]) as distributions:
        assert distributions.quantiles("f", "kept", [0, 0.5, 0.75, 1]) == pytest.approx([-3, 1e-30, 0.12346, 123460])
