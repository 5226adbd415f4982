"""Class splits, templates and what is drawn of them, and what a detector calls a class."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import tiny_grounded
from pydantic import ValidationError

from diffground.errors import InputError
from diffground.papers.grounded.classes import ClassSplit, detector_labels
from diffground.papers.grounded.prompts import Attempt, has_word, planned
from diffground.world.vocabulary import THINGS


def sets(attempts: int, classes: str = "seen", draw: str = "random") -> dict:
    return {"train": {"classes": classes, "attempts": attempts, "draw": draw}}


@pytest.mark.parametrize(
    ("name", "seen", "unseen"),
    [("voc1", 15, 5), ("voc2", 15, 5), ("voc3", 15, 5), ("coco4", 64, 14), ("coco5", 64, 14),
     ("coco6", 64, 14), ("mini1", 10, 4), ("mini4", 11, 3)],
)  # fmt: skip
def test_splits(name: str, seen: int, unseen: int) -> None:
    split = ClassSplit.of(name)
    assert (len({*split.seen}), len({*split.unseen})) == (seen, unseen)
    assert not {*split.seen} & {*split.unseen}


def test_splits_share_out_what_they_are_of() -> None:
    voc, coco = (
        [ClassSplit.of(f"{world}{n}") for n in numbers]
        for world, numbers in (("voc", (1, 2, 3)), ("coco", (4, 5, 6)))
    )
    assert len({frozenset((*s.seen, *s.unseen)) for s in voc}) == 1
    assert len({frozenset((*s.seen, *s.unseen)) for s in coco}) == 1
    assert voc[0].unseen == ("tvmonitor", "car", "dog", "sofa", "train")  # 003, Table 1
    for split in (*voc, *coco):
        known = {name for s in (voc if split in voc else coco) for name in (*s.seen, *s.unseen)}
        assert {*split.unseen} <= known
    assert "bench" in coco[0].seen and "bench" in coco[1].seen and "bench" in coco[2].unseen
    assert not {"mouse", "sofa", "couch", "tv"} & {*coco[0].seen, *coco[0].unseen}
    mini = [ClassSplit.of(f"mini{n}").unseen for n in (1, 2, 3, 4)]
    assert Counter(sum(mini, ())) == Counter(thing.name for thing in THINGS)
    with pytest.raises(InputError, match="voc4"):
        ClassSplit.of("voc4")


def test_pairs_are_of_the_set() -> None:
    split = ClassSplit.of("mini1")
    for classes, count in (("seen", 2), ("unseen", 0), ("mixed", 1)):
        found = tiny_grounded.attempts(tiny_grounded.config(sets=sets(60, classes)))
        assert len({a.seed for a in found}) == 60
        first = 0
        for attempt in found:
            assert len({*attempt.names}) == 2 and not attempt.absent
            assert attempt.prompt == "a {} and a {}".format(*attempt.names)
            assert sum(name in split.seen for name in attempt.names) == count
            first += attempt.names[0] in split.seen
        assert classes != "mixed" or 15 < first < 45, "either class comes first"


def test_a_longer_set_begins_alike() -> None:
    short, long = (tiny_grounded.attempts(tiny_grounded.config(sets=sets(n))) for n in (5, 9))
    assert long[:5] == short
    other = tiny_grounded.attempts(tiny_grounded.config(sets=sets(9), seed=1))
    assert not {a.seed for a in other} & {a.seed for a in long}


def test_each_class_as_often() -> None:
    prompts = {"templates": "iosd"}
    config = tiny_grounded.config(sets=sets(40, "unseen", "each"), prompts=prompts)
    found = tiny_grounded.attempts(config)
    assert Counter(a.names for a in found) == {(n,): 10 for n in ClassSplit.of("mini1").unseen}
    assert found[0].prompt == f"A modern photograph of a {found[0].names[0]}"


def test_two_templates_by_turns() -> None:
    config = tiny_grounded.config(sets=sets(60), prompts={"templates": "grounded_diffusion"})
    assert 15 < sum(len(a.names) == 1 for a in tiny_grounded.attempts(config)) < 45


def test_the_negative_class_of_the_balanced_template() -> None:
    prompts = {"templates": "iosd_balanced", "asked": "one"}
    config = tiny_grounded.config(sets=sets(60, "unseen"), prompts=prompts)
    split, first = ClassSplit.of("mini1"), 0
    for attempt in tiny_grounded.attempts(config):
        (name,) = attempt.names
        words = attempt.prompt.removeprefix("A cinematic shot of ").partition(", portrayed")[0]
        classes = words.split(" and ")
        assert name in split.unseen and name in classes
        (negative,) = {*classes} - {name}
        assert negative in split.seen
        first += classes[0] == name
    assert 15 < first < 45, "at either place"


def test_absent_classes_are_in_no_prompt() -> None:
    config = tiny_grounded.config(sets=sets(30, "mixed"), prompts={"absent": 2})
    split = ClassSplit.of("mini1")
    found = tiny_grounded.attempts(config)
    for attempt in found:
        assert len({*attempt.names, *attempt.absent}) == 4
        assert not any(has_word(attempt.prompt, name) for name in attempt.absent)
    assert {*split.unseen} & {name for a in found for name in a.absent}
    with pytest.raises(InputError, match=r"prompts\.absent: 20 absent classes"):
        planned(tiny_grounded.config(prompts={"absent": 20}))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"prompts": {"templates": ["a photo"]}}, "takes the place"),
        ({"prompts": {"templates": ["a {} and {b}"]}}, "takes the place"),
        ({"prompts": {"templates": []}}, "no template"),
        ({"prompts": {"templates": "iosd", "asked": "one"}}, "two {}"),
        ({"prompts": {"templates": "iosd"}, "sets": sets(1, "mixed")}, "a seen and an unseen"),
        ({"sets": {"a/b": sets(1)["train"]}}, "name of a folder"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict, match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        tiny_grounded.config(**changes)


def test_a_prompt_without_its_class_word() -> None:
    with pytest.raises(InputError, match="the class word 'cart' is not in"):
        Attempt("x", "a car and a cat", ("cat", "cart"), (), 0).check()
    with pytest.raises(InputError, match="'cat' is in .* cannot be absent"):
        Attempt("x", "a car and a Cat", ("car",), ("cat",), 0).check()
    assert has_word("Hot dog, and more", "hot dog") and not has_word("a cartoon", "cart")


def test_what_detectors_call_classes(tmp_path: Path) -> None:
    of_coco = ("person", "tv", "potted plant", "Airplane")
    found = detector_labels(("tvmonitor", "pottedplant", "aeroplane"), of_coco, {}, tmp_path)
    assert [sorted(labels) for labels in found.values()] == [["tv"], ["potted plant"], ["Airplane"]]
    of_voc = detector_labels(("tvmonitor", "airplane"), ("tvmonitor", "aeroplane"), {}, tmp_path)
    assert of_voc["airplane"] == {"aeroplane"}
    own = detector_labels(("lion dance",), ("lion", "person"), {"lion dance": ["lion"]}, tmp_path)
    assert own == {"lion dance": {"lion"}}
    with pytest.raises(InputError, match="does not know 'lion dance'.* nearest to it are lion"):
        detector_labels(("lion dance",), ("lion", "person"), {}, tmp_path)
