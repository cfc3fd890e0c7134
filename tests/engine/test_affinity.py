"""Which replica a picture is sent to: its home, the one that is known to hold it, or the least busy one."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from serve_app.engine.affinity import Affinity, home

REPLICAS = ["one", "two", "three", "four"]
PICTURES = [f"tenant\0{number:064x}" for number in range(2000)]
IDLE = dict.fromkeys(REPLICAS, 0)


def test_every_router_has_the_same_home_for_a_picture():
    assert [home(picture, REPLICAS) for picture in PICTURES] == [home(picture, REPLICAS[::-1]) for picture in PICTURES]


def test_homes_are_spread_evenly():
    counts = Counter(home(picture, REPLICAS) for picture in PICTURES)
    assert all(420 < counts[replica] < 580 for replica in REPLICAS)


def test_only_the_pictures_of_a_replica_that_ended_move():
    left = REPLICAS[1:]
    for picture in PICTURES:
        before = home(picture, REPLICAS)
        assert home(picture, left) == before or before == REPLICAS[0]


def test_a_new_picture_goes_home_unless_its_home_is_busier_by_a_quarter_of_the_slots():
    affinity = Affinity(slots=64)
    at = home(PICTURES[0], REPLICAS)
    assert affinity.choose(PICTURES[0], IDLE | {at: 16}) == at
    assert affinity.choose(PICTURES[0], IDLE | {at: 17}) != at


def test_a_picture_goes_to_the_replica_that_holds_its_pages_within_the_same_bound():
    affinity = Affinity(slots=64)
    at = home(PICTURES[0], REPLICAS)
    holder = next(replica for replica in REPLICAS if replica != at)
    affinity.remember(PICTURES[0], holder)
    assert affinity.choose(PICTURES[0], IDLE) == holder
    assert affinity.choose(PICTURES[0], IDLE | {holder: 16}) == holder
    assert affinity.choose(PICTURES[0], IDLE | {holder: 17}) != holder


def test_the_pictures_of_a_replica_that_ended_go_home_to_one_that_runs():
    affinity = Affinity(slots=64)
    affinity.remember(PICTURES[0], "gone")
    assert affinity.choose(PICTURES[0], IDLE) == home(PICTURES[0], REPLICAS)


def test_a_hot_picture_is_spread_over_all_replicas():
    affinity, loads = Affinity(slots=16), dict(IDLE)
    for _ in range(200):
        chosen = affinity.choose(PICTURES[0], loads)
        affinity.remember(PICTURES[0], chosen)
        loads[chosen] += 1
    assert max(loads.values()) - min(loads.values()) <= 16 // 4 + 1


def test_the_pictures_seen_longest_ago_are_forgotten():
    affinity = Affinity(slots=64, remembered=2)
    at = home(PICTURES[0], REPLICAS)
    other = next(replica for replica in REPLICAS if replica != at)
    for picture in PICTURES[:3]:
        affinity.remember(picture, other)
    assert affinity.choose(PICTURES[0], IDLE) == at
    assert affinity.choose(PICTURES[2], IDLE) == other


@given(
    slots=st.integers(1, 512),
    loads=st.dictionaries(st.sampled_from(REPLICAS), st.integers(0, 600), min_size=1),
    remembered=st.none() | st.sampled_from([*REPLICAS, "gone"]),
    picture=st.text(max_size=8),
)
def test_a_running_replica_is_chosen_and_never_one_that_is_far_busier(
    slots: int, loads: dict[str, int], remembered: str | None, picture: str
):
    affinity = Affinity(slots)
    if remembered is not None:
        affinity.remember(picture, remembered)
    chosen = affinity.choose(picture, loads)
    assert chosen in loads
    assert loads[chosen] - min(loads.values()) <= max(1, slots // 4)
