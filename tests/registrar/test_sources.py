"""Where voucher requests may come from: what makes proximity true outside an ACP (D-5)."""

import pytest

from brski_common.errors import Refused
from brski_registrar.policy import DomainPolicy, check_source, sources_with
from tests.support.plant import Plant, reason_of

PROXIES = DomainPolicy(sources=("192.0.2.0/24", "fd00:10::/64"))


@pytest.mark.req("PX-06", "D-5")
@pytest.mark.parametrize("address", ["192.0.2.9", "::ffff:192.0.2.9", "fd00:10::9", "fd00:10::9%eth0"])
def test_a_request_through_a_proxy_is_taken(address: str) -> None:
    check_source(PROXIES, address)


@pytest.mark.req("PX-06", "D-5")
@pytest.mark.parametrize("address", ["192.0.3.9", "::ffff:192.0.3.9", "fd00:11::9", "", None, "somewhere"])
def test_a_request_from_anywhere_else_is_refused(address: str | None) -> None:
    with pytest.raises(Refused, match="source-not-allowed"):
        check_source(PROXIES, address)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.3.9", "192.0.3.9/32"),
        ("::ffff:192.0.3.9", "192.0.3.9/32"),
        ("fe80::9%eth0", "fe80::9/128"),
        ("192.0.2.9", None),
        ("somewhere", None),
        ("", None),
    ],
)
def test_what_would_let_a_source_in_is_that_source_beside_the_others(address: str, network: str | None) -> None:
    networks = sources_with(PROXIES, address)
    assert networks == (() if network is None else (*PROXIES.sources, network))
    if networks:
        check_source(DomainPolicy(sources=networks), address)


@pytest.mark.req("PX-06")
async def test_a_device_that_did_not_come_through_a_proxy_gets_no_voucher(plant: Plant) -> None:
    await plant.change_domain(sources=("192.0.2.0/24",))
    async with plant.connect(await plant.admitted("SN-1")) as line:
        response = await line.request_voucher()
    assert (response.status // 100, reason_of(response)) == (4, "source-not-allowed")
    await plant.change_domain(sources=("127.0.0.0/8",))
    async with plant.connect(await plant.admitted("SN-2")) as line:
        assert (await line.request_voucher()).status == 200
