"""The prefix tree: lookup by content, retention by readers and pins, LRU eviction."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.kv.node import PrefixNode
from engine.kv.pages import PagePool
from engine.kv.prefix import PrefixTree

PAGE, PAGES = 2, 12
texts = st.lists(st.integers(0, 1), min_size=PAGE, max_size=4 * PAGE).map(tuple)
salts = st.sampled_from(["a", "b"])


def a_tree(pages: int = PAGES, pin_share: float = 1.0) -> PrefixTree:
    return PrefixTree(PagePool(pages, PAGE), pin_share)


def put(tree: PrefixTree, tokens: tuple[int, ...], salt: str = "") -> list[PrefixNode]:
    """Read the cached pages of a text and add the others; the nodes read."""
    nodes = tree.match(salt, tokens, len(tokens) // PAGE)
    for node in nodes:
        tree.add_reader(node)
    pool = tree._pool
    for index in range(len(nodes), len(tokens) // PAGE):
        if not pool.free:
            tree.evict(1)
        if not pool.free:
            break
        parent = nodes[-1] if nodes else tree.root(salt)
        [page] = pool.allocate(1)
        added = tree.add(parent, tokens[index * PAGE : (index + 1) * PAGE], page)
        assert added is not None
        tree.add_reader(added)
        nodes.append(added)
    return nodes


def put_unread(tree: PrefixTree, tokens: tuple[int, ...], salt: str = "") -> None:
    """Add a text and leave it unread."""
    tree.release(put(tree, tokens, salt))


def test_a_prefix_is_found_page_by_page() -> None:
    tree = a_tree()
    put_unread(tree, (1, 2, 3, 4))
    assert len(tree.match("", [1, 2, 3, 4, 5], max_pages=2)) == 2
    assert len(tree.match("", [1, 2, 3, 4, 5], max_pages=1)) == 1
    assert len(tree.match("", [1, 2, 9, 4], max_pages=2)) == 1
    assert not tree.match("", [2, 2, 3, 4], max_pages=2)


def test_nothing_is_found_under_another_salt() -> None:
    tree = a_tree()
    put_unread(tree, (1, 2), salt="one tenant")
    assert not tree.match("another", [1, 2], max_pages=1)


def test_the_least_recently_used_page_is_evicted_first_and_leaves_before_parents() -> None:
    tree = a_tree()
    put_unread(tree, (1, 1, 2, 2))
    put_unread(tree, (3, 3))
    put_unread(tree, (1, 1))
    tree.evict(1)
    assert [len(tree.match("", text, 2)) for text in ([1, 1, 2, 2], [3, 3])] == [1, 1]
    tree.evict(1)
    assert [len(tree.match("", text, 2)) for text in ([1, 1, 2, 2], [3, 3])] == [1, 0]


def test_a_page_that_is_read_is_not_evicted() -> None:
    tree = a_tree()
    nodes = put(tree, (1, 1, 2, 2))
    tree.evict(PAGES)
    assert len(tree) == 2
    tree.release(nodes)
    tree.evict(PAGES)
    assert (len(tree), tree._pool.free) == (0, PAGES)


def test_a_pin_retains_present_and_future_pages() -> None:
    tree = a_tree()
    put_unread(tree, (1, 1))
    tree.pin("group", "", (1, 1, 2, 2))
    put_unread(tree, (1, 1, 2, 2, 3, 3))
    tree.evict(PAGES)
    assert len(tree.match("", [1, 1, 2, 2, 3, 3], 3)) == 2
    tree.unpin("group")
    tree.evict(PAGES)
    assert len(tree) == 0


def test_unpin_all_releases_pinned_prefixes() -> None:
    tree = a_tree()
    tree.pin("group", "", (1, 1))
    put_unread(tree, (1, 1))
    tree.unpin_all()
    tree.evict(1)
    assert len(tree) == 0


def test_a_pin_beyond_the_share_is_not_made_and_lost() -> None:
    tree = a_tree(pages=8, pin_share=0.5)
    tree.pin("fits", "", (1, 1, 2, 2, 3, 3))
    tree.pin("large", "", (4, 4, 5, 5))
    assert list(tree.lost) == ["large"]
    tree.pin("small", "", (4, 4))
    assert (list(tree.lost), tree.pins_made, tree.pins_lost) == (["large"], 3, 1)


def test_pages_that_pins_have_in_common_count_once() -> None:
    tree = a_tree(pages=8, pin_share=0.5)
    tree.pin("one", "", (1, 1, 2, 2, 3, 3))
    tree.pin("other", "", (1, 1, 2, 2, 4, 4))
    assert not tree.lost
    put_unread(tree, (1, 1, 2, 2, 3, 3))
    put_unread(tree, (1, 1, 2, 2, 4, 4))
    assert tree.pinned == 4
    tree.unpin("one")
    assert tree.pinned == 3
    tree.pin("third", "", (5, 5))
    assert not tree.lost


def test_equal_prefixes_of_two_salts_are_two_prefixes() -> None:
    tree = a_tree(pages=8, pin_share=0.5)
    tree.pin("one", "a", (1, 1, 2, 2))
    tree.pin("other", "b", (1, 1, 2, 2))
    tree.pin("third", "a", (3, 3))
    assert list(tree.lost) == ["third"]


def test_pins_yield_by_rank_then_unread_ones_then_the_least_recently_used() -> None:
    tree = a_tree(pages=20)
    for name, preempt_first in (("low", 0), ("read", 2), ("old", 2), ("new", 2), ("used", 2)):
        text = (ord(name[0]),) * 2
        put_unread(tree, text)
        tree.pin(name, "", text, preempt_first)
    tree.pin("waiting", "", (9, 9), 3)
    put(tree, (ord("r"),) * 2)
    put_unread(tree, (ord("o"),) * 2)
    while tree.yield_pin(above=1):
        pass
    assert list(tree.lost) == ["waiting", "new", "used", "old", "read"]
    assert tree.pinned == 1
    assert tree.yield_pin()
    assert not tree.yield_pin()


def test_a_lost_pin_that_is_made_again_or_dropped_is_not_reported() -> None:
    tree = a_tree()
    for name in "abc":
        tree.pin(name, "", (1, 1))
        tree.lose(name)
    tree.pin("a", "", (1, 1))
    tree.unpin("b")
    assert list(tree.lost) == ["c"]
    assert tree.pins_lost == 3


def test_pins_beyond_the_share_of_a_smaller_pool_are_lost() -> None:
    tree = a_tree(pages=12, pin_share=0.5)
    tree.pin("a", "", (1, 1, 2, 2, 3, 3))
    tree.pin("b", "", (4, 4, 5, 5, 6, 6))
    tree._pool.shrink(10)
    tree.enforce_share()
    assert list(tree.lost) == ["a"]


def test_removed_pages_lose_no_pin() -> None:
    tree = a_tree()
    put_unread(tree, (1, 1, 2, 2))
    tree.pin("group", "", (1, 1, 2, 2))
    tree._pool.release(tree.remove_subtree(tree.match("", (1, 1, 2, 2), 2)))
    assert (tree.pinned, list(tree.lost)) == (0, [])
    put_unread(tree, (1, 1, 2, 2))
    assert tree.pinned == 2


def test_a_pin_waits_again_after_clear() -> None:
    tree = a_tree()
    tree.pin("group", "", (1, 1, 2, 2))
    put_unread(tree, (1, 1, 2, 2))
    tree.clear()
    put_unread(tree, (1, 1, 2, 2))
    tree.evict(PAGES)
    assert len(tree) == 2


def test_a_prefix_of_many_pages_is_walked_without_recursion() -> None:
    tree = a_tree(pages=3000)
    put_unread(tree, tuple(range(6000)))
    assert sum(1 for _ in tree.nodes()) == 3000
    tree.clear()
    assert tree._pool.free == 3000


class TreeTraffic(RuleBasedStateMachine):
    """Random readers, pins and evictions; the tree's counts are checked after each."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = a_tree(pin_share=0.5)
        self.reading: list[tuple[tuple[int, ...], str, list[PrefixNode]]] = []

    @rule(tokens=texts, salt=salts)
    def read(self, tokens: tuple[int, ...], salt: str) -> None:
        self.reading.append((tokens, salt, put(self.tree, tokens, salt)))

    @precondition(lambda self: self.reading)
    @rule(index=st.integers(0, 99))
    def leave(self, index: int) -> None:
        _, _, nodes = self.reading.pop(index % len(self.reading))
        self.tree.release(nodes)

    @rule(name=st.sampled_from("xyz"), tokens=texts, salt=salts, rank=st.integers(0, 3))
    def pin(self, name: str, tokens: tuple[int, ...], salt: str, rank: int) -> None:
        self.tree.pin(name, salt, tokens, rank)

    @rule(above=st.integers(-1, 3))
    def yield_pin(self, above: int) -> None:
        assert self.tree.yield_pin(above) or not self.tree.yielding(above)

    @rule(name=st.sampled_from("xy"))
    def unpin(self, name: str) -> None:
        self.tree.unpin(name)

    @rule(pages=st.integers(1, PAGES))
    def evict(self, pages: int) -> None:
        before = self.tree._pool.free + self.tree.unread
        self.tree.evict(pages)
        assert self.tree._pool.free >= min(pages, before)

    @rule(tokens=texts, salt=salts)
    def remove_subtree(self, tokens: tuple[int, ...], salt: str) -> None:
        self.tree._pool.release(self.tree.remove_subtree(self.tree.match(salt, tokens, 4)))

    @invariant()
    def counts_are_correct_and_no_page_is_lost(self) -> None:
        nodes = list(self.tree.nodes())
        self.tree._pool.check([[node.page for node in nodes]])
        assert len(self.tree) == len(nodes)
        assert self.tree.unread == sum(not node.retained for node in nodes)
        assert self.tree.shared == sum(node.shared for node in nodes)
        assert self.tree.pinned == sum(node.pins > 0 for node in nodes)
        self.tree.check_pins()
        for node in nodes:
            assert node.readers == sum(node in held for _, _, held in self.reading)

    @invariant()
    def pages_with_readers_are_found(self) -> None:
        for tokens, salt, nodes in self.reading:
            assert self.tree.match(salt, tokens, len(nodes)) == nodes


TestTreeTraffic = TreeTraffic.TestCase
TestTreeTraffic.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
