"""The same audio never lies on both sides; the same rows always split alike."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import DatasetError
from training.data.rows import Row, Sound, Turn
from training.data.splitting import split


def row(*keys: str, label: str | None = None, place: str = "", own: str | None = None) -> Row:
    sounds = tuple(Sound(key, data=key.encode()) for key in keys)
    return Row((Turn("user", "?"), Turn("assistant", "!")), sounds, label, place or "-".join(keys), own)


def keys(one: Row) -> tuple[str, ...]:
    return tuple(sound.name for sound in one.sounds)


def halves(rows, fraction=0.1, seed=0):
    return split(rows, fraction=fraction, seed=seed, key_of=keys)


@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=2), min_size=1, max_size=20),
    st.floats(0.01, 0.99),
    st.integers(0, 5),
)
def test_no_audio_on_both_sides(audios, fraction, seed):
    rows = [row(*names, place=f"data.jsonl:{number}") for number, names in enumerate(audios)]
    train, validation = halves(rows, fraction, seed)
    assert Counter(train) + Counter(validation) == Counter(rows)
    assert train
    assert not {key for one in train for key in keys(one)} & {key for one in validation for key in keys(one)}
    assert (train, validation) == halves(rows, fraction, seed)


def test_share_and_seed():
    rows = [row(str(number)) for number in range(200)]
    validation = halves(rows)[1]
    assert len(validation) == 20
    assert validation != halves(rows, seed=1)[1]
    assert validation == [one for one in rows if one in validation], "rows keep their order"


def test_rows_that_say_train_are_held_out_only_where_there_are_no_others():
    rows = [row(str(number), own="train" if number < 15 else None) for number in range(20)]
    validation = halves(rows)[1]
    assert len(validation) == 2
    assert {one.split for one in validation} == {None}
    both = [row("a", own="train"), row("a", place="again"), row("b"), row("c")]
    assert {keys(one) for one in halves(both, 0.5)[1]} <= {("b",), ("c",)}
    assert len(halves([row(str(number), own="train") for number in range(20)])[1]) == 2


def test_a_row_keeps_its_side_when_others_come():
    rows = [row(str(number)) for number in range(100)]
    before = set(halves(rows)[1])
    after = set(halves([*rows, *(row(f"new{number}") for number in range(10))])[1])
    assert len(before & after) >= 8


def test_two_recordings_give_one_each():
    train, validation = halves([row("a"), row("a", place="again"), row("b")])
    assert {len({keys(one) for one in side}) for side in (train, validation)} == {1}
    assert halves([row("a")]) == ([row("a")], [])


def test_no_class_loses_all_its_rows():
    rows = [row(str(number), label="common") for number in range(30)]
    rows += [row(f"rare{number}", label=f"rare{number}") for number in range(10)]
    for seed in range(10):
        train, validation = halves(rows, 0.4, seed)
        assert {one.label for one in train} == {one.label for one in rows}
        assert len(validation) == 16


def test_own_splits_count():
    rows = [row("a"), row("b", own="train"), row("c", own="validation"), row("d", own="test")]
    assert halves(rows) == (rows[:2], rows[2:3])
    assert halves([rows[0], rows[3]]) == (rows[:1], rows[3:])
    assert len(halves(rows[:2], 0.5)[1]) == 1
    with pytest.raises(DatasetError, match="marked test"):
        halves(rows[3:])
