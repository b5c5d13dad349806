"""A second meaning of formulas: what the compiled step is held against.

It walks the tree in double precision, one text at a time, with no plan and no batch, and exact
fractions for numbers. It also says how close any of its choices was and how large any of its values
became, so that a law is not held against rounding. It shares the syntax tree with descant, and
nothing else.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import mpmath

from descant.grammar import Binary, Call, Name, Node, Number, Pipeline, Unary

MODELS, REWARDS, PARAMS = ("base", "arm", "arm2"), ("rm", "rm2"), ("a", "b")
STATE = ("entropy", "max_prob", "kl", "js")
STAGED = ("top_k", "top_p", "min_p")
COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
Table = Sequence[Sequence[float]]
Scores = dict[int, float]  # the tokens that are not excluded
Sum = dict["Node | None", Fraction]  # the coefficient of each part, and of 1


@dataclass
class World:
    """The tables of every model, the parameters, the text so far, and how many tokens are ours."""

    tables: Mapping[str, Table]
    params: Mapping[str, float]
    text: Sequence[int]
    step: int = 0
    margin: float = math.inf  # of the closest choice
    scale: float = 1.0  # of the largest value

    @property
    def width(self) -> int:
        return len(self.tables["base"])

    def scores(self, node: Node) -> Scores:
        """The tokens that are not excluded, with their scores."""
        match node:
            case Pipeline(head, stages):
                found = self.scores(head)
                for stage in stages:
                    found = self._stage(stage, found)
            case Name(name) if name in MODELS:
                row = dict(enumerate(self.tables[name][self.text[-1]]))
                found = _log_softmax(row)
            case Call(function) if function.name in STAGED:
                first, *rest = node.arguments
                found = self._stage(Call(function, tuple(rest)), self.scores(first.value))
            case Call() if not self._is_number(node):
                found = self._operator(node)
            case _:
                found = self._added(self.sum(node))
        self.scale = max([self.scale, *map(abs, found.values())])
        return found

    def sum(self, node: Node) -> Sum:
        """The coefficients of a sum, like parts together, where like is written alike."""
        match node:
            case Unary(op, operand):
                return _scaled(self.sum(operand), Fraction(-1 if op == "-" else 1))
            case Binary("+" | "-" as op, left, right):
                out = dict(self.sum(left))
                for part, by in self.sum(right).items():
                    out[part] = out.get(part, Fraction(0)) + (by if op == "+" else -by)
                return out
            case Binary("*", left, right):
                number, scores = (left, right) if self._is_number(left) else (right, left)
                return _scaled(self.sum(scores), self.number(number))
            case Binary("/", left, right):
                return _scaled(self.sum(left), 1 / self.number(right))
            case _ if self._is_number(node):
                return {None: self.number(node)}
            case _:
                return {node: Fraction(1)}

    def number(self, node: Node) -> Fraction:
        """A number made of numbers, parameters and numbers of the state, exactly."""
        match node:
            case Number(value):
                return value
            case Name("step"):
                return Fraction(self.step)
            case Name(name):
                return Fraction(self.params[name])
            case Unary(op, operand):
                return -self.number(operand) if op == "-" else self.number(operand)
            case Binary("**", left, right):
                return Fraction(float(self.number(left)) ** float(self.number(right)))
            case Binary(op, left, right):
                by = {"+": operator.add, "-": operator.sub, "*": operator.mul}.get(
                    op, operator.truediv
                )
                return by(self.number(left), self.number(right))
            case Call(Name(name), arguments) if name in STATE:
                return Fraction(self._state(name, [one.value for one in arguments]))
            case Call(Name("sqrt" | "exp" as name), (one,)):
                return Fraction(getattr(math, name)(self.number(one.value)))
            case Call(function, arguments):
                values = [self.number(one.value) for one in arguments]
                return {"max": max, "min": min, "abs": abs}[function.name](*values)
        raise TypeError(node)

    def _is_number(self, node: Node) -> bool:
        match node:
            case Name(name):
                return name in (*PARAMS, "step")
            case Unary(_, operand):
                return self._is_number(operand)
            case Binary(_, left, right):
                return self._is_number(left) and self._is_number(right)
            case Call(function, arguments):
                known = function.name in ("max", "min", "abs", "sqrt", "exp")
                numbers = all(self._is_number(each.value) for each in arguments)
                return function.name in STATE or (known and numbers)
        return isinstance(node, Number)

    def _added(self, parts: Sum) -> Scores:
        """Excluded: what any part with a coefficient other than 0 excludes, whatever its sign."""
        total = dict.fromkeys(range(self.width), float(parts.get(None, 0)))
        masked: dict[frozenset[int], list[Fraction]] = {}
        for part, by in parts.items():
            if part is None or by == 0:
                continue
            found = self.scores(part)
            total = {t: v + float(by) * found[t] for t, v in total.items() if t in found}
            self.scale = max([self.scale, *(abs(float(by) * v) for v in found.values())])
            if len(found) < self.width:
                if abs(by) < 1e-3:  # in float32 it may be 0, and excludes nothing then
                    self._close(float(by))
                masked.setdefault(frozenset(found), []).append(by)
        for together in masked.values():  # written apart, and perhaps one part all the same
            if len(together) > 1 and sum(together) == 0:
                self._close(0)
        return total

    def _operator(self, node: Call) -> Scores:
        given = [one.value for one in node.arguments if one.weight is None]
        parts = [(self.number(one.weight), one.value) for one in node.arguments if one.weight]
        match node.function.name, given:
            case "max", nodes:
                found = [self.scores(one) for one in nodes]
                tokens = set().union(*found)
                return {t: max(x[t] for x in found if t in x) for t in sorted(tokens)}
            case "min", nodes:
                found = [self.scores(one) for one in nodes]
                tokens = set.intersection(*map(set, found))
                return {t: min(x[t] for x in found) for t in sorted(tokens)}
            case "mix", _:
                found = [(float(w), _softmax(self.scores(x))) for w, x in parts if w > 0]
                tokens = set().union(*(x for _, x in found))
                return {
                    t: math.log(math.fsum(w * x.get(t, 0.0) for w, x in found))
                    for t in sorted(tokens)
                }
            case "pmean", [p]:
                found = [(w, _log_softmax(self.scores(x))) for w, x in parts if w > 0]
                return self._power_mean(self.number(p), found)
            case "mean", [x]:
                by = sum((c for part, c in self.sum(x).items() if part is not None), Fraction(0))
                if by <= 0:
                    raise ZeroDivisionError("a mean over a sum that is not above 0")
                return _log_softmax({t: v / float(by) for t, v in self.scores(x).items()})
            case "temp", [x, t]:
                by = float(self.number(t))
                return _log_softmax({token: v / by for token, v in self.scores(x).items()})
            case "plausible", [x, alpha]:
                return self._near_the_best(self.scores(x), float(self.number(alpha)))
            case "debias", [x, y, lam]:
                return self._debiased(self.scores(x), self.scores(y), float(self.number(lam)))
            case "where", [condition, x, y]:
                return self.scores(x if self._holds(condition) else y)
        raise TypeError(node)

    def _power_mean(self, p: Fraction, parts: list[tuple[Fraction, Scores]]) -> Scores:
        """By its definition, in fifty digits."""
        some, every = (set().union, set.intersection) if parts else (set, set)
        tokens = (some if p > 0 else every)(*(set(x) for _, x in parts))
        out = {}
        with mpmath.workdps(50):
            for token in sorted(tokens):
                held = [(mpmath.mpf(w.numerator) / w.denominator, x[token])
                        for w, x in parts if token in x]  # fmt: skip
                if p == 0:
                    mean = sum(w * v for w, v in held) / sum(w for w, _ in held)
                else:
                    power = mpmath.mpf(p.numerator) / p.denominator
                    mean = mpmath.log(sum(w * mpmath.exp(power * v) for w, v in held)) / power
                out[token] = float(mean)
        return out

    def _near_the_best(self, found: Scores, share: float) -> Scores:
        if share == 0 or not found:
            return found
        least = max(found.values()) + math.log(share)
        if share < 1:
            for value in found.values():
                self._close(value - least)
        else:
            self._first(found, 1)
        return {token: value for token, value in found.items() if value >= least}

    def _debiased(self, x: Scores, y: Scores, lam: float) -> Scores:
        if max([0.0, *x.values(), *y.values()]) > 50:  # beyond what e^x of float32 can say
            self._close(0)
            return x
        fall = {t: lam * min(math.exp(v) - math.exp(y.get(t, -math.inf)), 0) for t, v in x.items()}
        self.scale = max([self.scale, *map(abs, fall.values())])
        return _log_softmax({t: v + fall[t] for t, v in x.items()})

    def _holds(self, node: Node) -> bool:
        match node:
            case Unary("not", operand):
                return not self._holds(operand)
            case Binary("and", left, right):
                return self._holds(left) & self._holds(right)
            case Binary("or", left, right):
                return self._holds(left) | self._holds(right)
            case Binary(op, left, right):
                one, two = self.number(left), self.number(right)
                if self._is_rounded(left) or self._is_rounded(right):
                    self._close(float(one - two))
                return bool(COMPARE[op](one, two))
        raise TypeError(node)

    def _is_rounded(self, node: Node) -> bool:
        """Whether a number depends on probabilities."""
        match node:
            case Unary(_, operand):
                return self._is_rounded(operand)
            case Binary(_, left, right):
                return self._is_rounded(left) or self._is_rounded(right)
            case Call(Name(name), arguments):
                return name in STATE or any(self._is_rounded(one.value) for one in arguments)
        return False

    def _state(self, name: str, of: Sequence[Node]) -> float:
        p, *others = (_softmax(self.scores(node)) for node in of)
        if name == "entropy":
            return -math.fsum(x * math.log(x) for x in p.values() if x > 0)
        if name == "max_prob":
            return max([0.0, *p.values()])
        [q] = others
        if name == "kl":
            return _divergence(p, q)
        mean = {token: (p.get(token, 0.0) + q.get(token, 0.0)) / 2 for token in {*p, *q}}
        return (_divergence(p, mean) + _divergence(q, mean)) / 2

    def _stage(self, stage: Call, found: Scores) -> Scores:
        name = stage.function.name
        first = "reward" if name == "rerank" else "value"
        given = {one.name.name if one.name else first: one.value for one in stage.arguments}
        if name == "rerank":
            return self._reranked(given, found)
        if name == "logit_bias":
            bias = {int(e.key.value): float(self.number(e.value)) for e in given[first].entries}
            return {token: score + bias.get(token, 0.0) for token, score in found.items()}
        [value] = (self.number(node) for node in given.values())
        match name:
            case "top_k":
                return self._first(found, int(value))
            case "top_p":
                return self._mass(found, float(value))
            case "min_p":
                return self._near_the_best(found, float(value))
            case "temperature":
                return {token: score / float(value) for token, score in found.items()}
            case "presence_penalty" | "frequency_penalty":
                answer = list(self.text[len(self.text) - self.step :])
                counts = {token: answer.count(token) for token in found}
                most = 1 if name == "presence_penalty" else self.step
                return {t: v - float(value) * min(counts[t], most) for t, v in found.items()}
            case "repetition_penalty":
                x, seen = float(value), set(self.text)
                return {
                    t: (v * x if v < 0 else v / x) if t in seen else v for t, v in found.items()
                }
        raise TypeError(stage)

    def _mass(self, found: Scores, p: float) -> Scores:
        """The fewest tokens whose shares reach p."""
        shares, total = _softmax(found), 0.0
        for count, token in enumerate(_order(found), 1):
            self._close(total - p)
            total += shares[token]
            if total > p:
                self._close(total - p)
                return self._first(found, count)
        return found

    def _reranked(self, given: Mapping[str, Node], found: Scores) -> Scores:
        kept = self._first(found, int(self.number(given["k"])))
        rewards = {token: self._reward(given["reward"], self.text, token) for token in kept}
        match given.get("norm", Name("none")):
            case Name("center") if kept:
                middle = math.fsum(rewards.values()) / len(rewards)
                rewards = {token: r - middle for token, r in rewards.items()}
            case Name("minmax") if kept:
                low, high = min(rewards.values()), max(rewards.values())
                rewards = {t: (r - low) / ((high - low) or 1.0) for t, r in rewards.items()}
                self.scale = max(self.scale, 1 / ((high - low) or 1.0))
            case Name("prefix"):
                before = self.text[:-1] or self.text
                length = max(self.step, 1)
                read = self._reward(given["reward"], before, self.text[-1], length)
                rewards = {token: r - read for token, r in rewards.items()}
        if "clamp" in given:
            low, high = (float(self.number(bound)) for bound in given["clamp"].items)
            rewards = {token: min(max(r, low), high) for token, r in rewards.items()}
        weight = float(self.number(given.get("w", Number(Fraction(1)))))
        self.scale = max([self.scale, *(abs(weight * r) for r in rewards.values())])
        better = {token: value + weight * rewards[token] for token, value in kept.items()}
        return {**found, **better} if given.get("keep") == Name("all") else better

    def _reward(self, node: Node, text: Sequence[int], token: int, length: int = 0) -> float:
        """The value of a reward expression, of an answer that has ``length`` tokens; 0: one more.

        The scale is also that of the derivatives, by which an error of the rewards grows.
        """

        def value(inner: Node) -> float:
            return self._reward(inner, text, token, length)

        def known(result: float, *steepness: float) -> float:
            self.scale = max([self.scale, abs(result), *map(abs, steepness)])
            return result

        match node:
            case _ if self._is_number(node):
                return known(float(self.number(node)))
            case Name("answer_length"):
                return known(float(length or self.step + 1))
            case Name(name):
                return known(self.tables[name][text[-1]][token])
            case Unary(op, operand):
                return -value(operand) if op == "-" else value(operand)
            case Binary("+" | "-" as op, left, right):
                x, y = value(left), value(right)
                return known(x + y if op == "+" else x - y)
            case Binary("*", left, right):
                x, y = value(left), value(right)
                return known(x * y)
            case Binary("/", left, right):
                x, y = value(left), value(right)
                return known(x / y, 1 / y, x / y**2)
            case Binary("**", left, right):
                x, y = value(left), float(self.number(right))
                return known(x**y, y * x ** (y - 1))
            case Call(Name("log"), (one,)):
                x = value(one.value)
                return known(math.log(x), 1 / x)
            case Call(Name("sigmoid"), (one,)):
                return known(1 / (1 + math.exp(-value(one.value))))
            case Call(Name("sqrt" | "exp" as name), (one,)):
                return known(getattr(math, name)(value(one.value)))
            case Call(function, arguments):
                values = [value(one.value) for one in arguments]
                return {"max": max, "min": min, "abs": abs}[function.name](*values)
        raise TypeError(node)

    def _first(self, found: Scores, k: int) -> Scores:
        order = _order(found)
        if k < len(order):
            self._close(found[order[k - 1]] - found[order[k]])
        return {token: found[token] for token in order[:k]}

    def _close(self, distance: float) -> None:
        self.margin = min(self.margin, abs(distance))


def _order(found: Scores) -> list[int]:
    return sorted(found, key=lambda token: -found[token])


def _scaled(parts: Sum, by: Fraction) -> Sum:
    return {part: coefficient * by for part, coefficient in parts.items()}


def _divergence(p: Scores, q: Scores) -> float:
    """Kullback and Leibler's, of distributions; q has every token of p."""
    return math.fsum(x * math.log(x / q[token]) for token, x in p.items() if x > 0)


def _log_softmax(found: Scores) -> Scores:
    if not found:
        return {}
    most = max(found.values())
    total = most + math.log(math.fsum(math.exp(x - most) for x in found.values()))
    return {token: value - total for token, value in found.items()}


def _softmax(found: Scores) -> Scores:
    return {token: math.exp(value) for token, value in _log_softmax(found).items()}
