"""What planning a formula takes at worst: families made to be slow, and a search for slower ones.

    python -m bench.planning                 the families, and bench/results/planning.json
    python -m bench.planning --search 300    the same, and so many seconds of random formulas

Every formula is as long as the limits allow. Times are of one processor, without what the first
formula of a process loads; each is measured three times, and all are kept. The work is what the
planner counts before it does any of it.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from descant.formula import Names, Plan, make_plan
from descant.formula.algebra.collect import WORK
from descant.grammar import FormulaError

RESULTS = Path(__file__).parent / "results" / "planning.json"
RUNS, TARGET = 3, 0.5  # seconds
ROOM = 4050  # characters
LETTERS = "abcdefgh"
NAMES = Names(None, frozenset(LETTERS) | {f"p{i}" for i in range(400)})
PARAMS = dict.fromkeys(NAMES.params, 0.5)
LONG = "0." + "123456789" * 11

Part = Callable[[int], str]


def filled(part: Part, between: str = " + ", room: int = ROOM) -> str:
    """As many parts as there is room for, and as one spine may have."""
    text = part(0)
    for i in range(1, 190):
        longer = f"{text}{between}{part(i)}"
        if len(longer) > room:
            break
        text = longer
    return text


def grouped(part: Part, room: int = ROOM - 100, per: int = 20) -> str:
    """The same in parentheses, 20 in each, so that no spine is long."""
    return filled(lambda i: "(" + "+".join(part(per * i + j) for j in range(per)) + ")", "+", room)


def nested(before: str, inside: str, after: str, times: int) -> str:
    """Text around text, so many times; ``#`` is how deep."""
    for i in range(times):
        inside = before.replace("#", str(i)) + inside + after.replace("#", str(i))
    return inside


