# SPDX-License-Identifier: Apache-2.0
"""One run as it happens: each report gets a judgement. No clock, no I/O.

The same features, scores and rule as offline. The model judges where it can; the caps hold
always, and the signs of being stuck where there is no score. A run whose beginning was not
seen has no features, so it is judged by the rules alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import InvalidValueError
from ..types.steps import Advice, StepReport
from .decision import Decider, DecisionRule
from .predictor import Predictor
from .probabilities import checked_summary
from .rules import RuleLimits, Rules
from .signals import HostSignals

__all__ = ["Judgement", "RunWatch"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """`score` and `threshold` None: no model judged. `predictor`: which one did."""

    advice: Advice
    score: float | None
    threshold: float | None
    reason: str
    predictor: str
    repeated: bool = False


class RunWatch:
    def __init__(
        self, predictor: Predictor | None, limits: RuleLimits, *, answer_first: bool = False
    ) -> None:
        self._predictor = predictor
        self._extractor = predictor.feature_set.extractor() if predictor is not None else None
        self._decider = Decider(
            predictor.rule if predictor is not None else DecisionRule(), answer_first=answer_first
        )
        self._rules = Rules(limits)
        self._rule_decider = Decider(DecisionRule(threshold=1.0), answer_first=answer_first)
        self._last: tuple[StepReport, Judgement] | None = None
        self._whole = True

    def is_repeat(self, report: StepReport) -> bool:
        """The very report that came last: a client that did not hear the answer."""
        return self._last is not None and report == self._last[0]

    def report(
        self, report: StepReport, host: HostSignals | None = None, energy_j: float | None = None
    ) -> Judgement:
        """Judge the next step. The last report again gets the last judgement again.

        InvalidValueError for a step out of order or figures of no use; nothing is kept then.
        """
        if self._last is not None and self.is_repeat(report):
            return replace(self._last[1], repeated=True)
        self._check_order(report)
        whole = self._whole and (self._last is not None or report.step == 0)
        score = self._score(report, host) if whole else None
        if score is None:
            checked_summary(report.logprobs, report.logprob_summary, report.completion_tokens)
        self._whole = whole
        self._rules.update(report, host, energy_j)
        judgement = self._judge(score, report)
        self._last = (report, judgement)
        return judgement

    def _score(self, report: StepReport, host: HostSignals | None) -> float | None:
        if self._predictor is None or self._extractor is None:
            return None
        return self._predictor.score(report.step, self._extractor.update(report, host))

    def _judge(self, score: float | None, report: StepReport) -> Judgement:
        by_model = self._decider.update(score)
        capped = self._rules.over_cap()
        broken = capped or (self._rules.stuck() if score is None else None)
        by_rule = self._rule_decider.update(None if broken is None else 1.0)
        threshold = self._predictor.rule.threshold if self._predictor is not None else None
        if by_model is Advice.CONTINUE and by_rule is not Advice.CONTINUE:
            reason = broken or "a rule was broken before"
            return Judgement(by_rule, score, threshold, reason, "rules")
        if score is None:
            said = by_model is not Advice.CONTINUE
            reason = "the model said so before" if said else self._why_no_score()
            return Judgement(by_model, None, None, reason, self._name() if said else "rules")
        reason = _words(score, threshold) + _without(report)
        return Judgement(by_model, score, threshold, reason, self._name())

    def _why_no_score(self) -> str:
        if self._predictor is None:
            return "no supervisor model is loaded; no rule is broken"
        if not self._whole:
            return "the run's beginning was not seen, so no model judges it; no rule is broken"
        return "the model has no predictor for this step; no rule is broken"

    def _name(self) -> str:
        assert self._predictor is not None
        return self._predictor.name or self._predictor.features.set

    def _check_order(self, report: StepReport) -> None:
        if self._last is None or report.step == self._last[0].step + 1:
            return
        last = self._last[0].step
        if report.step == last:
            raise InvalidValueError(
                "step", report.step,
                f"this step was reported with other figures; the next one is {last + 1}",
            )  # fmt: skip
        raise InvalidValueError(
            "step", report.step, f"steps come in order, each once: the next one is {last + 1}"
        )


def _words(score: float, threshold: float | None) -> str:
    if threshold is None:
        return f"the score is {score:.4f}; the model's bound allows no stop at all"
    relation = "reaches" if score >= threshold else "is below"
    return f"the score {score:.4f} {relation} the threshold {threshold:.4f}"


def _without(report: StepReport) -> str:
    """What the model had to do without at this step, in words."""
    absent = [
        name
        for name, told in (
            ("token probabilities", report.logprobs or report.logprob_summary),
            ("text", report.text is not None or report.shingles is not None),
            ("tool calls", "tool_calls" in report.model_fields_set),
        )
        if not told
    ]
    return f" (not told: {', '.join(absent)})" if absent else ""
