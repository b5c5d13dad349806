"""Every measured number in the documents is one of ``bench/results``, rounded as it is written.

What is measured again is written again, or a test fails; no test here is timed.
"""

import re
import statistics

import pytest
from doc_pages import NUMBER, RESULTS, ROOT, Page, is_rounded, numbers, values
from doc_pages import results as raw

from bench.report import text


def test_rounding_can_fail():
    assert is_rounded("2.6", 2.6285) and is_rounded("1.13", 1.1255) and is_rounded("31", 31.4)
    assert not is_rounded("2.7", 2.6285) and not is_rounded("1.12", 1.1255)
    assert not is_rounded("7.0", 7.06) and not is_rounded("7", 6.49)


def ratio(name, key):
    return raw(name)["results"][key]["ratio"]


def of_steps(batch):
    return next(one["ratio"] for one in raw("steps")["results"] if one["batch"] == batch)


README_ROWS = {
    "a step of three models, batch 1": lambda: [of_steps(1)],
    "a step of three models, batch 8": lambda: [of_steps(8)],
    "three models, whole runs, batch 1 and 8": lambda: [
        ratio("cpu", "three models, batch 1"), ratio("cpu", "three models, batch 8"),
    ],
    "one model under three prompts, batch 1": lambda: [
        ratio("cpu", "one model, three prompts, batch 1")
    ],
    "11 weights × 4 prompts as rows, LoRA arms": lambda: [  # noqa: RUF001
        ratio("cpu", "11 vectors x 4 prompts, LoRA arms")
    ],
    "11 weights × 4 prompts as rows, separate arms": lambda: [  # noqa: RUF001
        ratio("cpu", "11 vectors x 4 prompts, separate arms")
    ],
    "`rerank(k=10)`, batch 1 | one base step": lambda: [ratio("cpu", "rerank k=10, batch 1")],
    "`rerank(k=10)`, batch 1 | every candidate": lambda: [
        ratio("cpu", "rerank k=10 from scratch, over ours")
    ],
    "the server, 8 slots, 64 clients, one formula": lambda: [raw("serving-arms")["ratio"]],
    "the same, four formulas mixed": lambda: [raw("serving")["ratio"]],
}  # fmt: skip


def test_the_ratios_of_the_readme():
    rows = re.search(
        r"\| ours \| against \| ratio \|\n.*?\n(.*?)\n\n", Page("README.md").text, re.S
    )[1]
    for line in rows.splitlines():
        [values] = [of() for row, of in README_ROWS.items() if line.startswith(f"| {row}")]
        written = numbers(line.strip("|").split("|")[-1])
        assert len(written) == len(values), line
        assert all(map(is_rounded, written, values)), (line, values)
    assert len(rows.splitlines()) == len(README_ROWS)


def test_the_readme_says_how_far_whole_runs_scatter():
    about = re.search(r"On two CPU cores, .*?\n\n", Page("README.md").text, re.S)[0]
    said = raw("cpu")
    sizes = [*said["shape"][1].values(), said["prompt_tokens"], said["new_tokens"]]
    sizes += [len(one["pairs"]) for one in raw("steps")["results"]]
    for written in numbers(re.sub(rf"{NUMBER} %|`[^`]*`|float32", "", about)):
        assert int(written) in sizes, written
    [percent] = re.findall(rf"({NUMBER}) %", about)
    spread = [
        abs(one / statistics.median(row["ratios"]) - 1)
        for row in said["results"].values()
        for one in row["ratios"]
    ]
    assert float(percent) >= 100 * max(spread)


UNITS = {  # what a number with this unit may be, by the key of the value
    "ms": ((r"_ms\b", 1), (r"seconds$", 1000)),
    "s": ((r"_ms\b", 0.001), (r"seconds$", 1)),
    "MB": ((r"_bytes$", 1e-6),),
    "times": ((r"\bratio$", 1), (r"\brequests$", 1)),
    "": (("", 1),),
}


def unfounded(section, results):
    """The numbers of a section that are no value of the results, by their unit."""
    words = re.sub(r"`[^`]*`|\]\([^)]*\)|\bp\d+\b", " ", section)
    found = [pair for said in results for pair in values(said)]
    lengths = [one["length"] for said in results for one in said["results"]["clients"]["raw"]]
    found += [("length", length) for length in (min(lengths), max(lengths))]
    missing = []
    for number, unit in re.findall(rf"({NUMBER})(?: (ms|s|MB|times|%)(?!\w))?", words):
        written = number.replace(",", "")
        if unit == "%":  # of a scatter, which is no smaller than what the two halves of a run show
            halves = [said["results"]["one"]["halves_seconds"] for said in results]
            if float(written) < max(100 * (max(some) / min(some) - 1) for some in halves):
                missing.append(f"{number} %")
            continue
        fits = [
            value * scale
            for key, value in found
            for part, scale in UNITS[unit]
            if re.search(part, key)
        ]
        if not any(is_rounded(written, one) for one in fits):
            missing.append(f"{number} {unit}".strip())
    return missing


