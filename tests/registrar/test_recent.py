"""What was seen a moment ago is remembered, and then let go."""

import weakref

from brski_registrar.recent import MAX_RECENT, RECENT_SECONDS, Recent


class Thing:
    """Something whose end can be seen."""


def test_what_has_faded_is_let_go() -> None:
    now = [0.0]
    recent: Recent[str, Thing] = Recent(lambda: now[0])
    thing = Thing()
    recent.put("old", thing)
    assert recent.get("old") is thing
    seen = weakref.ref(thing)
    del thing
    now[0] += RECENT_SECONDS
    assert recent.get("old") is None
    recent.put("new", Thing())
    assert seen() is None
    assert recent.get("new") is not None


def test_what_is_put_again_fades_later() -> None:
    now = [0.0]
    recent: Recent[str, int] = Recent(lambda: now[0])
    recent.put("a", 1)
    recent.put("b", 2)
    now[0] += RECENT_SECONDS / 2
    recent.put("a", 3)
    now[0] += RECENT_SECONDS / 2
    recent.put("c", 4)
    assert [recent.get(key) for key in "abc"] == [3, None, 4]


def test_the_newest_are_kept() -> None:
    recent: Recent[int, int] = Recent(lambda: 0.0)
    for number in range(MAX_RECENT + 1):
        recent.put(number, number)
    assert recent.get(0) is None
    assert [recent.get(number) for number in (1, MAX_RECENT)] == [1, MAX_RECENT]
    recent.forget(1)
    assert recent.get(1) is None
