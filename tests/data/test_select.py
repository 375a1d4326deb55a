"""Criteria against an independent statement of them, boundaries included."""

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from data.select import Criterion
from data.stage import query

values = st.one_of(st.none(), st.floats(-2, 2, width=32), st.sampled_from([0.0, 0.5, 1.0]))
bounds = st.one_of(st.none(), st.sampled_from([-1.0, 0.0, 0.5, 1.0]))


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(values, st.booleans()), min_size=1, max_size=20), low=bounds, high=bounds)
def test_a_criterion_keeps_both_bounds_and_never_a_missing_fact(
    rows: list[tuple[float | None, bool]], low: float | None, high: float | None
) -> None:
    if (low is None and high is None) or (low is not None and high is not None and low > high):
        return
    reason = Criterion(min=low, max=high).reason("fact")
    facts = pa.table(
        {
            "place": range(len(rows)),
            "fact": pa.array([value for value, _ in rows], pa.float32()),
            "sha256": pa.array(["x" if there else None for _, there in rows], pa.string()),
        }
    )
    found = query(f"SELECT {reason} AS reason FROM facts ORDER BY place", facts=facts)["reason"].to_pylist()
    for (value, there), said in zip(rows, found, strict=True):
        if not there:
            assert said is None, "a pair without a picture falls for that alone"
        elif value is None:
            assert said == "fact unknown"
        elif low is not None and value < low:
            assert said == f"fact < {low:g}"
        elif high is not None and value > high:
            assert said == f"fact > {high:g}"
        else:
            assert said is None
