"""How much one device may cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brski_registrar.est_service import CERTIFICATE_SECONDS, CERTIFICATES_AT_ONCE
from brski_registrar.lifecycle import State
from brski_registrar.quotas import MAX_REMEMBERED, Quota
from brski_registrar.service import LINES_AT_ONCE, QUESTION_SECONDS, QUESTIONS_AT_ONCE
from tests.support.plant import Plant, reason_of
from tests.support.world import fresh, key_for


def test_a_burst_then_one_at_a_time() -> None:
    quota = Quota(3, 10)
    assert [quota.take("a", 0) for _ in range(5)] == [0, 0, 0, 10, 10]
    assert quota.take("b", 0) == 0
    assert quota.take("a", 9) == 1
    assert [quota.take("a", 10), quota.take("a", 10)] == [0, 10]
    assert [quota.take("a", 1000) for _ in range(4)] == [0, 0, 0, 10]


def test_a_clock_that_is_set_back_shuts_nobody_out_for_long() -> None:
    quota = Quota(1, 10)
    assert quota.take("a", 1e9) == 0
    assert quota.take("a", 0) == 10
    assert quota.take("a", 10) <= 10
    assert quota.take("b", 0) == 0


def test_few_are_remembered() -> None:
    quota = Quota(1, 10)
    for number in range(MAX_REMEMBERED + 1):
        assert quota.take(str(number), 0) == 0
    assert quota.take("0", 0) == 0
    assert quota.take(str(MAX_REMEMBERED), 0) == 10


@given(st.lists(st.floats(min_value=0, max_value=50), max_size=40))
def test_never_more_than_the_burst_and_the_refill(pauses: list[float]) -> None:
    quota, now, taken = Quota(4, 10), 0.0, 0
    for pause in pauses:
        now += pause
        taken += quota.take("a", now) == 0
        assert taken <= 4 + now / 10 + 1e-6


@pytest.mark.req("AT-15", "HT-02")
async def test_a_device_with_ever_new_requests_is_told_to_wait_and_costs_its_masa_little(plant: Plant) -> None:
    async with plant.connect(await plant.admitted()) as greedy, plant.connect(await plant.admitted()) as other:
        for _ in range(QUESTIONS_AT_ONCE):
            assert (await greedy.request_voucher(greedy.pvr(nonce=f"nonce-{fresh()}-padding"))).status == 200
        for _ in range(3):
            response = await greedy.request_voucher(greedy.pvr(nonce=f"nonce-{fresh()}-padding"))
            assert (response.status, response.headers["Retry-After"]) == (202, f"{QUESTION_SECONDS:g}")
        assert len(plant.masa.requests) == QUESTIONS_AT_ONCE
        assert (await other.request_voucher()).status == 200
        plant.clock.advance(QUESTION_SECONDS)
        assert (await greedy.request_voucher()).status == 200


@pytest.mark.req("AT-15")
async def test_the_same_request_again_costs_nothing(plant: Plant) -> None:
    async with plant.connect(await plant.admitted()) as line:
        body = line.pvr()
        answers = {(await line.request_voucher(body)).body for _ in range(2 * QUESTIONS_AT_ONCE)}
    assert len(answers) == len(plant.masa.requests) == 1


@pytest.mark.req("AT-15")
async def test_a_device_that_is_refused_cannot_fill_the_journal(plant: Plant) -> None:
    async with plant.connect(plant.maker.idevid(serial := fresh())) as line:
        for _ in range(LINES_AT_ONCE + 5):
            assert reason_of(await line.request_voucher()) == "device-not-allowed"
    assert len(await plant.told(serial)) == LINES_AT_ONCE


@pytest.mark.req("AT-15")
async def test_a_device_that_repeats_its_reports_cannot_fill_the_journal(plant: Plant) -> None:
    async with plant.vouched() as line:
        before = len(await plant.told(line.serial))
        for _ in range(LINES_AT_ONCE + 5):
            assert (await line.status(success=True)).status == 200
        assert len(await plant.told(line.serial)) == before + LINES_AT_ONCE
        await line.status(success=False)
        assert (await plant.device(line.serial)).state is State.FAILED, "what changes something always counts"


@pytest.mark.req("AT-15")
async def test_nor_can_one_that_repeats_that_it_got_no_certificate_or_asks_for_what_it_may_not(plant: Plant) -> None:
    async with plant.vouched() as line, plant.vouched() as other:
        of_another = await other.csr()
        await line.enroll_status(success=False)
        before = len(await plant.told(line.serial))
        for _ in range(LINES_AT_ONCE):
            assert (await line.enroll_status(success=False)).status == 200
            assert (await line.enroll(of_another)).status == 403
        half = LINES_AT_ONCE // 2  # of what was written is a report, in two lines, the rest is a refusal, in one
        assert len(await plant.told(line.serial)) == before + 2 * half + half


@pytest.mark.req("AT-15")
async def test_a_device_has_so_many_certificates_and_no_more(plant: Plant) -> None:
    async with plant.vouched() as line:
        for number in range(CERTIFICATES_AT_ONCE):
            assert (await line.enroll(await line.csr(key_for(f"key {number}")))).status == 200
        last = await line.csr(key_for("one key more"))
        response = await line.enroll(last)
        assert (response.status, response.headers["Retry-After"]) == (202, f"{CERTIFICATE_SECONDS:g}")
        plant.clock.advance(CERTIFICATE_SECONDS)
        assert (await line.enroll(last)).status == 200