FAMILIES = {
    # powers
    "powers of quotients": filled(lambda i: f"a/((1+a*b)+b+{i})**30*m{i}"),
    "powers of quotients, like terms": filled(lambda i: "a/((1+a*b)+b+7)**30*x"),
    "powers of quotients, one term": filled(lambda i: f"a/((1+a*b)+b+{i})**30*x"),
    "powers of three": filled(lambda i: f"(a+b+{i})**30*m{i}"),
    "powers of four": filled(lambda i: f"(a+b+c+{i})**10*m{i}"),
    "powers of powers": filled(lambda i: f"((a+{i})**20)**20*m{i}"),
    "powers of powers, too long": filled(lambda i: f"((a+{i})**30)**30*m{i}"),
    "a tower": "x*" + "**".join(["2"] * 90),
    "roots": filled(lambda i: f"((a+b+{i})**30)**0.5*m{i}"),
    "roots of two": filled(lambda i: f"((a*b+{i}+a*b)**30)**0.5*m{i}"),
    # quotients
    "quotients": filled(lambda i: f"(a+b+{i})**9/(a+{i}*b)**9*m{i}"),
    "quotients with a divisor": filled(lambda i: f"(a**9-{i}*b**9)/(a-b+{i})**5*m{i}"),
    "quotients of 60": filled(lambda i: f"m{i}*(a**60-1)/(a**{i % 30 + 1}-1)"),
    "quotients of six": filled(
        lambda i: f"m{i}*(p{i}+p{i + 1})/(p{i}+p{i + 1}+p{i + 2}+p{i + 3}+p{i + 4}+p{i + 5})"
    ),
    "a sum of quotients": f"x*({grouped(lambda i: f'1/(a+b+{i})')})",
    "continued fractions": filled(lambda i: f"m{i}*(a/(b+1/(c+1/(a+{i}))))"),
    "one continued fraction": "x*" + nested("(1/(a+", "b", "))", 48),
    # sums
    "like terms": grouped(lambda i: "a*x"),
    "terms": grouped(lambda i: f"x{i}"),
    "parameters": f"x*({grouped(lambda i: f'p{i % 400}*a')})",
    "nested sums": nested("(", "x", "+y#)*p#", 95),
    "nested sums of parameters": "x*" + nested("(", "a", "+p#*b)*a", 90),
    "terms times a sum": f"({grouped(lambda i: f'x{i}', 3000)})*(a+b+c+1)**11",
    "terms times parameters": nested("(", grouped(lambda i: f"x{i}", 2800), ")*p#", 90),
    "products of sums": filled(lambda i: f"(1+p{i})*(a+b)*(c+d)*(e+f)*(g+h)*m{i}"),
    "a product of sums": "x*" + filled(lambda i: f"(1+p{i})", "*"),
    # numbers
    "long numbers": filled(lambda i: f"({LONG}*a+{LONG}*b+{i})**30*m{i}"),
    "long numbers, like terms": filled(lambda i: f"{LONG}{i}*a*x"),
    "huge and tiny": filled(lambda i: f"(1e300*a+1e-300*b+{i})**3*m{i}"),
    "powers of numbers": filled(lambda i: f"(a*9**{i + 50}+b+{i})**20*m{i}"),
    "fractions of numbers": filled(lambda i: f"(a/9**{i + 50}+b/7**50+1)**20*m{i}"),
    "fractions of primes": f"x*({grouped(lambda i: f'a/{2 * i + 3}')})",
    "a number beyond all": "x*9**9**9",
    "numbers side by side": "x*" + "*".join(["1e300*1e-300"] * 95),
    # functions, operators, conditions and stages
    "functions": filled(lambda i: f"exp((a+b+{i})**30)*m{i}"),
    "functions inside functions": "x*" + nested("exp(a+", "b", ")", 49),
    "functions in powers": filled(lambda i: f"(exp(a+{i})+exp(b)+1)**20*m{i}"),
    "maxima": f"x*max({filled(lambda i: f'(a+b+{i})**30', ',', 780)})",
    "weights of pmean": f"pmean(a; {filled(lambda i: f'(a+b+{i})**20: m{i}', ', ', 3900)})",
    "pmean in pmean": nested("pmean(a; 1: ", "x", ")", 99),
    "mix of sums": f"mix({filled(lambda i: f'1/(a+b+{i}): a*x+b*y{i}', ', ', 3900)})",
    "mean in mean": nested("mean(", "x", "*(a+#)/(b+#))", 33),
    "operators in sums": grouped(lambda i: f"top_k(x,{i + 1})"),
    "operators in operators": nested("top_k(x,1)+max(x,y,", "x", ")", 49),
    "conditions": filled(lambda i: f"where(step < (a+b+{i})**30, m{i}, x)"),
    "conditions of scores": "where("
    + filled(lambda i: f"entropy((a+b)**{i % 60}*x) > 1", " and ", 3900)
    + ", x, y)",
    "sums in conditions": "where("
    + nested("(", "step", ")+(a*b+a*b+a*b+a*b+a)", 95)
    + " > 1, x, y)",
    "stages": "x" + "|top_p((a+b)**20/(a+c)**20)" * 140,
    "rewards": "x" + filled(lambda i: f"|rerank((a+b)**20*r+s,w=a/(b+{i})**9)", ""),
    "bounds": "x" + filled(lambda i: f"|rerank(r,clamp=((a+{i})**40,(a+b)**20+{i}))", ""),
}


SUMMANDS = ("a", "b", "c", "a*b", "a*a", "2", "#", "1e300", "0.123456789012345", "p#", "exp(a)")
PLACES: tuple[Callable[[Callable[[str], Part]], str], ...] = (  # where a coefficient may stand
    lambda part: filled(part("{}*m#")),
    lambda part: filled(part("{}*x")),
    lambda part: f"pmean(1; {filled(part('{}: m#'), ', ', 3900)})",
    lambda part: f"mix({filled(part('{0}: {0}*x+y#'), ', ', 3900)})",
    lambda part: filled(part("where(step<{}, m#, x)")),
    lambda part: "x" + filled(part("|top_p({})"), ""),
    lambda part: f"x*max({filled(part('{}'), ', ', 1200)})",
)


