"""Evaluations end to end, with a scripted endpoint and with engines that are replaced by a function."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tasks.answers.token_spans import TokenSpans
from tasks.errors import UserError
from tasks.evaluate_settings import EvaluateSettings
from tasks.llm.offline_engine import SampleFailure, SampleOutput, SamplePrompt
from tasks.storage.tables import read_rows
from tests.scripted_server import ScriptedServer, running
from training.compare import main as compare_main
from training.evaluate import main
from training.evaluation import backends, harness
from training.evaluation.comparison import compare_results
from training.evaluation.harness import Outcome, evaluate
from training.evaluation.results import SampleRow

QUESTIONS = {"What is 2 + 3?": "5", "What is 7 * 6?": "42", "Halve 9.": "4.5", "What is 10 - 1?": "9"}


def gsm8k(folder: Path, questions: dict[str, str] = QUESTIONS) -> Path:
    path = folder / "gsm8k.jsonl"
    rows = [
        {"question": text, "answer": f"We compute <<1+1=2>>.\n#### {answer}"}
        for text, answer in questions.items()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def asked(question: str) -> str:
    return f"{question}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}."


def evaluated(tmp_path: Path, **settings: Any) -> list[Outcome]:
    lines: list[str] = []
    settings = {
        "model": "pocket/student",
        "out": tmp_path / "out",
        "cpu_workers": 1,
        "max_tokens": 64,
        **settings,
    }
    if "benchmarks" not in settings:
        settings["benchmarks"] = (f"gsm8k={gsm8k(tmp_path)}",)
    return evaluate(EvaluateSettings(**settings), lines.append)


def rows(outcome: Outcome) -> list[SampleRow]:
    return read_rows(outcome.folder / "samples.parquet", SampleRow)


class Inline:
    """Grades in this process: what the workers compute, without their start."""

    def __init__(self, workers: int) -> None:
        assert workers == 1

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Future[list[Any]]:
        done: Future[list[Any]] = Future()
        done.set_result([function(item) for item in items])
        return done


@pytest.fixture(autouse=True)
def _graded_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "GradingPool", Inline)


# --- an endpoint -------------------------------------------------------------------------------------------------


@pytest.fixture
def endpoint() -> Iterator[ScriptedServer]:
    script = {
        asked("What is 2 + 3?"): ["ok:It is \\boxed{5}."],
        asked("What is 7 * 6?"): ["ok:It is \\boxed{41}."],
        asked("Halve 9."): ["ok:It is \\boxed{\\frac{9}{2}}."],
        asked("What is 10 - 1?"): ["length"],
    }
    with running(script, owner="vllm") as server:
        yield server


def test_an_endpoint_is_asked_once_and_graded(tmp_path: Path, endpoint: ScriptedServer) -> None:
    settings = {"model": "scripted", "base_url": endpoint.base_url, "prices": {"prompt": 1.0, "output": 10.0}}
    (found,) = evaluated(tmp_path, **settings)
    assert [(row.answer, row.correct, row.finish_reason) for row in rows(found)] == [
        ("5", True, "stop"), ("41", False, "stop"), ("\\frac{9}{2}", True, "stop"), (None, False, "length"),
    ]  # fmt: skip
    assert (
        found.numbers["scores"]["pass@1"]["value"] == 0.5
        and found.numbers["scores"]["pass@1"]["interval"] == "wilson"
    )
    assert found.numbers["counts"] == {
        "samples": 4, "truncated": 1, "unparsed": 1, "prompt_too_long": 0, "control_token": 0, "error": 0,
    }  # fmt: skip
    assert found.numbers["math_verify"]["score"] == 0.5 and found.numbers["math_verify"]["disagreements"] == 0
    cost = json.loads((found.folder / "cost.json").read_text())
    assert (cost["prompt_tokens"], cost["output_tokens"]) == (28, 12) and cost["price"] == pytest.approx(
        148e-6
    )
    files = {path.name: path.read_bytes() for path in found.folder.iterdir()}
    assert set(files) == {
        "samples.parquet", "problems.parquet", "metrics.json", "cost.json", "index.html", "model-index.yml",
    }  # fmt: skip
    sent = len(endpoint.bodies)
    (again,) = evaluated(tmp_path, **settings)
    assert again.numbers == found.numbers and len(endpoint.bodies) == sent == 4
    (found.folder / "metrics.json").unlink()  # a kill before the folder was whole: the ledger has all samples
    evaluated(tmp_path, **settings)
    assert len(endpoint.bodies) == sent
    assert {path.name: path.read_bytes() for path in found.folder.iterdir()} == files


def test_a_vllm_endpoint_gets_every_setting_that_its_model_could_replace(
    tmp_path: Path, endpoint: ScriptedServer
) -> None:
    evaluated(
        tmp_path, model="scripted", base_url=endpoint.base_url, protocols=("avg8",), samples=2, thinking=True
    )
    body = endpoint.bodies[0]
    expected = {
        "temperature": 1.0,
        "top_p": 0.8,
        "max_tokens": 64,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }
    assert {name: body[name] for name in expected} == expected
    assert body["chat_template_kwargs"] == {"enable_thinking": True} and "logprobs" not in body
    assert len({entry["seed"] for entry in endpoint.bodies}) == 8


def test_a_failed_request_is_counted_and_repeated_by_the_next_run(tmp_path: Path) -> None:
    bad = asked("Halve 9.")
    with running({bad: ["400", "ok:\\boxed{4.5}"]}) as server:
        settings = {"model": "scripted", "base_url": server.base_url}
        (first,) = evaluated(tmp_path, **settings)
        assert (first.numbers["counts"]["error"], first.numbers["benchmark"]["problems"]) == (1, 4)
        (second,) = evaluated(tmp_path, **settings)
        assert second.numbers["counts"]["error"] == 0 and rows(second)[2].correct
        assert len(server.bodies) == 5


# --- engines -----------------------------------------------------------------------------------------------------


class Scripted:
    """Stands for `Engines`: replies by a function of (question, seed). Counts what it is asked."""

    reply: Callable[[SamplePrompt], str | SampleFailure]
    drawn: ClassVar[list[SamplePrompt]]
    dies_after: ClassVar[int | None] = None

    def __init__(self, role: Any, serve: Any, root: Path, logprobs: Any, on_wait: Any) -> None:
        self.role, self.invariance = role, None
        assert logprobs is None and role.serve == serve

    def draw(
        self,
        prompts: Sequence[SamplePrompt],
        n: int,
        sampling: Any,
        _print: str,
        on_result: Any,
        _progress: Any,
    ) -> None:
        assert n == 1 and sampling.top_k == 0
        for place, prompt in enumerate(prompts):
            limit = type(self).dies_after
            if limit is not None and len(type(self).drawn) >= limit:
                raise KeyboardInterrupt
            type(self).drawn.append(prompt)
            found = type(self).reply(prompt)
            if isinstance(found, SampleFailure):
                on_result(place, found)
            else:
                reason = "length" if found.endswith("...") else "stop"
                output = SampleOutput(
                    text=found,
                    token_count=len(found),
                    logprob_sum=float("nan"),
                    finish_reason=reason,
                    spans=TokenSpans(),
                )
                on_result(place, [output])

    def close(self) -> None:
        pass


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> type[Scripted]:
    class Own(Scripted):
        drawn: ClassVar[list[SamplePrompt]] = []

        @staticmethod
        def reply(prompt: SamplePrompt) -> str:
            right = QUESTIONS[prompt.values["problem"]]
            return f"Thus \\boxed{{{right if prompt.seed % 3 else '0'}}}" if prompt.seed % 5 else "so ..."

    monkeypatch.setattr(backends, "Engines", Own)
    return Own


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("cost.json", "generation.jsonl") and "ledger" not in path.name
    }


def test_an_evaluation_that_is_killed_three_times_gives_the_same_bytes(
    tmp_path: Path, engines: type[Scripted]
) -> None:
    settings: dict[str, Any] = {"protocols": ("avg16", "pass1_greedy"), "seeds": (0, 1)}
    whole = evaluated(tmp_path, **settings, out=tmp_path / "whole")
    asked_once = len(engines.drawn)
    assert asked_once == 4 * 2 * (16 + 1)
    for kill in (30, 60, 110):
        engines.dies_after = asked_once + kill
        with pytest.raises(KeyboardInterrupt):
            evaluated(tmp_path, **settings, out=tmp_path / "killed")
    engines.dies_after = None
    killed = evaluated(tmp_path, **settings, out=tmp_path / "killed")
    assert len(engines.drawn) == 2 * asked_once, "no sample was generated twice"
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert [one.numbers for one in killed] == [one.numbers for one in whole]
    assert set(whole[0].numbers["scores"]) >= {
        "avg16".replace("avg", "avg@"),
        "pass@8",
        "maj@16",
        "g-pass@16_0.5",
        "seeds",
    }


def test_both_models_of_a_comparison_get_the_same_seeds(tmp_path: Path, engines: type[Scripted]) -> None:
    settings: dict[str, Any] = {"protocols": ("avg8",), "samples": 4}
    (first,) = evaluated(tmp_path, **settings)
    seeds = [prompt.seed for prompt in engines.drawn]
    engines.reply = staticmethod(lambda prompt: f"\\boxed{{{QUESTIONS[prompt.values['problem']]}}}")  # type: ignore[assignment]
    (second,) = evaluated(tmp_path, **settings, model="pocket/teacher")
    assert [prompt.seed for prompt in engines.drawn[len(seeds) :]] == seeds
    (pair,), skipped = compare_results(first.folder.parents[1], second.folder.parents[1])
    assert skipped == [] and pair.found.second == 1.0 and pair.found.test == "sign test"
    assert pair.found.first == first.numbers["scores"]["avg@4"]["value"]
    assert pair.found.difference.value == pytest.approx(1.0 - pair.found.first)
    (greedy,) = evaluated(tmp_path, protocols=("pass1_greedy",))
    with pytest.raises(UserError, match=r"no result in common .*pass1_greedy-\w+ \(only of A\)"):
        compare_results(greedy.folder, second.folder)


def test_a_prompt_that_does_not_fit_is_wrong_and_counted(tmp_path: Path, engines: type[Scripted]) -> None:
    long = "Add the numbers " + ", ".join(map(str, range(1200))) + "."
    huge = "x" * 8_001
    path = gsm8k(tmp_path, {"What is 2 + 3?": "5", long: "719400", huge: "0"})
    (found,) = evaluated(tmp_path, benchmarks=(f"gsm8k={path}",))
    assert [row.finish_reason for row in rows(found)][1:] == ["prompt_too_long"] * 2
    assert found.numbers["counts"]["prompt_too_long"] == 2 and found.numbers["scores"]["pass@1"]["n"] == 3
    assert len(engines.drawn) == 1


def test_the_page_escapes_texts_and_marks_rows(tmp_path: Path, engines: type[Scripted]) -> None:
    hostile = "</script><script>alert(1)</script>"
    engines.reply = staticmethod(lambda prompt: f"{hostile} \\boxed{{5}}")  # type: ignore[assignment]
    (found,) = evaluated(tmp_path)
    page = (found.folder / "index.html").read_text(encoding="utf-8")
    assert hostile not in page and "&lt;/script&gt;&lt;script&gt;" in page and page.count("<script>") == 1
    assert "script-src 'sha256-" in page and 'data-marks="wrong"' in page and 'data-marks=""' in page


def test_a_deviation_from_the_protocol_is_stored_and_names_the_folder(
    tmp_path: Path, engines: type[Scripted]
) -> None:
    (found,) = evaluated(tmp_path, max_tokens=128, limit=2)
    assert found.folder.name.startswith("pass1_greedy-") and len(rows(found)) == 2
    assert found.numbers["protocol"]["deviations"] == {"max_tokens": 128, "limit": 2}
    stored = found.numbers["protocol"]
    assert stored["prompt"].startswith("teacher/solve@1:") and "\\boxed{}" in stored["prompt_text"]
    assert found.numbers["model"]["context"] == 2048 and found.numbers["model"]["stop_token_ids"]


def test_a_choice_benchmark_is_asked_with_examples_of_the_subject_and_graded_by_letter(
    tmp_path: Path, engines: type[Scripted]
) -> None:
    row = {
        "question_id": 1,
        "question": "Which?",
        "options": ["red", "blue"],
        "answer": "B",
        "category": "physics",
    }
    shots = [row | {"question": f"Example {number}?", "cot_content": "A: We look."} for number in range(5)]
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    (tmp_path / "validation.jsonl").write_text(
        "".join(json.dumps(one) + "\n" for one in shots), encoding="utf-8"
    )
    engines.reply = staticmethod(lambda prompt: "The answer is (B).")  # type: ignore[assignment]
    (found,) = evaluated(tmp_path, benchmarks=(f"mmlu_pro={tmp_path}",))
    messages = engines.drawn[0].messages
    assert [one["role"] for one in messages] == [*["user", "assistant"] * 5, "user"]
    asked_for = "put the letter of your final answer within \\boxed{}."
    assert all(one["content"].endswith(asked_for) for one in messages[::2])
    assert messages[1]["content"] == "We look.\n\\boxed{B}"
    assert found.numbers["scores"]["pass@1"]["value"] == 1.0 and "math_verify" not in found.numbers
    assert rows(found)[0].math_verify is None and found.numbers["protocol"]["shots"] == 5


def test_a_benchmark_that_is_judged_elsewhere_gets_the_file_of_its_tool(
    tmp_path: Path, engines: type[Scripted]
) -> None:
    path = tmp_path / "alpaca.json"
    path.write_text(
        json.dumps([{"instruction": "Write a poem.", "output": "x", "dataset": "helpful_base"}]),
        encoding="utf-8",
    )
    engines.reply = staticmethod(lambda prompt: "Roses are red.")  # type: ignore[assignment]
    (found,) = evaluated(tmp_path, benchmarks=(f"alpaca_eval={path}",))
    assert engines.drawn[0].messages == ({"role": "user", "content": "Write a poem."},)
    assert json.loads((found.folder / "model_outputs.json").read_text(encoding="utf-8")) == [
        {
            "instruction": "Write a poem.", "output": "Roses are red.", "generator": "pocket/student",
            "dataset": "helpful_base",
        }
    ]  # fmt: skip
    assert found.numbers["scores"] == {} and found.numbers["lengths"]["total"] == 14


def test_the_table_of_a_comparison_and_its_page(
    tmp_path: Path, engines: type[Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    (first,) = evaluated(tmp_path)
    engines.reply = staticmethod(lambda prompt: "\\boxed{5}")  # type: ignore[assignment]
    (second,) = evaluated(tmp_path, model="pocket/teacher")
    page = tmp_path / "page.html"
    assert (
        compare_main([str(first.folder.parents[1]), str(second.folder.parents[1]), "--page", str(page)]) == 0
    )
    printed = capsys.readouterr().out
    assert "gsm8k pass1_greedy-" in printed and "(McNemar)" in printed and "25.00" in printed
    assert "<svg" in page.read_text(encoding="utf-8")
    assert compare_main([str(tmp_path / "none"), str(tmp_path)]) == 2
    assert "none does not exist" in capsys.readouterr().err


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"model": None}, "no model is given"),
        ({"model": "./nowhere"}, r"model folder .*/nowhere does not exist"),
        ({"benchmarks": ()}, "no benchmark is given"),
        ({"benchmarks": ("algebra",)}, r"unknown benchmark 'algebra': choose of aime2024, "),
        ({"protocols": ("avg3",)}, r"unknown protocol 'avg3': choose of pass1_greedy, avg16"),
        (
            {"max_tokens": 2048},
            r"the context of pocket/student is 2,048 tokens, too short for responses of 2,048 tokens",
        ),
        ({"samples": 4}, "4 samples at temperature 0 are all the same"),
        ({"base_url": "http://127.0.0.1:9/v1", "model": "m"}, "model server http://127.0.0.1:9/v1/models"),
        ({"benchmarks": ("sure_math",)}, "sure_math needs the folder of an exported dataset"),
        ({"benchmarks": ("pocket",), "shots": 2}, "pocket has no examples for few-shot prompts"),
    ],
)
def test_what_cannot_be_evaluated_is_named_in_one_sentence(
    tmp_path: Path, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        evaluated(tmp_path, **settings)
    assert "\n" not in str(error.value)


def test_a_corrupt_folder_is_named(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for path in (Path(__file__).parents[3] / "pocket" / "student").iterdir():
        data = path.read_bytes()
        (model / path.name).write_bytes(data[: len(data) // 2] if path.suffix == ".safetensors" else data)
    with pytest.raises(UserError, match=r"model.safetensors is not a complete safetensors file"):
        evaluated(tmp_path, model=str(model))


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            {"problem_text": "1+1?", "answer": "#### 2"},
            r"has no column 'question' or 'problem' for the text; it has",
        ),
        (
            {"question": "1+1?", "answer": "two"},
            r"gsm8k has no problem with an answer in .* \(left out: no answer 1\)",
        ),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, row: dict[str, str], sentence: str) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=sentence):
        evaluated(tmp_path, benchmarks=(f"gsm8k={tmp_path / 'x.jsonl'}",))


def test_the_command_prints_one_sentence_and_returns_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = tmp_path / "problems.txt"
    code = main(["--model", "./nowhere", "--benchmarks", "pocket", "--problems", str(problems)])
    assert code == 2 and "nowhere does not exist" in capsys.readouterr().err == problems.read_text(
        encoding="utf-8"
    )
    assert main(["--model", "m", "--benchmarks", "pocket", "--set", "colour=red"]) == 2
    assert "colour: unknown key; see tasks/evaluate_settings.py" in capsys.readouterr().err
