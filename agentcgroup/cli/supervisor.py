# SPDX-License-Identifier: Apache-2.0
"""agentcgroup supervisor …: train, calibrate, evaluate and explain early-termination models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InvalidValueError
from ..supervisor.calibration import Bound
from ..supervisor.features import feature_set
from ..supervisor.predictor import Predictor, load, save
from ..supervisor.report import evaluation_report, explanation, judge
from ..supervisor.trajectories import Run, read_runs
from .output import JsonOption, print_figures, print_json, print_table

__all__ = ["app"]

app = typer.Typer(
    name="supervisor", help="Stop runs that are going to fail: train, judge and explain models.",
    no_args_is_help=True,
)  # fmt: skip

Files = Annotated[list[Path], typer.Argument(help="Recorded runs: JSON lines, plain or .gz.")]
Model = Annotated[str, typer.Option("--model", help="A model file, or a shipped model's name.")]
MaxDrop = Annotated[float, typer.Option(help="Largest share of successes to stop.")]
BoundOption = Annotated[Bound, typer.Option(help="What --max-drop holds for.")]
Confidence = Annotated[float, typer.Option(help="Of --bound high-probability.")]
MinSteps = Annotated[int, typer.Option(min=1, max=1000, help="Never stop before this step.")]
Hysteresis = Annotated[int, typer.Option(min=1, max=100, help="Scores in a row that must agree.")]
Seed = Annotated[int, typer.Option(help="For folds, fits and intervals.")]


@app.command("train")
def train_command(
    files: Files,
    out: Annotated[Path, typer.Option("--out", help="The model file to write.")],
    features: Annotated[str, typer.Option(help="paper or full.")] = "full",
    max_drop: MaxDrop = 0.05,
    bound: BoundOption = Bound.EXPECTED,
    confidence: Confidence = 0.95,
    min_steps: MinSteps = 1,
    hysteresis: Hysteresis = 1,
    seed: Seed = 0,
    name: Annotated[str, typer.Option(help="What the model is called: agent, population.")] = "",
    observe_only: Annotated[bool, typer.Option(help="A daemon may not enforce with it.")] = False,
) -> None:
    """Fit a predictor and set its threshold, from these runs alone."""
    from ..supervisor.training import train  # noqa: PLC0415

    options = _options(max_drop, bound, confidence, min_steps, hysteresis, seed)
    options = replace(options, observe_only=observe_only)
    _save(train(read_runs(files), _features(features), options, name), out)


@app.command("calibrate")
def calibrate_command(
    files: Files,
    model: Model,
    out: Annotated[Path, typer.Option("--out", help="The model file to write.")],
    max_drop: MaxDrop = 0.05,
    bound: BoundOption = Bound.EXPECTED,
    confidence: Confidence = 0.95,
    min_steps: MinSteps = 1,
    hysteresis: Hysteresis = 1,
) -> None:
    """Set a model's threshold anew, from runs it was not fitted on."""
    from ..supervisor.training import recalibrate  # noqa: PLC0415

    options = _options(max_drop, bound, confidence, min_steps, hysteresis, 0)
    _save(recalibrate(load(model), read_runs(files), options), out)


@app.command("evaluate")
def evaluate_command(
    files: Files,
    model: Model,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Draw four pictures into here.")] = None,
    seed: Seed = 0,
) -> None:
    """What the model would have saved and cost on these runs."""
    predictor, runs = load(model), read_runs(files)
    report = evaluation_report(predictor, runs, seed)
    if json_out is not None:
        _write(json_out, report)
    if plots is not None:
        from ..supervisor.plots import draw  # noqa: PLC0415

        draw(predictor, runs, plots, seed)
    _print_evaluation(report)
    if report["n_runs_fitted"]:
        typer.echo(
            f"note: {report['n_runs_fitted']} of these runs were used for fitting:"
            " what is said of them is not a test", err=True,
        )  # fmt: skip


@app.command("score")
def score_command(files: Files, model: Model, as_json: JsonOption = False) -> None:
    """Every run's scores and where it would be stopped."""
    judged = judge(load(model), read_runs(files))
    if as_json:
        print_json(
            [
                {"run": told.run.id, "scores": list(told.scores), "stopped_after": told.stop}
                for told in judged
            ]
        )
        return
    rows = []
    for told in judged:
        known = [score for score in told.scores if score is not None]
        stop = "-" if told.stop is None else told.stop
        highest = f"{max(known):.4f}" if known else "-"
        rows.append((told.run.id, len(told.scores), stop, highest))
    print_table(("run", "steps", "stopped after", "highest score"), rows)