def serving():
    return Page("docs/serving.md").section("How fast"), [
        raw(file.stem) for file in sorted(RESULTS.glob("serving*.json"))
    ]


def test_what_serving_says_of_its_speed():
    section, results = serving()
    assert len(numbers(section)) > 8 and unfounded(section, results) == []
    for said in results:
        one = said["results"]["clients"]
        assert one["equal"] == one["answers"] and one["left_equal_so_far"] == one["left"]


def test_what_serving_says_can_be_wrong():
    section, results = serving()
    ratio = results[0]["ratio"]
    for wrong in (f"{ratio + 0.3:.2f} times", "488.9 ms", "3 %", "23,457 requests", "1 MB"):
        assert unfounded(f"{section} And {wrong}.", results), wrong


def test_what_loading_says_of_processes():
    said = raw("ranks")["results"]
    for count, row in (("1", "1"), ("2", "2"), ("4", "4, on the two cores")):
        _, weights, step, share = Page("docs/loading.md").cells(row)
        runs = [sorted(rank["runs"], key=lambda run: run["milliseconds"]) for rank in said[count]]
        middles = [some[len(some) // 2] for some in runs]
        shares = [100 * middle["meeting"] for middle in middles]
        assert is_rounded(weights.removesuffix(" MB"), said[count][0]["weights"] / 1e6)
        assert any(is_rounded(step, middle["milliseconds"]) for middle in middles)
        low, high = numbers(share)[0], numbers(share)[-1]
        assert is_rounded(low, min(shares)) and is_rounded(high, max(shares))


def test_what_one_sweep_spares():
    said, words = raw("sweep")["results"], Page("bench/README.md")
    parts = said["parts"]
    for row, values_ in (
        ("`descant sweep`, 176 rows", [said["sweep"]["cpu"]]),
        ("eleven times `descant run`, 16 rows each", [said["runs"]["cpu"]]),
        ("runs over the sweep", [said["runs over the sweep, cpu"]]),
        ("in a sweep that scores: steps", [parts["steps"]["cpu"]]),
        ("scoring", [parts["scoring"]["cpu"]]),
        (
            "beside both: data, setting up, writing, progress",
            [parts["beside"]["cpu"], 100 * said["beside over steps, cpu"]],
        ),
        ("tables, report and figures at the end", [parts["report"]["cpu"]]),
    ):
        written = numbers(words.cells(row)[1])
        assert len(written) == len(values_), row
        assert all(map(is_rounded, written, values_)), (row, values_)


def test_what_steering_is_said_to_be_beside_aisteer360():
    cases = raw("steering")["cases"]
    assert {*cases} == {"one row", "eight rows", "eight weights"}
    for case in cases.values():
        rows = len(case["weights"])
        for scope in ("answer", "all"):
            tokens = case["tokens"][scope]
            assert {*tokens} == {"hooks", "aisteer360"}
            assert {*tokens.values()} == {f"{rows} of {rows} rows equal"}
    section = Page("bench/README.md").section("Steering beside AISteer360")
    for name, case in cases.items():
        [line] = [line for line in section.splitlines() if line.startswith(f"| {name}")]
        written = numbers(line.partition(" | ")[2])
        times, ratios = case["ms per token"], case["ratios"]
        measured = [times[way] for way in ("ours", "hooks", "aisteer360")]
        measured += [ratios["hooks / ours"], ratios["aisteer360 / ours"]]
        assert len(written) == len(measured) and all(map(is_rounded, written, measured)), name


def test_what_evaluation_says_of_its_speed():
    words = Page("docs/evaluation.md")
    for one in raw("harness")["results"]:
        _, theirs, ours = words.cells(one["what"])
        assert is_rounded(theirs, min(one["hf"])) and is_rounded(ours, min(one["ours"]))
        assert one["same answers"] and len(one["hf"]) == len(one["ours"]) == 3


def test_what_compiling_brings_on_a_cpu():
    words = Page("docs/decisions/0020-no-compile-on-a-cpu.md").text
    brings = re.search(r"makes our step (.*?) \(", words, re.S)[1]
    for written, ways in zip(re.findall(r"(\d+) %", brings), raw("compile")["results"].values(),
                             strict=True):  # fmt: skip
        plain, compiled = (ways[way]["steps"] for way in ("as it is", "compiled"))
        pairs = [1 - b / a for a, b in zip(plain, compiled, strict=True)]
        assert is_rounded(written, 100 * statistics.median(pairs))


def test_the_report_of_the_suite_is_of_its_numbers():
    assert Page("bench/results/suite-cpu.md").text == text(raw("suite-cpu"), "suite-cpu.png")


@pytest.mark.parametrize("file", ["README.md", "bench/README.md", *sorted(
    str(file.relative_to(ROOT)) for file in (ROOT / "docs").rglob("*.md")
)])  # fmt: skip
def test_results_that_are_named_are_there(file):
    for name in re.findall(r"(?:bench/)?results/([\w-]+\.(?:json|md|png))", Page(file).text):
        unmeasured = "cuda" in name or name.startswith("gpu-")  # on machines that we lack
        assert (RESULTS / name).is_file() or unmeasured, name
