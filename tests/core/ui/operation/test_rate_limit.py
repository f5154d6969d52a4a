"""How often one visitor may come, by a clock that the test turns."""

from __future__ import annotations

from core.ui.operation.rate_limit import RateLimit


def test_a_minutes_requests_may_come_at_once_and_then_at_the_rate():
    limit = RateLimit(30)
    assert [limit.wait_s("a", 0.0) for _ in range(31)] == [0] * 30 + [2]
    assert limit.wait_s("a", 1.0) == 1
    assert limit.wait_s("a", 2.0) == 0
    assert limit.wait_s("a", 2.0) == 2


def test_visitors_do_not_count_for_each_other_and_rest_fills_no_more_than_a_minute():
    limit = RateLimit(2)
    assert [limit.wait_s("a", 0.0) for _ in range(3)] == [0, 0, 30]
    assert limit.wait_s("b", 0.0) == 0
    assert [limit.wait_s("a", 3600.0) for _ in range(3)] == [0, 0, 30]


def test_nought_is_no_limit():
    assert {RateLimit(0).wait_s("a", 0.0) for _ in range(1000)} == {0}
