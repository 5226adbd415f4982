"""Queries mix a personal token and words."""

from __future__ import annotations

import pytest

from diffground.errors import InputError
from diffground.papers.personalized.queries import Query


def test_token_stands_before_the_class_word() -> None:
    query = Query("mug07", "<new1>", "mug", "a mug filled with cola")

    assert query.description == "a <new1> mug filled with cola"
    assert query.subject == "a <new1> mug"


@pytest.mark.parametrize("context", ["a cup on a book", "a mug beside a mug", "a muggy day"])
def test_context_that_does_not_say_the_class_once_is_refused(context: str) -> None:
    with pytest.raises(InputError, match="class word 'mug'"):
        _ = Query("mug07", "<new1>", "mug", context).description
