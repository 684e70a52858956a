"""The report in a headless Chromium: search, filters, lineage, hostile texts, and its speed with 10,000 problems."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.reports.report import ReportData, render_report, write_report
from tasks.rows import Finding, FindingKind, Problem, Reason, Reject, Response, Role, Strategy, Tier, Verdict
from tests.reports import test_report as report
from tests.reports.browser import Tab, chromium
from tests.reports.test_pages import BROWSER

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")

SIZES = pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)], ids=["desktop", "phone"])
HOSTILE = (
    "<script>document.title = 'owned'</script></script><script>alert(1)</script><img src=http://127.0.0.1:9/x onerror=alert(1)>"
    r" $\href{javascript:alert(1)}{x}$ $\text{<img src=x onerror=alert(1)>}$ $\text{</math><script>alert(1)</script>}$"
    " <!-- end of results --> \u202egnihton\u202c <a href=javascript:alert(1)>link</a> $\\style{position:fixed;top:0}{z}$"
)
ROWS = [
    row
    for row, _, _ in map(
        report.make_example, range(60), list(Tier) * 15, [random.Random(n) for n in range(60)]
    )
]
SEED, CHILD, GRANDCHILD = "a" * 32, ROWS[0].id, ROWS[1].id


def problem(name: str, text: str, parent: str | None, round_: int, strategy: Strategy | None) -> Problem:
    return Problem(
        id=name, text=text, tier=Tier.HARD, source="pocket", source_id="1", licence="cc0-1.0",
        role=Role.EVOLVED if parent else Role.SEED, root_id=SEED, parent_id=parent, round=round_, strategy=strategy,
    )  # fmt: skip


def verdict(name: str, *, well_formed: bool = True) -> Verdict:
    return Verdict(
        problem_id=name, passed=well_formed, reply="{}", model="judge:1", prompt="judge/quality@1:44",
        well_formed=well_formed, unambiguous=True, multi_step=True, closed_form=True, self_contained=True,
    )  # fmt: skip


def made() -> ReportData:
    rows = [replace(row, overlap_kinds=(), benchmark_overlap=False) for row in ROWS]
    rows[0] = replace(
        rows[0],
        parent_id=SEED,
        root_id=SEED,
        round=1,
        strategies=("harder",),
        problem=r"Find $\frac{a}{b}$ of zebras.",
    )
    rows[1] = replace(rows[1], parent_id=CHILD, root_id=SEED, round=2, strategies=("harder", "compose"))
    rows[2] = replace(rows[2], problem=HOSTILE, source=HOSTILE, majority_answer=HOSTILE, answer=HOSTILE,
                      cluster_answers=(HOSTILE,) * len(rows[2].cluster_answers))  # fmt: skip
    rows[3] = replace(
        rows[3], benchmark_overlap=True, overlap_kinds=(FindingKind.NGRAM,), overlap_benchmarks=("aime",)
    )
    responses = [one for number, row in enumerate(rows) for one in own_responses(number, row.id)]
    lost = problem("b" * 32, "A near copy of the zebras.", SEED, 1, Strategy.REWRITE)
    return ReportData(
        name="SURE-Math", profile="pocket", fingerprint="f" * 64, examples=rows, responses=responses, stages=report.STAGES,
        truths={row.id: number % 5 > 0 for number, row in enumerate(rows)},
        others=[problem(SEED, "Zebras at the start.", None, 0, None), lost],
        rejects=[
            Reject(problem_id=SEED, stage="evolve-1", reason=Reason.ECHO, detail="harder", text=HOSTILE),
            Reject(problem_id=lost.id, stage="deduplicate", reason=Reason.NEAR_DUPLICATE, detail=HOSTILE, text=lost.text),
        ],
        verdicts={CHILD: verdict(CHILD), lost.id: verdict(lost.id, well_formed=False)},
        findings=[
            Finding(
                problem_id=rows[3].id, benchmark="aime", benchmark_problem_id="7", kind=FindingKind.NGRAM, score=0.5,
                detail="words",
            )
        ],
    )  # fmt: skip


def own_responses(number: int, row_id: str) -> list[Response]:
    long = "So the first step follows. " * 30 + r"Therefore $x = \frac{1}{2}$ at the very end."
    texts = {0: long, 2: HOSTILE}
    found = report.make_responses(row_id, 7, 0.7, random.Random(number))
    return [
        replace(one, text=texts.get(number, one.text), answer=HOSTILE if number == 2 else one.answer)
        for one in found
    ]


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, made())
    return path.as_uri()


def quiet(tab: Tab) -> None:
    """Check that nothing was requested but pages of the report, and that the console is empty."""
    assert tab.errors == [] and {one.split("#")[0].rsplit("/", 2)[-1] for one in tab.requests} <= {
        "report.html",
        "0001.html",
    }
    assert all(one.startswith("file:") for one in tab.requests)


def count(tab: Tab) -> str:
    return tab.run("document.getElementById('count').textContent")


def choose(tab: Tab, **values: str) -> None:
    for name, value in values.items():
        tab.run(f"(() => {{ const one = document.getElementById('{name}'); one.value = '{value}';"
                " one.dispatchEvent(new Event('input', {bubbles: true})); })()")  # fmt: skip


@SIZES
def test_search_filter_open_and_follow_the_lineage(tab: Tab, address: str, width: int, height: int) -> None:
    tab.open(address, width=width, height=height)
    assert (
        count(tab) == "60 problems" and tab.run("document.querySelectorAll('#rows > details').length") == 20
    )
    tab.type("/")
    tab.type("ZEBRAS")
    assert count(tab) == "1 problem"
    tab.wait("location.hash.includes('q=ZEBRAS')")
    assert tab.run("document.querySelector('#rows mfrac') !== null")
    tab.run("document.activeElement.blur()")
    tab.type("j")
    tab.send("Input.dispatchKeyEvent", type="keyDown", key="Enter", text="\r")
    tab.wait("document.querySelector('#rows .tree')")
    assert tab.run("document.querySelectorAll('#rows .samples > details').length") == 8
    assert tab.run("[...document.querySelectorAll('#rows .tree .node')].map(one => one.textContent.slice(0, 20))") == [
        "Zebras at the start.", "Find ab of zebras.", ROWS[1].problem[:20], HOSTILE[:20], "A near copy of the zebras."[:20],
    ]  # fmt: skip
    tab.run(f"document.querySelector('#rows .tree a[href=\"#open={GRANDCHILD}\"]').click()")
    tab.wait(f"document.getElementById('row-{GRANDCHILD}')?.querySelector('.tree')")
    assert count(tab) == "60 problems"
    tab.run(f"document.querySelector('#row-{GRANDCHILD} .tree a').click()")
    tab.wait(f"document.getElementById('row-{SEED}')?.open")
    assert count(tab) == "63 problems"  # with the rejected ones and the seed
    assert tab.run("document.documentElement.scrollWidth") <= width
    quiet(tab)


def test_filters_sort_and_permalink(tab: Tab, address: str) -> None:
    tab.open(address)
    for values, expected in [
        ({"ok": "0"}, "12 problems"),
        ({"ok": "", "flag": "yes"}, "1 problem"),
        ({"flag": "", "state": "rejected"}, "2 problems"),
        ({"why": "near duplicate"}, "1 problem"),
        ({"why": "", "state": "exported", "tier": "hard"}, "15 problems"),
        ({"tier": "", "low": "0.5"}, f"{sum(round(row.weight, 4) >= 0.5 for row in ROWS)} problems"),
        ({"low": "", "q": "nowhere"}, "0 problems"),
    ]:
        choose(tab, **values)
        assert count(tab) == expected, values
    choose(tab, q="", sort="w-up")
    weights = "[...document.querySelectorAll('#rows .numbers')].map(one => Number(one.textContent.split('w = ')[1]))"
    assert tab.run(weights) == [round(weight, 3) for weight in sorted(row.weight for row in ROWS)[:20]]
    tab.open(f"{address}#open={ROWS[55].id}")
    tab.wait(f"document.getElementById('row-{ROWS[55].id}').querySelector('.samples')")
    tab.open(f"{address}#tier=hard&state=exported")
    assert count(tab) == "15 problems"
    tab.run("document.querySelector('nav a[href=\"#funnel\"]').click()")
    assert count(tab) == "15 problems"
    tab.open(f"{address}#funnel")
    assert count(tab) == "60 problems" and tab.run("document.getElementById('state').value") == "exported"
    quiet(tab)


def test_a_cut_response_links_to_its_whole_text(tab: Tab, address: str) -> None:
    tab.open(f"{address}#open={CHILD}")
    tab.wait("document.querySelector('.samples a')")
    text = tab.run("document.querySelector('#rows .samples .text').textContent")
    assert len(text) == 300 + len(" … whole text") and "very end" not in text
    assert tab.run("document.querySelector('#rows').textContent").count("✓") == 5
    tab.run("document.querySelector('#rows .samples a').click()")
    tab.wait(f"document.getElementById('p-{CHILD}')?.textContent.includes('very end')")
    assert tab.run("document.querySelectorAll('mfrac').length") >= 8
    quiet(tab)


def test_a_hostile_text_shows_itself_and_does_nothing(tab: Tab, address: str) -> None:
    tab.open(f"{address}#open={ROWS[2].id}")
    tab.wait("document.querySelector('#rows details[open] .samples')")
    tab.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    shown = tab.run(f"document.getElementById('row-{ROWS[2].id}').querySelector('.statement').textContent")
    assert (
        "<script>document.title = 'owned'</script>" in shown
        and "<img src=x onerror=alert(1)>".replace(" ", "\xa0") in shown
    )
    assert r"\href{javascript:alert(1)}{x}" in shown and "<U+202E>gnihton<U+202C>" in shown
    assert tab.run("document.title") == "SURE-Math: report"
    assert tab.run("document.querySelectorAll('img, main script, iframe, [onerror], [onclick]').length") == 0
    links = tab.run("[...document.links].map(one => one.getAttribute('href'))")
    assert all(one.startswith(("#", "report/", "validation/", "../")) for one in links)
    choose(tab, state="rejected")
    tab.run("document.querySelectorAll('#rows > details').forEach(one => one.open = true)")
    tab.wait("document.querySelectorAll('#rows .tree').length === 2")
    quiet(tab)


WORDS = [
    start + end
    for start in ("ban", "cor", "del", "mar", "tin", "sol")
    for end in ("ana", "ter", "vio", "gon", "ker", "lim")
]


def large(size: int) -> ReportData:
    """Return `size` problems with a formula each and eight responses of 1,000 characters, in words at random."""
    rng = random.Random(1)
    pool = [" ".join(rng.choices(WORDS, k=170)) + str(rng.random()) for _ in range(800)]
    samples = report.make_responses("x", 7, 0.7, rng)
    rows, responses = [], []
    for number in range(size):
        base, name = ROWS[number % 60], f"{rng.getrandbits(128):032x}"
        text = (
            f"Take {rng.choice(pool)[:220]} and find $\\frac{{{number}}}{{x}}$ for {rng.choice(pool)[:150]}."
        )
        rows.append(replace(base, id=name, problem=text))
        responses += [
            replace(one, problem_id=name, text=rng.choice(pool)[rng.randrange(600) :] + rng.choice(pool))
            for one in samples
        ]
    return ReportData(
        name="x",
        profile="p",
        fingerprint="f",
        examples=rows,
        responses=responses,
        stages=report.STAGES,
        num_problems=2,
    )


@pytest.mark.slow
@pytest.mark.long
def test_10_000_problems_are_drawn_within_a_second_and_a_key_press_within_100_ms(
    tab: Tab, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_report(large(10_000)), encoding="utf-8")
    assert path.stat().st_size <= 12_000_000
    tab.open(path.as_uri())
    assert count(tab) == "10,000 problems"
    paint = tab.run("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    timing = """new Promise(done => {
      const field = document.getElementById('q'), times = [];
      const press = text => {
        if (!text) return done(times.sort((a, b) => a - b));
        const start = performance.now();
        field.value += text[0];
        field.dispatchEvent(new Event('input', {bubbles: true}));
        document.body.offsetHeight;
        times.push(performance.now() - start);
        setTimeout(press, 0, text.slice(1));
      };
      press('banana 17');
    })"""
    before = tab.work_ms()
    times = tab.run(timing)
    work = (tab.work_ms() - before) / len(times)
    print(
        f"{path.stat().st_size:,} bytes, paint {paint:.0f} ms, keys {times[0]:.0f} to {times[-1]:.0f} ms, work {work:.0f} ms"
    )
    assert (
        paint < 1000 and times[0] < 100 and work < 100
    )  # work: independent of other programs on the machine
    quiet(tab)
