"""Which video is in which split: the official lists, or an identity-disjoint one."""

import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tfds_ffpp.errors import DataError
from tfds_ffpp.tree.naming import VideoRecord

SPLITS = ("train", "val", "test")
# 720/140/140 of 1000, the official proportions.
SHARES = {"train": 0.72, "val": 0.14, "test": 0.14}

# The sources of FaceForensics++ that were cut into several ids, one person each
# (dataset/conversion_dict.json of github.com/ondyari/FaceForensics). The ids of seven
# stand in different official splits: 605, 639, 755, 837, 875, 954 and 982.
SAME_SOURCE = (
    ("331", "332"),
    ("524", "525"),
    ("566", "567"),
    ("605", "606"),
    ("614", "615"),
    ("618", "619"),
    ("639", "640"),
    ("685", "686", "687"),
    ("755", "756"),
    ("766", "767"),
    ("769", "770"),
    ("787", "788"),
    ("837", "838"),
    ("875", "876"),
    ("883", "884"),
    ("937", "938"),
    ("942", "943"),
    ("954", "955"),
    ("967", "968"),
    ("973", "974"),
    ("982", "983"),
    ("993", "994"),
)
_FIRST = {i: ids[0] for ids in SAME_SOURCE for i in ids}
# Why a video is in no split.
UNLISTED = "an id that no split lists"
CROSSING = "its two actors are in different splits"
OVERLAPPING = "shares its source video with another split"
# Whose target ids are those of FaceForensics++.
FFPP_IDS = ("ffpp", "deeperforensics", "df40_ff")
# The lists of dataset/splits of github.com/ondyari/FaceForensics, with their licence.
PACKAGED = Path(__file__).parents[1] / "ffpp_splits"


def first_id(dataset: str, name: str) -> str:
    """One name for a person of a set: of ids cut from one source, the first."""
    return _FIRST.get(name, name) if dataset in FFPP_IDS else name


@dataclass(frozen=True)
class Splits:
    """records: split -> its records, in the order in which they are stored.

    official: whether it is the set's own; None where there is none to keep to.
    source: which split it is, for a reader of the card and of reports.
    dropped: reason -> how many videos are in no split because of it.
    """

    records: dict[str, tuple[VideoRecord, ...]]
    official: bool | None
    source: str
    warnings: tuple[str, ...] = ()
    dropped: dict[str, int] = field(default_factory=dict)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _in_order(records: Iterable[VideoRecord]) -> tuple[VideoRecord, ...]:
    """A fixed order that mixes labels and methods."""
    return tuple(sorted(records, key=lambda r: (_hash(r.key), r.key)))


# The official lists ---------------------------------------------------------------


def find_split_dir(root: Path) -> Path | None:
    """The folder `splits` in the tree or beside it, if any list is in it."""
    for folder in (root / "splits", root.parent / "splits"):
        if any((folder / f"{s}.json").exists() for s in SPLITS):
            return folder
    return None


