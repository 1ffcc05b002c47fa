"""Layouts L1 and tree: branches attached along a history see what their own prompts would show."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_rich import make_rich_corpus

from data_pipeline.build import BuildConfig, compile_store
from data_pipeline.corpus import write_corpus
from data_pipeline.errors import DataError
from data_pipeline.evaluation_set import EvaluationSet
from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.moments import Moments
from data_pipeline.packing import count, laid_out, pack
from data_pipeline.plan import HISTORY, make_plan
from data_pipeline.preview import render_tree
from data_pipeline.splits import Phase, SplitConfig
from data_pipeline.store import TokenStore
from data_pipeline.tree import NO_LABELS, Ages, Branch, Moment, Tree
from data_pipeline.verbalize import AGE_BOUNDS, AGES

ALONG = MixtureConfig(targets_per_tree=12, history_events=15, moments_per_tree=5, ages="gaps")
EVERYTHING = 1 << 30
CUE = "History, each with the time since the one before:\n"
MINUTE = 60_000


def random_store(folder: Path, seed: int, tokenizer: Path) -> TokenStore:
    """Users whose events share instants and requests at random."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 77]))
    n_users, n_items = 12, 60
    users = np.sort(rng.integers(0, n_users, 400))
    pauses = rng.choice([0, 0, 1, 50, 3_000, 20_000], 400) * MINUTE
    elapsed = np.cumsum(pauses)
    times = 1_500_000_000_000 + elapsed - elapsed[np.searchsorted(users, users)]
    requests = [
        f"{user}-{number}" if known else None
        for user, number, known in zip(
            users, np.cumsum(rng.random(400) < 0.5), rng.random(400) < 0.7, strict=True
        )
    ]
    events = {
        "user_id": [str(user) for user in users],
        "item_id": [str(item) for item in np.arange(400) * 7 % n_items],
        "timestamp": pa.array(times, pa.timestamp("ms", "UTC")),
        "action": ["rated"] * 400,
        "value": pa.array(rng.integers(1, 6, 400), pa.float32()),
        "request_id": pa.array(requests, pa.string()),
    }
    items = [f"Thing {item}" for item in range(n_items)]
    corpus = write_corpus(
        folder / "corpus",
        name="random",
        item_noun="thing",
        items=pa.table({"item_id": [str(i) for i in range(n_items)], "title": items}),
        users=pa.table({"user_id": [str(user) for user in range(n_users)]}),
        events=pa.table(events),
    )
    split = SplitConfig(validation_share=0.1, test_share=0.1)
    return compile_store(corpus, tokenizer, folder / "store", BuildConfig(split=split))


@pytest.fixture(scope="module", params=range(4))
def any_store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_store: TokenStore
) -> TokenStore:
    folder = tmp_path_factory.mktemp("random")
    return random_store(folder, request.param, tiny_store.tokenizer_folder)


def shown_events(tree: Tree, store: TokenStore) -> int:
    """Events in the whole trunk: every line behind the cue."""
    return store.encoder.decode(tree.trunk).partition("istory")[2].count("\n") - 1


def own_moment(tree: Tree, branch: Branch, store: TokenStore) -> Moment:
    """The moment that a branch stands at, found by counting the lines that it sees."""
    before = store.encoder.decode(tree.before(branch))
    first = tree.moment.cut - shown_events(tree, store)
    cut = first + before.partition("istory")[2].count("\n") - 1
    time = int(store.event_time_E[cut])
    return replace(tree.moment, start=first, cut=cut, stop=cut + ALONG.targets_per_tree, time=time)


def words_of(milliseconds: int) -> str:
    return next(words for bound, words in AGES if milliseconds < bound)


def since_line(milliseconds: int) -> str:
    words = words_of(milliseconds)
    words = {"now": "under an hour", "today": "under a day"}.get(words, words)
    return f"Time since the last one: {words}\n"


def attached(mixture: Mixture, trees: int) -> Iterator[tuple[Tree, Branch]]:
    for index in range(trees):
        tree = mixture[index]
        yield from ((tree, branch) for branch in tree.branches if branch.attach is not None)


def check_no_leak(store: TokenStore, tree: Tree, branch: Branch) -> None:
    """Every event that a branch sees is older than its target, and of no request with it."""
    cut, subject = own_moment(tree, branch, store).cut, branch.subject
    first = tree.moment.cut - shown_events(tree, store)
    assert first < cut <= subject
    assert store.event_opens_request_E[cut]
    assert store.event_time_E[first:cut].max() < store.event_time_E[subject]
    begins = np.flatnonzero(store.event_opens_request_E[: subject + 1])[-1]
    assert cut <= begins
    assert subject < store.train_stops_U[tree.moment.user]


