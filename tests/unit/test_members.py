"""Sharing a group's partitions, decided: each member by itself, from what all can read."""

from collections import Counter
from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from choreo.adapters.sqlite.members import LEASE_S, Group, Member, Turn, turn_of
from choreo.events import Partition

NOW = 1000.0
TOPICS = {"a": 4, "b": 4, "c": 1}


def member(
    number: int, *, holder: str = "up", until: float = NOW + 4, topics: str = "abc"
) -> Member:
    return Member(number, holder, frozenset(topics), until)


def turn(group: Group, me: int, topics: Mapping[str, int] | None = None) -> Turn:
    return turn_of(group, me, topics or TOPICS, NOW, alive=lambda holder: holder == "up")


class Table:
    """The two tables, with every member's turn taken on them."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.assigned: dict[Partition, int] = {}

    def act(self, me: int) -> bool:
        """Take one member's turn; tell whether it changed anything."""
        topics = next(one.topics for one in self.members if one.id == me)
        wanted = {topic: count for topic, count in TOPICS.items() if topic in topics}
        done = turn(Group(self.members, self.assigned), me, wanted)
        for gone in done.evicted:
            self.members = [one for one in self.members if one.id != gone]
        for partition in done.take:
            assert self.assigned.get(partition, 0) not in {one.id for one in self.members}
            self.assigned[partition] = me
        for partition in done.give:
            assert self.assigned[partition] == me
            self.assigned[partition] = 0
        return bool(done.evicted or done.take or done.give)

    def calm(self, order: Sequence[int]) -> None:
        """Take turns until nobody has anything to do."""
        for _ in range(50):
            living = [one.id for one in self.members if one.holder == "up"]
            acted = [self.act(me) for me in sorted(living, key=order.index)]
            if not any(acted):
                return
        raise AssertionError("the group does not come to rest")


def test_a_member_alone_takes_everything() -> None:
    taken = turn(Group([member(1)], {}), 1).take
    assert set(taken) == {Partition(t, n) for t, count in TOPICS.items() for n in range(count)}


def test_a_second_member_gets_its_half_and_equal_keys_stay_together() -> None:
    table = Table()
    table.members = [member(1)]
    table.calm([1])
    table.members.append(member(2))
    table.calm([2, 1])
    mine = {p for p, owner in table.assigned.items() if owner == 2}
    assert mine == {Partition(topic, number) for topic in "ab" for number in (2, 3)}


def test_a_lease_that_ran_out_or_a_dead_process_loses_everything_at_once() -> None:
    for gone in (
        member(1, until=NOW - 0.1),
        member(1, holder="gone"),
        member(1, until=NOW + LEASE_S + 60),  # of before the machine was started again
    ):
        group = Group([gone, member(2)], {Partition("a", 0): 1})
        done = turn(group, 2)
        assert done.evicted == (1,)
        assert Partition("a", 0) in done.take


def test_whoever_was_dropped_finds_out_and_writes_nothing() -> None:
    done = turn(Group([member(2)], {Partition("a", 0): 2}), 1)
    assert done.out
    assert not done.writes


def test_a_lease_is_renewed_before_it_ends() -> None:
    assert not turn(Group([member(1, until=NOW + LEASE_S)], {}), 1).renew
    assert turn(Group([member(1, until=NOW + 3)], {}), 1).renew


def test_only_subscribers_of_a_topic_share_it() -> None:
    table = Table()
    table.members = [member(1, topics="ab"), member(2)]
    table.calm([1, 2])
    assert table.assigned[Partition("c", 0)] == 2


@given(
    st.lists(st.sampled_from(["join", "leave", "die"]), max_size=12),
    st.randoms(use_true_random=False),
)
def test_whatever_comes_and_goes_all_is_shared_out_evenly(whats: list[str], rng: object) -> None:
    table = Table()
    table.members = [member(1)]
    order = list(range(1, 40))
    rng.shuffle(order)  # type: ignore[attr-defined]
    for number, what in enumerate(whats, 2):
        if what == "join":
            table.members.append(member(number))
        elif len(table.members) > 1:
            gone = table.members[number % len(table.members)]
            table.members.remove(gone)
            if what == "die":
                table.members.append(gone._replace(holder="gone"))
                table.members.sort()
        before = dict(table.assigned)
        table.calm(order)
        living = {one.id for one in table.members}
        for topic, count in TOPICS.items():
            owners = [table.assigned[Partition(topic, n)] for n in range(count)]
            assert set(owners) <= living
            shares = Counter(owners)
            assert max(shares.values()) - min(shares.get(one, 0) for one in living) <= 1
        if what == "join":  # nothing moves between those who were there
            for partition, owner in before.items():
                assert table.assigned[partition] in {owner, number}