def _read_pairs(path: Path) -> list[tuple[str, str]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing; put all of train.json, val.json and test.json there, "
            "or none for a split of our own"
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(
            f"{path} is not readable JSON ({error}); copy it again from "
            "dataset/splits of github.com/ondyari/FaceForensics"
        ) from None
    if not isinstance(entries, list) or not entries:
        raise DataError(
            f'{path} must be a list of pairs like ["071", "054"], '
            f"but is {'an empty list' if entries == [] else type(entries).__name__}"
        )
    for number, entry in enumerate(entries):
        shaped = (
            isinstance(entry, list)
            and len(entry) == 2
            and all(
                isinstance(i, str) and len(i) == 3 and i.isascii() and i.isdigit()
                for i in entry
            )
            and entry[0] != entry[1]
        )
        if not shaped:
            raise DataError(
                f"{path}: entry {number} is {json.dumps(entry)[:80]}, not a pair of "
                'two different ids like ["071", "054"]; mend or replace the file'
            )
    return [(a, b) for a, b in entries]


def read_official(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """split -> pairs of ids. Raises DataError for anything malformed or leaking."""
    pairs = {s: _read_pairs(folder / f"{s}.json") for s in SPLITS}
    home: dict[str, str] = {}
    for split in SPLITS:
        for number, pair in enumerate(pairs[split]):
            for video_id in pair:
                if home.setdefault(video_id, split) != split:
                    raise DataError(
                        f"{folder / split}.json: entry {number} {list(pair)} has the "
                        f"id {video_id}, which {home[video_id]}.json has too; an id "
                        "may stand in one split only"
                    )
    return pairs


def is_published(pairs: dict[str, list[tuple[str, str]]]) -> bool:
    """Whether lists are those of FaceForensics++, in whatever order."""
    return _unordered(pairs) == _unordered(read_official(PACKAGED))


def _unordered(
    pairs: dict[str, list[tuple[str, str]]],
) -> dict[str, set[frozenset[str]]]:
    return {split: set(map(frozenset, listed)) for split, listed in pairs.items()}


def why_not_published(records: Sequence[VideoRecord]) -> str:
    """What in videos is not of the lists in the package; "" if those fit.

    They fit where every id is listed, every fake swaps two of one pair, and each
    split gets videos: other sets number their videos too.
    """
    pairs = read_official(PACKAGED)
    home = {i: s for s, listed in pairs.items() for pair in listed for i in pair}
    swapped = set().union(*_unordered(pairs).values())
    filled = set()
    for record in records:
        ids = record.identities
        if not ids or any(i not in home for i in ids):
            return f"{record.key} is of no one whom the official lists name"
        if len(ids) == 2 and frozenset(ids) not in swapped:
            return f"{record.key} swaps two people whom the official lists do not pair"
        filled.add(home[ids[0]])
    lacking = [s for s in SPLITS if s not in filled]
    if lacking:
        return f"the official lists put none of these videos into {lacking[0]}"
    return ""


def _assign_official(
    records: Sequence[VideoRecord], folder: Path
) -> tuple[dict[str, list[VideoRecord]], dict[str, int], list[str]]:
    pairs = read_official(folder)
    home = {i: s for s in SPLITS for pair in pairs[s] for i in pair}
    taken: dict[str, list[VideoRecord]] = {s: [] for s in SPLITS}
    dropped: Counter[str] = Counter()
    for record in records:
        homes = {home.get(i) for i in record.identities}
        if not homes or None in homes:  # or its name says nobody
            dropped[UNLISTED] += 1
        elif len(homes) > 1:
            raise DataError(
                f"{record.path} pairs ids of different splits ("
                + ", ".join(f"{i} in {home[i]}" for i in record.identities)
                + f" by {folder}); mend the lists or move the video away"
            )
        else:
            taken[homes.pop() or ""].append(record)
    return taken, dict(dropped), _unknown_ids(records, pairs, folder)


def _named(folder: Path) -> tuple[bool, str]:
    """Whether lists are the official ones, and what to call them."""
    if folder == PACKAGED:
        return True, "official FaceForensics++ lists, as in the package"
    if is_published(read_official(folder)):
        return True, f"official FaceForensics++ lists, in {folder.name}/"
    return False, f"lists in {folder.name}/, other than the official ones"


def _unknown_ids(records: Sequence[VideoRecord], pairs, folder: Path) -> list[str]:
    """Names the entries of the lists that no video belongs to."""
    have = {i for r in records for i in r.identities}
    warnings = []
    for split in SPLITS:
        unknown = [
            (number, i)
            for number, pair in enumerate(pairs[split])
            for i in pair
            if i not in have
        ]
        if unknown:
            number, first = unknown[0]
            warnings.append(
                f"{folder / split}.json lists {len(unknown)} ids that no video has, "
                f"first {first} in entry {number}."
            )
    return warnings


# Splits of our own ----------------------------------------------------------------


def _people(record: VideoRecord) -> tuple[str, ...]:
    """Who is in a video; one of nobody known stands for itself."""
    return tuple(record.identities) or (record.key,)


def components(records: Sequence[VideoRecord]) -> list[tuple[str, ...]]:
    """The people who occur together in a video, directly or through others.

    Ids of FaceForensics++ that were cut from one source are one person.
    """
    parent: dict[str, str] = {}

    def find(x: str) -> str:
        parent.setdefault(x, x)
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    for record in records:
        ids = _people(record)
        for other in ids:
            parent[find(other)] = find(ids[0])
    known = {i for r in records if r.dataset in FFPP_IDS for i in r.identities}
    for ids in SAME_SOURCE:
        here = [i for i in ids if i in known]
        for other in here[1:]:
            parent[find(other)] = find(here[0])
    groups = defaultdict(list)
    for x in parent:
        groups[find(x)].append(x)
    return sorted(tuple(sorted(group)) for group in groups.values())


def _share_out(groups: Sequence[tuple[str, ...]]) -> dict[str, str]:
    """id -> split: groups in hash order, each to the split that lacks most."""
    total = sum(len(g) for g in groups)
    have = dict.fromkeys(SPLITS, 0)
    home = {}
    ordered = sorted(groups, key=lambda g: (_hash(g[0]), g))
    for left, group in zip(range(len(groups), 0, -1), ordered, strict=True):
        empty = [s for s in SPLITS if not have[s]]
        # The last few groups go where there would be none.
        open_ = empty if left <= len(empty) else SPLITS
        split = max(open_, key=lambda s: SHARES[s] * total - have[s])  # pyright: ignore[reportArgumentType]
        have[split] += len(group)  # pyright: ignore[reportArgumentType]
        home.update(dict.fromkeys(group, split))
    return home


def _assign_disjoint(records: Sequence[VideoRecord]) -> dict[str, list[VideoRecord]]:
    home = _share_out(components(records))
    taken: dict[str, list[VideoRecord]] = {s: [] for s in SPLITS}
    for record in records:
        taken[home[_people(record)[0]]].append(record)
    return taken


def _assign_actors(
    records: Sequence[VideoRecord],
) -> tuple[dict[str, list[VideoRecord]], int]:
    """DeepFakeDetection: actors are split; fakes across the border are left out."""
    home = _share_out([(i,) for i in sorted({i for r in records for i in _people(r)})])
    taken: dict[str, list[VideoRecord]] = {s: [] for s in SPLITS}
    crossing = 0
    for record in records:
        homes = {home[i] for i in _people(record)}
        if len(homes) > 1:
            crossing += 1
        else:
            taken[homes.pop()].append(record)
    return taken, crossing


# Putting it together --------------------------------------------------------------


def _homes(taken: Mapping[str, Iterable[VideoRecord]]) -> dict[str, tuple[str, ...]]:
    """Id of FaceForensics++ -> the splits that it is seen in, in their order."""
    seen = {
        split: {i for r in records if r.dataset in FFPP_IDS for i in r.identities}
        for split, records in taken.items()
    }
    every = sorted(set().union(*seen.values()))
    return {i: tuple(s for s in seen if i in seen[s]) for i in every}


def _overlaps_in(
    taken: Mapping[str, Iterable[VideoRecord]],
) -> list[tuple[str, str]]:
    """Each two ids of one source that are not both in one and the same split."""
    homes = _homes(taken)
    return [
        (a, b)
        for ids in SAME_SOURCE
        for a, b in itertools.combinations((i for i in ids if i in homes), 2)
        if len({*homes[a], *homes[b]}) > 1
    ]


def assign(
    records: Sequence[VideoRecord],
    *,
    root: Path,
    strict: bool = False,
    official: bool = True,
) -> Splits:
    """Puts each record in a split.

    Args:
      records: the videos of one tree.
      root: the tree; the lists in its folder `splits` are used, else those in the
        package where they fit, else people are split by hash.
      strict: leave out the train side (val, where train is not one of the two) of the
        known source overlaps of the official split.
      official: use lists; False splits by hash whatever there are.

    Raises:
      DataError: malformed lists, ids or pairs that leak, a split without videos.
    """
    folder = find_split_dir(root) if official else None
    warnings: list[str] = []
    dropped: dict[str, int] = {}
    dfd = [r for r in records if r.dataset == "dfd"]
    rest = [r for r in records if r.dataset != "dfd"]
    unfit = why_not_published(rest) if official and folder is None else ""
    if official and folder is None and not unfit:
        folder = PACKAGED
    if folder is not None and rest:
        taken, dropped, warnings = _assign_official(rest, folder)
        by_list, source = _named(folder)
    else:
        taken = _assign_disjoint(rest)
        by_list, source = False, "identity-disjoint, by hash"
        alone = sum(not r.identities for r in rest)
        if alone:
            source = "by hash; not every video says who is seen"
            warnings.append(
                f"{alone} of {len(rest)} videos do not say who is seen in them, so "
                "each was split for itself, by hash: the same person may stand in two "
                "splits. A column group in the CSV says it."
            )
        if alone < len(rest):
            warnings.append(
                "This is not the official split: identities were split by hash"
                + (
                    f", since no train.json, val.json and test.json lie in "
                    f"{root / 'splits'} and {unfit}."
                    if official
                    else ", as was asked for."
                )
            )
    if dfd:
        of_dfd, crossing = _assign_actors(dfd)
        for split in SPLITS:
            taken[split] += of_dfd[split]
        by_list = by_list and not dfd
        source += "; actors by hash" if rest else ""
        warnings.append(
            "DeepFakeDetection has no official split: its actors were split by hash, "
            f"and {crossing} fakes whose two actors are in different splits were left "
            "out."
        )
        if crossing:
            dropped[CROSSING] = crossing
    overlaps = _overlaps_in(taken)
    cure = "their train side was left out" if strict else "strict leaves them out"
    warnings += _overlap_warnings(taken, cure)
    if overlaps and strict:
        dropped[OVERLAPPING] = _drop_overlaps(taken, overlaps)
        source += "; without the train side of source videos in two splits"
    for split in SPLITS:
        if not taken[split]:
            raise DataError(
                f"the {split} split has no videos: {len(records)} videos of "
                f"{len(components(records))} unrelated groups of people under {root} "
                "are too few or not the ones that the lists name"
            )
    return Splits(
        records={s: _in_order(taken[s]) for s in SPLITS},
        official=by_list,
        source=source,
        warnings=tuple(warnings),
        dropped=dropped,
    )


def assign_listed(records: Sequence[VideoRecord]) -> Splits:
    """By the set's own list; where it has none, all videos are the test split."""
    listed = [r for r in records if r.listed]
    if not listed:
        return Splits(
            records={"test": _in_order(records)},
            official=False,
            source="no list: all videos are the test split",
            warnings=(
                "This set has no list: all its videos are the test split; a column "
                "split in its CSV, or protocol=disjoint, gives train and val too.",
            ),
        )
    taken = {s: _in_order(r for r in listed if r.listed == s) for s in SPLITS}
    left = len(records) - len(listed)
    return Splits(
        records={s: kept for s, kept in taken.items() if kept},
        official=True,
        source="the set's own list",
        warnings=(
            *_shared_people(listed, "the set's own list"),
            *_overlap_warnings(taken),
        ),
        dropped={"the set's own list does not name it": left} if left else {},
    )


def _shared_people(listed: Sequence[VideoRecord], said: str) -> tuple[str, ...]:
    """A warning of the people whose videos are listed in two splits."""
    homes: dict[str, set[str]] = defaultdict(set)
    for record in listed:
        for person in record.identities:
            homes[person].add(record.listed)
    shared = sorted(i for i, splits in homes.items() if len(splits) > 1)
    if not shared:
        return ()
    return (f"{len(shared)} people stand in two splits of {said}, first {shared[0]}.",)


def assign_folders(records: Sequence[VideoRecord]) -> Splits:
    """By the folders train, val and test; without val, people of train make it.

    Raises DataError when train has too few people for that.
    """
    train, val, test = ([r for r in records if r.listed == s] for s in SPLITS)
    warnings = ["This is not the official split: folders named the splits."]
    source = "folders train, val and test"
    if not val:
        of_train, val, of_test = _assign_disjoint(train).values()
        train = of_train + of_test
        source = "folders train and test; val by hash out of train"
        if not val or not train:
            raise DataError(
                "the folder train has too few unrelated people to make a val split of; "
                "add a folder val"
            )
        warnings.append(
            f"There is no folder val: {len(val)} videos of train were made "
            "the val split, by people."
        )
    taken: dict[str, list[VideoRecord]]
    taken = dict(zip(SPLITS, (train, val, test), strict=True))
    listed = [replace(r, listed=s) for s in SPLITS for r in taken[s]]
    return Splits(
        records={s: _in_order(taken[s]) for s in SPLITS},
        official=False,
        source=source,
        warnings=(
            *warnings,
            *_shared_people(listed, "the folders"),
            *_overlap_warnings(taken),
        ),
    )


def assign_all_test(records: Sequence[VideoRecord]) -> Splits:
    """Every video is in test, for a set that no detector here was trained on.

    So the field tests on DeepFakeDetection: all 363 reals and 3068 fakes.
    """
    seen = sorted({r.dataset for r in records} - {"dfd"})
    warnings = ()
    if seen:
        warnings = (
            f"All videos of {', '.join(seen)} are the test split, whatever its own "
            "lists say: nothing for a detector that was trained on some of them.",
        )
    return Splits(
        records={"test": _in_order(records)},
        official=False if seen else None,
        source="all videos are the test split",
        warnings=warnings,
    )


def assign_disjoint(records: Sequence[VideoRecord], *, root: Path) -> Splits:
    """The identity-disjoint split by hash, whatever lists there are."""
    return assign(records, root=root, official=False)


def _overlap_warnings(
    taken: Mapping[str, Iterable[VideoRecord]],
    cure: str = "protocol=disjoint keeps them together",
) -> tuple[str, ...]:
    """A warning of the sources whose ids stand in different splits, if there are any.

    cure: what is done about them, or may be.
    """
    homes, overlaps = _homes(taken), _overlaps_in(taken)
    if not overlaps:
        return ()
    said = ", ".join(
        "/".join(f"{i} {'+'.join(homes[i])}" for i in pair) for pair in overlaps
    )
    return (
        f"{len(overlaps)} source videos were cut into two ids that stand in different "
        f"splits ({said}); {cure}.",
    )


def _drop_overlaps(taken: dict[str, list[VideoRecord]], overlaps) -> int:
    """Removes the earlier side of each overlap with all its fakes; how many went."""
    homes = _homes(taken)  # one split each: here no id is in two
    out = {min(pair, key=lambda i: SPLITS.index(homes[i][0])) for pair in overlaps}
    gone = 0
    for split in SPLITS:
        kept = [r for r in taken[split] if not out & set(r.identities)]
        gone += len(taken[split]) - len(kept)
        taken[split] = kept
    return gone


def assign_repeated(
    records: Sequence[VideoRecord], *, per_class: int = 1500, num_val: int = 200
) -> Splits:
    """The original recipe: 1500 videos per class, reals repeated, 200 held out.

    Which videos are held out is drawn over all 3000, so repeated reals and fakes of
    the same people stand on both sides; its numbers are no measure of a detector.
    """
    chosen: list[VideoRecord] = []
    for label in (0, 1):
        videos = _in_order(r for r in records if r.label == label)
        if not videos:
            raise DataError("the repeated protocol needs real and fake videos")
        for number in range(per_class):
            video, turn = videos[number % len(videos)], number // len(videos)
            if turn:
                video = replace(video, video_id=f"{video.video_id}#{turn + 1}")
            chosen.append(video)
    ordered = _in_order(chosen)
    if num_val >= len(ordered):
        raise DataError(f"repeated_val_videos {num_val} leaves no videos for training")
    held = ordered[:num_val]
    repeated = len(chosen) - len({r.path for r in chosen})
    return Splits(
        records={"train": ordered[num_val:], "val": held, "test": held},
        official=False,
        source="the original recipe",
        warnings=(
            "This is not the official split but the original recipe: "
            f"{repeated} videos are repetitions, people and even videos stand in train "
            "and test at once, and test is the validation set; its numbers say little "
            "about new videos.",
        ),
    )