# --- a history that does not depend on where it ends ---------------------------------------------


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_gaps_date_each_event_by_the_one_before_it(
    rich_store: TokenStore, data: st.DataObject
) -> None:
    store = rich_store
    user = data.draw(st.integers(0, store.n_users - 1))
    first, end = (int(row) for row in store.user_offsets_U1[user : user + 2])
    if end - first < 3:
        return
    start = data.draw(st.integers(first, end - 3))
    cut, later = sorted(data.draw(st.sets(st.integers(start + 1, end - 1), min_size=2, max_size=2)))
    time_E = store.event_time_E

    def moment(row: int, ages: Ages) -> Moment:
        made = Moment(user=user, start=start, cut=row, stop=row + 1, time=int(time_E[row]))
        return replace(made, ages=ages)

    trunk, spans = store.trunk(moment(later, "gaps"), "plain", EVERYTHING, open_end=True)
    lines = store.encoder.decode(trunk).partition(CUE)[2].splitlines()
    for row, line in zip(range(start, later), lines, strict=True):
        before = time_E[row - 1] if row > first else time_E[row]
        assert line.startswith(f"{words_of(int(time_E[row] - before))} | ")
    # What an earlier moment shows is a beginning of what a later one shows, then says how long ago.
    own, _ = store.trunk(moment(cut, "gaps"), "plain", EVERYTHING)
    attach = spans.lines[cut - start]
    since = since_line(int(time_E[cut] - time_E[cut - 1]))
    assert own[:attach].tolist() == trunk[:attach].tolist()
    assert store.encoder.decode(own[attach:]) == since
    assert (
        store.encoder.tokenizer(store.encoder.decode(own), split_special_tokens=True)["input_ids"]
        == own.tolist()
    )


def test_ages_do_depend_on_where_a_history_ends(tiny_store: TokenStore) -> None:
    """The comparison above can fail."""
    moments = Moments(tiny_store, history_events=1000, window=1)
    _, early, *_, late = moments.evaluation(0, Phase.TRAIN, "full")
    (own, _), (trunk, spans) = (tiny_store.trunk(m, "plain", EVERYTHING) for m in (early, late))
    assert early.cut > early.start == late.start
    attach = spans.lines[early.cut - early.start]
    assert own.tolist() != trunk[:attach].tolist()


def test_ages_are_bucketed_as_everywhere() -> None:
    for gap in (0, 59 * MINUTE, 60 * MINUTE, 10**12):
        assert words_of(gap) == AGES[int(np.searchsorted(AGE_BOUNDS, gap, side="right"))][1]


def test_evaluation_says_behind_the_history_how_long_ago_the_last_event_was(
    tiny_store: TokenStore,
) -> None:
    task = Mixture([tiny_store], MixtureConfig(tasks={"rating": 1.0}), seed=0).tasks[0]
    exams = [
        EvaluationSet(tiny_store, [task], phase=Phase.TEST, config=config, seed=0, max_targets=40)
        for config in (MixtureConfig(), ALONG)
    ]
    decode = tiny_store.encoder.decode
    for tree in exams[1]:
        text, moment = decode(tree.trunk), tree.moment
        if moment.cut > moment.start:
            gap = moment.time - int(tiny_store.event_time_E[moment.cut - 1])
            assert text.endswith(since_line(gap))
        assert all(branch.attach is None for branch in tree.branches)
    assert [len(tree.branches) for tree in exams[0]]  # the default says nothing of the kind
    assert not any("Time since" in decode(tree.trunk) for tree in exams[0])


# --- branches along the history ------------------------------------------------------------------


@pytest.fixture(scope="module", params=["tiny", "rich"])
def along(
    request: pytest.FixtureRequest, tiny_store: TokenStore, rich_store: TokenStore
) -> Mixture:
    return Mixture([tiny_store if request.param == "tiny" else rich_store], ALONG, seed=3)


def test_a_branch_sees_exactly_what_its_own_prompt_shows(along: Mixture) -> None:
    store, seen = along.stores[0], 0
    for tree, branch in attached(along, 60):
        own, _ = store.trunk(own_moment(tree, branch, store), "plain", EVERYTHING)
        joined = [*tree.before(branch), *branch.tokens]
        assert joined[: len(own)] == own.tolist()
        instruction = store.encoder.decode(joined[len(own) :])
        assert not instruction.startswith("Time since")
        seen += 1
    assert seen > 100


