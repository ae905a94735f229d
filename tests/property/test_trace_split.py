# SPDX-License-Identifier: Apache-2.0
"""Dividing a session between agent and calls loses no memory, for any calls."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentcgroup.trace.model import CallSpan, split_calls, thin_out

_samples = st.lists(st.integers(0, 1 << 40), min_size=2, max_size=30).map(
    lambda sizes: tuple((float(second), size) for second, size in enumerate(sizes))
)
_spans = st.lists(
    st.tuples(st.floats(0, 30), st.floats(0, 10)).map(
        lambda pair: CallSpan(pair[0], pair[0] + pair[1], "Bash")
    ),
    max_size=6,
)


def level_at(samples: tuple[tuple[float, int], ...], at_s: float) -> int:
    """The last size at or before `at_s`; the first one before the beginning."""
    return max((s for s in samples if s[0] <= at_s), key=lambda s: s[0], default=samples[0])[1]


@given(_samples, _spans)
def test_agent_and_calls_add_up_to_the_session_or_more(
    samples: tuple[tuple[float, int], ...], spans: list[CallSpan]
) -> None:
    calls, agent = split_calls(samples, spans)
    assert len(calls) == len(spans)
    assert [at_s for at_s, _ in agent] == [at_s for at_s, _ in samples]
    for at_s, size in samples:
        held = level_at(agent, at_s)
        for call in calls:
            if call.begin_s <= at_s <= call.end_s and call.samples:
                first_s = call.begin_s + call.samples[0][0]
                held += level_at(call.samples, at_s - call.begin_s) if first_s <= at_s else 0
        assert held >= size
    assert all(0 <= level <= size for (_, level), (_, size) in zip(agent, samples, strict=True))
    assert all(level >= 0 for call in calls for _, level in call.samples)


@given(_samples, st.integers(0, 1 << 40))
def test_thinning_keeps_ends_and_peak(
    samples: tuple[tuple[float, int], ...], step_bytes: int
) -> None:
    thin = thin_out(samples, step_bytes)
    assert (thin[0], thin[-1]) == (samples[0], samples[-1])
    assert max(size for _, size in thin) == max(size for _, size in samples)
    assert set(thin) <= set(samples)