def at_random(choose: random.Random) -> str:
    """A formula that fills its room with coefficients of one random shape."""

    def total() -> str:
        return f"({'+'.join(choose.choice(SUMMANDS) for _ in range(choose.randint(2, 5)))})"

    def power() -> str:
        return f"{total()}**{choose.choice([1, 2, 5, 9, 15, 30, 64])}"

    around = choose.choice(["{}", "{}/{}", "{}*{}", "({}-{})", "exp({})", "({})**0.5", "({})**9"])
    shape = around.format(power(), power())

    def part(place: str) -> Part:
        text = place.format(shape)
        return lambda i: text.replace("#", str(i))

    return choose.choice(PLACES)(part)


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """The seconds of the processor that an action takes, and what it gives."""
    start = time.process_time()
    result = action()
    return time.process_time() - start, result


def made(formula: str) -> Plan | str:
    """The plan, or why there is none."""
    try:
        return make_plan(formula, NAMES)
    except FormulaError as error:
        return error.problem


def evaluated(plan: Plan) -> str:
    """Its numbers for one request, or why there are none."""
    try:
        plan.values(PARAMS)
    except FormulaError as error:
        return error.problem
    return ""


def measured(formula: str, runs: int = RUNS) -> dict[str, Any]:
    """One formula: the seconds to plan, print and evaluate it, and the work counted."""
    row: dict[str, Any] = {"characters": len(formula), "plan": [], "print": [], "evaluate": []}
    for _ in range(runs):
        seconds, plan = timed(lambda: made(formula))
        row["plan"].append(round(seconds, 4))
        if isinstance(plan, str):
            row["refused"] = plan
            continue
        row["work"], row["kept"] = plan.work, plan.kept
        row["print"].append(round(timed(partial(list, map(str, plan.scalars)))[0], 4))
        seconds, row["no_value"] = timed(partial(evaluated, plan))
        row["evaluate"].append(round(seconds, 4))
    return row


def searched(seconds: float, seed: int = 0, keep: int = 10) -> dict[str, Any]:
    """Random formulas for so long, and the slowest of them."""
    choose, end, worst, tried = random.Random(seed), time.monotonic() + seconds, [], 0
    while time.monotonic() < end:
        formula = at_random(choose)
        row = {"formula": formula, **measured(formula, 1)}
        tried += 1
        worst = sorted([*worst, row], key=lambda each: -_seconds(each))[:keep]
    for row in worst:  # a pause of the machine is no property of a formula
        row.update(measured(row["formula"]))
    return {"seed": seed, "tried": tried, "worst": sorted(worst, key=lambda each: -_seconds(each))}


def _seconds(row: dict[str, Any]) -> float:
    return float(sum(statistics.median(row[key] or [0]) for key in ("plan", "print", "evaluate")))


def lines(rows: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The table."""
    yield f"{'':34}{'plan':>8}{'print':>8}{'values':>8}{'work':>8}  kept"
    for name, row in rows.items():
        times = "".join(
            f"{statistics.median(row[key] or [0]):8.3f}" for key in ("plan", "print", "evaluate")
        )
        end = row.get("refused") or f"{row['kept']:>4}"
        yield f"{name:34}{times}{row.get('work', ''):>8}  {end}"


def main() -> None:
    """Measure, print, and keep the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--search", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    made("x*a/(a+b)")  # loads the grammar and sympy
    rows = {name: measured(formula) for name, formula in FAMILIES.items()}
    print("\n".join(lines(rows)))
    slowest = max(rows, key=lambda name: statistics.median(rows[name]["plan"]))
    print(f"the slowest to plan: {slowest}; asked for: at most {TARGET} s")
    from descant.bench.measure import about

    content = {"about": about(), "budget": WORK, "target": TARGET, "families": rows}
    if options.search:
        content["search"] = searched(options.search)
        worst = content["search"]["worst"]
        print(f"{content['search']['tried']} at random, the slowest of which:")
        print("\n".join(lines({row["formula"][:32]: row for row in worst})))
    options.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
