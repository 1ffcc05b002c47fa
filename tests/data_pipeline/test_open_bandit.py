"""Open Bandit in its own format: a file of impressions per policy and campaign, hashed features."""

from hashlib import md5
from pathlib import Path

import pytest

from data_pipeline.errors import DataError
from data_pipeline.sources.open_bandit import CAMPAIGNS, POLICIES, OpenBandit

N_ITEMS = {"all": 3, "men": 2, "women": 2}
COUNTS = {"impressions": 12, "items": 7, "clicks": 6}


def hashed(text: str) -> str:
    return md5(text.encode()).hexdigest()


def write_campaign(folder: Path, policy: str, campaign: str) -> None:
    folder.mkdir(parents=True)
    n_items = N_ITEMS[campaign]
    affinities = [f"user-item_affinity_{item}" for item in range(n_items)]
    features = [f"user_feature_{number}" for number in range(4)]
    header = ["", "timestamp", "item_id", "position", "click", "propensity_score"]
    lines = [",".join([*header, *features, *affinities])]
    for row in range(2):
        user = [hashed(f"{number}{row}") for number in range(4)]
        loves = ["2.0" if item == row else "0.0" for item in range(n_items)]
        start = [str(row), f"2019-11-24 00:00:3{row}.762830+00:00", "1", str(row + 2), str(row)]
        lines.append(",".join([*start, "0.0125", *user, *loves]))
    (folder / f"{campaign}.csv").write_text("\n".join(lines) + "\n")
    lines = [",item_id,item_feature_0,item_feature_1,item_feature_2,item_feature_3"]
    for item in range(n_items):
        # Every file has hashes of its own.
        kinds = [hashed(f"{policy}{campaign}{item % 2}{number}") for number in range(3)]
        lines.append(",".join([str(item), str(item), str(-0.5 + item), *kinds]))
    (folder / "item_context.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for policy in POLICIES:
        for campaign in CAMPAIGNS:
            write_campaign(tmp_path / "obd" / policy / campaign, policy, campaign)
    return tmp_path / "obd"


def test_files_become_a_corpus(tmp_path: Path, files: Path) -> None:
    source = OpenBandit(counts=COUNTS)
    corpus = source.build(source.fetch(tmp_path / "cache", files), tmp_path / "corpus")
    assert corpus.card.counts == {"items": 7, "users": 12, "events": 12}
    assert corpus.card.actions == ("clicked", "skipped")
    assert corpus.items.to_pylist()[2] == {
        "item_id": "all-2",
        "title": "item all-2",
        "campaign": "all",
        "category_1": hashed("randomall00")[:6],
        "category_2": hashed("randomall01")[:6],
        "category_3": hashed("randomall02")[:6],
        "score": 1.5,
    }
    assert corpus.users.to_pylist()[1] == {
        "user_id": "random-all-1",
        **{f"feature_{number}": hashed(f"{number}1")[:6] for number in range(4)},
        "past_clicks": 2.0,
    }
    event = corpus.events.to_pylist()[1]
    assert event.pop("timestamp").isoformat() == "2019-11-24T00:00:31.762000+00:00"
    assert event == {
        "user_id": "random-all-1",
        "item_id": "all-1",
        "action": "clicked",
        "value": None,
        "request_id": "random-all-1",
        "position": 3.0,
        "propensity": 0.0125,
        "affinity": 2.0,
        "policy": "random",
    }
    assert corpus.events["affinity"].to_pylist()[0] == 0.0  # that user's past click was on item 0
    assert set(corpus.events["policy"].to_pylist()) == set(POLICIES)


@pytest.mark.parametrize(
    ("old", "new", "column"),
    [
        ("+00:00,1,3,1,", "+00:00,3,3,1,", "item_id"),
        (",3,1,0.0125", ",4,1,0.0125", "position"),
        (",3,1,0.0125", ",3,2,0.0125", "click"),
        (",3,1,0.0125", ",3,1,0", "propensity_score"),
        (",3,1,0.0125", ",3,1,", "propensity_score"),
    ],
)
def test_spoilt_value_is_named(
    tmp_path: Path, files: Path, old: str, new: str, column: str
) -> None:
    path = files / "bts" / "all" / "all.csv"
    content = path.read_text()
    assert content.count(old) == 1
    path.write_text(content.replace(old, new))
    source = OpenBandit(counts=COUNTS)
    with pytest.raises(DataError) as caught:
        source.build(source.fetch(tmp_path, files), tmp_path / "corpus")
    error = caught.value
    assert (error.file, error.row, error.column) == (str(path), 2, column)


def test_counts_are_asked_for(tmp_path: Path, files: Path) -> None:
    source = OpenBandit()
    with pytest.raises(DataError, match=r"open-bandit has 60,000 impressions; .* have 12"):
        source.build(source.fetch(tmp_path, files), tmp_path / "corpus")
