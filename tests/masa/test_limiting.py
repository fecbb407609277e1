"""How much nonsense one address may send (RFC 8995, 11.1)."""

import pytest

from brski_common.errors import NotYet
from brski_masa.limiting import MAX_ADDRESSES, Allowance


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.req("AT-15")
def test_allowance_is_spent_by_refusals_and_comes_back_with_time() -> None:
    time = Time()
    allowance = Allowance(60, 3, time)
    for _ in range(3):
        allowance.check("192.0.2.1")
        allowance.spend("192.0.2.1")
    with pytest.raises(NotYet) as caught:
        allowance.check("192.0.2.1")
    assert 0 < caught.value.retry_after <= 2
    allowance.check("192.0.2.2")
    time.now += caught.value.retry_after
    allowance.check("192.0.2.1")


@pytest.mark.req("AT-15")
def test_addresses_of_one_ipv6_network_count_as_one() -> None:
    allowance = Allowance(60, 1, Time())
    allowance.spend("2001:db8::1")
    with pytest.raises(NotYet):
        allowance.check("2001:db8::ffff")
    allowance.check("2001:db8:1::1")
    allowance.spend("fe80::1%eth0")
    with pytest.raises(NotYet):
        allowance.check("fe80::2%eth1")
    allowance.spend("")
    with pytest.raises(NotYet):
        allowance.check("")


@pytest.mark.req("AT-15")
def test_memory_is_bounded() -> None:
    allowance = Allowance(60, 1, Time())
    for number in range(MAX_ADDRESSES + 10):
        allowance.spend(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(allowance._spent) == MAX_ADDRESSES


def test_zero_means_no_limit() -> None:
    allowance = Allowance(0, 0, Time())
    allowance.spend("192.0.2.1")
    allowance.check("192.0.2.1")


def test_flood_does_not_lock_an_address_out_for_longer_than_its_burst() -> None:
    time = Time()
    allowance = Allowance(60, 5, time)
    for _ in range(1000):
        allowance.spend("192.0.2.1")
    time.now += 2.5
    allowance.check("192.0.2.1")
