"""The operator's verbs on a device: approve, block, unblock. The command line and the console share them.

What is approved depends on where the device stands (`lifecycle`): what is in its way first. Each is one unit of work,
written in the journal with the name of who did it.
"""

from datetime import datetime

from brski_common.errors import Refused
from brski_registrar import lifecycle
from brski_registrar.lifecycle import Event, State
from brski_registrar.policy import Admission
from brski_registrar.policy_store import PolicyStore
from brski_registrar.records import Change, Device, Note
from brski_registrar.store import Store


async def approve(store: Store, policies: PolicyStore, device: Device, *, by: str, now: datetime) -> Device:
    """Let a device go on that waits for the operator, or whose audit log speaks against it.

    HELD: it is put on the allow-list. AWAITING: its certificate request is cleared. Barred, as in DENIED, or HELD and
    on the allow-list already: the audit log is overruled (RFC 8995, 5.8.3). Raises Refused `nothing-to-approve` else.
    """
    if device.state is State.HELD:
        is_new = await _admit(policies, device, by, now)
        if is_new or not device.is_barred:  # else it is the log that stands in its way
            return await _advance(store, device, (), Note("approved", "admitted", f"by {by}"), now)
    event = _approval(device)
    if event is None:
        raise Refused(
            "nothing-to-approve", f"{device.serial_number} is {device.state.told}, and does not wait for anybody"
        )
    return await _advance(store, device, (event,), Note("approved", event, f"by {by}"), now)


def _approval(device: Device) -> Event | None:
    if device.state is State.AWAITING:
        return Event.CLEAR
    return Event.OVERRULE if device.is_barred and device.state not in lifecycle.BLOCKED else None


async def _admit(policies: PolicyStore, device: Device, by: str, now: datetime) -> bool:
    """Put a device on the allow-list; False if it is there."""
    if await policies.admission(device.manufacturer, device.serial_number) is not None:
        return False
    entry = Admission(manufacturer=device.manufacturer, serial_number=device.serial_number, note=f"approved by {by}")
    await policies.allow(entry, now)
    return True


async def block(store: Store, device: Device, *, reason: str, by: str, now: datetime) -> Device:
    """Shut a device out: no voucher, no certificate, no renewal."""
    note = Note("blocked", "", f"by {by}: {reason}" if reason else f"by {by}")
    return await _advance(store, device, (Event.BLOCK,), note, now, reason or "blocked by the operator")


async def unblock(store: Store, device: Device, *, by: str, now: datetime) -> Device:
    """Take the block away: a device that was operational is so again, any other has to ask for a voucher anew.

    One that is barred stays so: the operator has not spoken of its audit log (`approve`).
    Raises Refused if there is no block.
    """
    if device.state not in lifecycle.BLOCKED:
        # The reason that the lifecycle has for it, in words for people.
        raise Refused("event-out-of-order", f"{device.serial_number} is {device.state}: only a block can be taken away")
    return await _advance(store, device, (Event.UNBLOCK,), Note("unblocked", "", f"by {by}"), now)


async def _advance(
    store: Store, device: Device, events: tuple[Event, ...], note: Note, now: datetime, reason: str = ""
) -> Device:
    return await store.advance(device, Change(events=events, notes=(note,), now=now, reason=reason))