@app.command("explain")
def explain_command(
    files: Files,
    model: Model,
    run: Annotated[str, typer.Option(help="Id of the run.")],
    step: Annotated[int | None, typer.Option(min=0, help="Default: where it is stopped.")] = None,
    as_json: JsonOption = False,
) -> None:
    """What drove the score of one step."""
    told = explanation(load(model), _find(read_runs(files), run, step), step)
    if as_json:
        print_json(told)
        return
    print_figures({key: value for key, value in told.items() if key != "contributions"})
    rows = [
        (
            entry["feature"],
            "-" if entry["value"] is None else f"{entry['value']:.4g}",
            f"{entry['log_odds']:+.3f}",
        )
        for entry in told["contributions"]
    ]
    print_table(("feature", "value", "log-odds of failure added"), rows)


@app.command("show")
def show_command(
    model: Annotated[str, typer.Argument(help="A model file, or a shipped model's name.")],
    as_json: JsonOption = False,
) -> None:
    """What a model was made from and for, and what its threshold promises."""
    predictor = load(model)
    body = predictor.model_dump(mode="json", exclude={"ensembles": True, "data": {"run_marks"}})
    body["features"].pop("names")
    if as_json:
        print_json(body)
        return
    for key in ("name", "population", "observe_only", "features", "rule"):
        print_figures({key: body[key]})
    print_figures(body["calibration"])
    print_figures({f"data {key}": value for key, value in body["data"].items()})
    print_figures({f"training {key}": value for key, value in body["training"].items()})


# --- helpers


def _features(name: str) -> Any:
    try:
        return feature_set(name)
    except InvalidValueError as error:
        raise InvalidValueError("--features", name, error.remedy) from None


def _options(
    max_drop: float, bound: Bound, confidence: float, min_steps: int, hysteresis: int, seed: int
) -> Any:
    from ..supervisor.training import TrainingOptions  # noqa: PLC0415

    if not 0 < max_drop < 1:
        raise InvalidValueError("--max-drop", max_drop, "a share above 0 and below 1, such as 0.05")
    if not 0.5 <= confidence < 1:
        raise InvalidValueError("--confidence", confidence, "from 0.5 to below 1, such as 0.95")
    return TrainingOptions(
        max_drop=max_drop, bound=bound, confidence=confidence, seed=seed, min_steps=min_steps,
        hysteresis=hysteresis,
    )  # fmt: skip


def _save(predictor: Predictor, out: Path) -> None:
    save(predictor, out)
    note = predictor.calibration
    threshold = predictor.rule.threshold
    typer.echo(
        f"{out}: {note.n_success} successes, {note.false_stops} of them stopped, threshold "
        + ("none: it never stops" if threshold is None else f"{threshold:.6g}")
    )
    if not note.certified:
        typer.echo(f"not certified: {note.reason}", err=True)


def _write(path: Path, report: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise InvalidValueError("--json", str(path), error.strerror or "cannot write") from None


def _find(runs: list[Run], name: str, step: int | None) -> Run:
    found = next((run for run in runs if run.id == name), None)
    if found is None:
        raise InvalidValueError("--run", name, f"the files have {len(runs)} runs, not this one")
    if step is not None and step >= len(found.steps):
        raise InvalidValueError("--step", step, f"this run has steps 0 to {len(found.steps) - 1}")
    return found


def _print_evaluation(report: dict[str, Any]) -> None:
    typer.echo(f"{report['n_runs']} runs ({report['population']}), {report['n_stopped']} stopped")
    bases = [("steps", report), ("paper", report["paper_basis"])]
    if report["answer_now"] is not None:
        bases.append(("steps, answer asked first", report["answer_now"]))
    rows = [
        (
            name, _percent(told["waste_saved"]), _interval(told["waste_saved_ci95"]),
            f"{told['n_false_stops']}/{told['n_success']} ({_percent(told['utility_drop'])})",
            _interval(told["utility_drop_ci95"]),
        )
        for name, told in bases
    ]  # fmt: skip
    print_table(("basis", "waste saved", "95 %", "successes stopped", "95 %"), rows)


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.1f} %"


def _interval(ends: list[float] | None) -> str:
    return "-" if ends is None else f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}"
