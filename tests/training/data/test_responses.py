"""The teacher's responses of a dataset, and their token ids."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pocket import world
from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.llm.tokenizer import load_tokenizer
from tests.training.small_run import edit, example, response, write_small_dataset
from training.config import DatasetSettings
from training.data.responses import (
    TeacherResponse,
    encode_responses,
    in_majority,
    iter_responses,
    response_ids,
)
from training.data.rows import read_dataset

FILE = "responses/train-00000-of-00001.parquet"
END, THINK, END_THINK = 1991, 1992, 1993  # <|im_end|>, <think> and </think> of the pocket models


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(str(PROJECT_ROOT / "pocket/student"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [example(1), example(2, cluster_labels=(0, 0, 1, -1))]
    ends = ("stop", "length", "stop", "stop")
    responses = [
        response(row, index, str(index), finish_reason=ends[index]) for row in rows for index in range(4)
    ]
    return write_small_dataset(tmp_path / "dataset", rows, responses=responses)


# --- reading -----------------------------------------------------------------------------------------------------


def test_responses_are_read_with_their_clusters(folder: Path) -> None:
    found = list(iter_responses(folder, "train"))
    assert found[1] == TeacherResponse(
        row_id=f"{1:032x}", index=1, text="So \\boxed{1}", finish_reason="length", answer="1"
    )
    assert [one.finished for one in found] == 2 * [True, False, True, True]
    rows = {row.id: row for row in read_dataset(DatasetSettings(folder=folder)).rows}
    inside = [in_majority(rows[one.row_id], one.index) for one in found]
    assert inside == [False, True, True, True, True, True, False, False]
    assert not in_majority(rows[f"{1:032x}"], 4)


def test_a_dataset_without_responses_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no responses of the teacher \(responses/test-\*\.parquet\): "):
        list(iter_responses(folder, "test"))
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="other has no responses of the teacher"):
        list(iter_responses(tmp_path / "other", "train"))


def test_changed_missing_and_incomplete_files_are_refused(folder: Path) -> None:
    table = pq.read_table(folder / FILE)
    pq.write_table(table.slice(0, 3), folder / FILE)
    with pytest.raises(UserError, match="is damaged: its bytes differ from the checksum"):
        list(iter_responses(folder, "train"))
    (folder / FILE).unlink()
    with pytest.raises(UserError, match="is missing"):
        list(iter_responses(folder, "train"))
    (folder / "manifest.json").unlink()
    pq.write_table(table.drop_columns(["finish_reason"]), folder / FILE)
    with pytest.raises(UserError, match="has no column 'finish_reason' of type string"):
        list(iter_responses(folder, "train"))
    (folder / FILE).write_bytes(b"PAR1")
    with pytest.raises(UserError, match="cannot be read"):
        list(iter_responses(folder, "train"))


# --- token ids ---------------------------------------------------------------------------------------------------


def test_the_ids_of_solutions_give_their_text_and_end_once(tokenizer: Any) -> None:
    for index in range(20):
        drawn = world.problem(1, "hard", index)
        text = world.solution(drawn.text, random.Random(index))
        ids = response_ids(tokenizer, text, END)
        assert isinstance(ids, tuple) and ids.count(END) == 1 and ids[-1] == END
        assert tokenizer.decode(ids[:-1]) == text
        assert response_ids(tokenizer, text, None) == ids[:-1]
    thinking = response_ids(tokenizer, "<think>\nhm\n</think>\n\nIt is \\boxed{2}.", END)
    assert isinstance(thinking, tuple) and (thinking[0], thinking.count(END_THINK)) == (THINK, 1)


def test_a_text_with_a_control_token_is_refused(tokenizer: Any) -> None:
    assert response_ids(tokenizer, "a<|im_end|>b", END) == "its text contains a control token"
    assert response_ids(tokenizer, "", None) == "it is empty"
    assert response_ids(tokenizer, "", END) == (END,)


def test_a_text_that_the_tokenizer_changes_is_refused(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(PROJECT_ROOT / "pocket/student" / name, tmp_path / name)
    edit(tmp_path / "tokenizer.json", lambda data: data.update(normalizer={"type": "NFKC"}))
    tokenizer = load_tokenizer(str(tmp_path))
    responses = [
        TeacherResponse(row_id="a", index=index, text=text, finish_reason=reason, answer=None)
        for index, (text, reason) in enumerate(
            [
                ("x² is 4", "stop"),
                ("x is 4", "stop"),
                ("x is", "length"),
                ("½", "stop"),
                ("<|im_end|>", "stop"),
            ]
        )
    ]
    found = encode_responses(tokenizer, responses, END)
    assert [one.response.index for one in found.kept] == [1, 2]
    assert [one.tokens[-1] == END for one in found.kept] == [True, False]
    assert found.refused == {
        "the tokenizer does not give its text back": 2,
        "its text contains a control token": 1,
    }