def test_joined_ids_equal_the_tokenizer_on_whole_prompts(along: Mixture) -> None:
    encoder = along.stores[0].encoder
    for index in range(40):
        tree = along[index]
        for branch in tree.branches:
            ids = [*tree.before(branch), *branch.tokens, branch.answer[-1]]
            text = encoder.decode(ids)
            assert encoder.tokenizer(text, split_special_tokens=True)["input_ids"] == ids


def test_branches_stand_at_several_moments_and_some_at_the_end(along: Mixture) -> None:
    store = along.stores[0]
    for index in range(60):
        tree = along[index]
        points = [branch.attach for branch in tree.branches]
        assert len(set(points)) <= ALONG.moments_per_tree
        assert len(points) <= ALONG.targets_per_tree
        ordered = [len(tree.trunk) if point is None else point for point in points]
        assert ordered == sorted(ordered)
        if tree.moment.cut - tree.moment.start > 8 and len(points) == ALONG.targets_per_tree:
            assert len(set(points)) > 2
        assert shown_events(tree, store) <= ALONG.history_events


def test_a_shorter_trunk_still_shows_each_branch_its_own_prompt(tiny_store: TokenStore) -> None:
    mixture = Mixture([tiny_store], replace(ALONG, max_trunk_tokens=120), seed=3)
    shortened = 0
    for tree, branch in attached(mixture, 60):
        assert len(tree.trunk) <= 120
        moment = own_moment(tree, branch, tiny_store)
        shortened += moment.start > tree.moment.start
        own, _ = tiny_store.trunk(moment, "plain", EVERYTHING)
        assert [*tree.before(branch), *branch.tokens][: len(own)] == own.tolist()
    assert shortened > 20


EVENTS_ONLY = replace(ALONG, tasks={"rating": 1.0, "pairwise": 1.0, "next_item_choice": 1.0})


def test_nothing_leaks_into_a_branch_along_the_history(any_store: TokenStore) -> None:
    checked = 0
    for tree, branch in attached(Mixture([any_store], EVENTS_ONLY, seed=1), 80):
        check_no_leak(any_store, tree, branch)
        checked += 1
    assert checked > 100


def test_a_branch_attached_one_event_later_is_found_out(any_store: TokenStore) -> None:
    """The check above can fail: for every branch that is asked about what comes next."""
    found = 0
    for tree, branch in attached(Mixture([any_store], EVENTS_ONLY, seed=1), 80):
        moment = own_moment(tree, branch, any_store)
        if branch.subject != moment.cut:
            continue
        whole = replace(tree.moment, start=moment.start)
        _, spans = any_store.trunk(whole, "plain", EVERYTHING, open_end=True)
        lines = [*spans.lines.tolist(), len(tree.trunk)]
        later = replace(branch, attach=lines[moment.cut - moment.start + 1])
        with pytest.raises(AssertionError):
            check_no_leak(any_store, tree, later)
        found += 1
    assert found > 10


def test_cutting_requests_in_two_is_found_out(any_store: TokenStore) -> None:
    """Moments drawn as if every event were a request of its own."""
    blind = TokenStore.open(any_store.folder)
    blind.event_opens_request_E = np.ones(blind.n_events, np.bool_)
    leaks = 0
    for tree, branch in attached(Mixture([blind], EVENTS_ONLY, seed=1), 80):
        try:
            check_no_leak(any_store, tree, branch)
        except AssertionError:
            leaks += 1
    assert leaks > 10


def test_a_tree_depends_on_seed_and_index_alone(tiny_store: TokenStore) -> None:
    one, other = (Mixture([tiny_store], ALONG, seed=5) for _ in range(2))
    backwards = [other[index] for index in reversed(range(20))][::-1]
    for index, again in enumerate(backwards):
        rows = [pack([tree], len(one.tasks)) for tree in (one[index], again)]
        for name in ("tokens_T", "positions_T", "attach_lengths", "label_positions_M"):
            assert np.array_equal(*(getattr(row, name) for row in rows))


def test_a_corpus_without_times_needs_no_gaps(rich_store: TokenStore, tmp_path: Path) -> None:
    corpus = make_rich_corpus(tmp_path / "corpus", has_times=False, users=40)
    store = compile_store(corpus, rich_store.tokenizer_folder, tmp_path / "store")
    texts = []
    for ages in ("moment", "gaps"):
        mixture = Mixture([store], replace(ALONG, ages=ages), seed=0)
        trees = [mixture[index] for index in range(30)]
        assert any(branch.attach is not None for tree in trees for branch in tree.branches)
        texts.append([tree.trunk.tolist() for tree in trees])
    assert texts[0] == texts[1]  # there is nothing to date


