"""A store of a large corpus has more pieces than event codes can count."""

import numpy as np

from data_pipeline.store import TokenStore
from data_pipeline.tree import Moment

FAR = 40_000


def test_trunks_are_the_same_where_the_pieces_of_actions_lie_far_behind(
    tiny_store: TokenStore,
) -> None:
    start, stop = (int(row) for row in tiny_store.user_offsets_U1[:2])
    moment = Moment(user=0, start=start, cut=stop - 1, stop=stop, time=10**13)
    expected, spans = tiny_store.trunk(moment, "plain", 4096)

    far = TokenStore.open(tiny_store.folder)
    first = far.card.first_piece["action"]
    actions = [far.piece(first + code) for code in range(int(far.event_action_E.max()) + 1)]
    ends = far.piece_offsets_P1[-1] + np.cumsum([len(ids) for ids in actions])
    far.card.first_piece["action"] = far.n_pieces + FAR
    far.piece_offsets_P1 = np.concatenate(
        [far.piece_offsets_P1, np.full(FAR, far.piece_offsets_P1[-1]), ends]
    )
    far.tokens_T = np.concatenate([far.tokens_T, *actions])
    found, same_spans = far.trunk(moment, "plain", 4096)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(same_spans.actions, spans.actions)


def test_constants_may_be_very_many(tiny_store: TokenStore) -> None:
    """The values of a field, such as authors: their arrays grow seldom, and join as any piece."""
    store = TokenStore.open(tiny_store.folder)
    texts = [f" Author {number}\n" for number in range(3000)]
    grown = 0
    for text in texts:
        before = store._constant_tokens
        store.constant(text)
        grown += store._constant_tokens is not before
    assert grown < 20
    pieces = [store.constant(text) for text in reversed(texts)]
    assert len(set(pieces)) == len(texts)
    ids, lengths = store.gather([*pieces, 0])
    own = len(store.piece(0))
    assert store.encoder.decode(ids[:-own]) == "".join(reversed(texts))
    assert lengths.tolist() == [len(store.piece(piece)) for piece in [*pieces, 0]]