def test_dated_events_need_gaps(tiny_store: TokenStore) -> None:
    with pytest.raises(DataError, match="ages to gaps"):
        Mixture([tiny_store], replace(ALONG, ages="moment"), seed=0)


def test_caps_bound_the_branches_of_all_moments_together(tiny_store: TokenStore) -> None:
    capped = replace(ALONG, caps=replace(ALONG.caps, per_user=3), moments_per_tree=8)
    mixture = Mixture([tiny_store], capped, seed=0)
    sizes = [len(mixture[index].branches) for index in range(40) if mixture[index].moment.user >= 0]
    assert max(sizes) == 3


# --- the history alone ---------------------------------------------------------------------------

ALONE = replace(ALONG, moments_per_tree=0, history_loss_weight=1.0)


def test_a_history_alone_has_no_branches_and_every_action_is_a_target(
    tiny_store: TokenStore,
) -> None:
    mixture = Mixture([tiny_store], ALONE, seed=0)
    for index in range(30):
        tree = mixture[index]
        assert not tree.branches
        assert tree.trunk_labels.targets == shown_events(tree, tiny_store) - 1 > 0  # and the end
    batch = pack([mixture[0], mixture[1]], len(mixture.tasks))
    assert batch.branch_counts.tolist() == [0, 0]
    assert batch.n_targets == len(batch.label_positions_M)


def test_a_history_alone_must_have_something_to_learn(
    rich_store: TokenStore, tiny_store: TokenStore
) -> None:
    with pytest.raises(ValueError, match="history_loss_weight"):
        MixtureConfig(moments_per_tree=0)
    with pytest.raises(ValueError, match="plain"):
        MixtureConfig(moments_per_tree=0, history_title_weight=1.0, styles=("labelled",))
    titles = MixtureConfig(moments_per_tree=0, history_title_weight=1.0)
    assert Mixture([rich_store], titles, seed=0)[0].trunk_labels.targets


# --- counts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [ALONG, ALONE, replace(ALONG, history_loss_weight=0.3)])
@pytest.mark.parametrize("layout", ["L0", "L2"])
def test_plans_are_exact(tiny_store: TokenStore, config: MixtureConfig, layout: str) -> None:
    mixture = Mixture([tiny_store], config, seed=0)
    plan = make_plan(mixture, steps=5, global_batch=4, layout=layout)  # type: ignore[arg-type]
    rows = [
        pack([mixture[step * 4 + place] for place in range(4)], len(mixture.tasks), layout=layout)  # type: ignore[arg-type]
        for step in range(5)
    ]
    assert plan.exact
    assert plan.total("targets") == sum(row.n_targets for row in rows)
    assert plan.total("tokens") == sum(row.n_tokens for row in rows)
    labelled = sum(mixture[index].trunk_labels.targets for index in range(20))
    assert plan.total("targets", task=HISTORY) == labelled


def test_one_prompt_per_branch_shows_what_the_branch_sees(tiny_store: TokenStore) -> None:
    mixture = Mixture([tiny_store], replace(ALONG, history_loss_weight=0.3), seed=0)
    trees = [mixture[index] for index in range(20)]
    singles = laid_out(trees, "L0")
    prompts = [[*s.trunk, *s.branches[0].tokens] for s in singles if s.branches]
    expected = [[*tree.before(b), *b.tokens] for tree in trees for b in tree.branches]
    assert prompts == expected
    assert all(len(s.before(b)) == len(s.trunk) for s in singles for b in s.branches)
    assert sum(s.trunk_labels is not NO_LABELS for s in singles) == sum(
        tree.trunk_labels is not NO_LABELS for tree in trees
    )
    targets = [count(made, len(mixture.tasks))[0].tolist() for made in (trees, singles)]
    assert targets[0] == targets[1]


def test_the_preview_says_where_a_branch_stands(tiny_store: TokenStore) -> None:
    mixture = Mixture([tiny_store], ALONG, seed=0)
    tree, branch = next(attached(mixture, 40))
    text = "".join(span.text for span in render_tree(tree, tiny_store, mixture.tasks))
    assert f"tokens behind the trunk's first {branch.attach}\n" in text
