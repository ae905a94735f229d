# SPDX-License-Identifier: Apache-2.0
"""What each table says, in two sentences: the paper's definition and the corrected one."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEFINITIONS", "Definition"]


@dataclass(frozen=True, slots=True)
class Definition:
    """`paper_key`: where the authors' figures have it; `unit` where the name tells none."""

    name: str
    paper_key: str
    title: str
    paper: str
    corrected: str
    unit: str = ""


_AS_PAPER = "as the paper"

DEFINITIONS = (
    Definition(
        "claude_time_s", "claude_time_s", "Execution time",
        "container start to its end (podman run to podman wait), over runs with ten samples and"
        " 60 s", _AS_PAPER, "s",
    ),
    Definition(
        "active_time_s", "active_time_s", "Active time",
        "first to last record of the agent's trace; the whole execution time where the trace is"
        " missing",
        "the same; where the trace is missing, the sampling's duration less 2.2 s", "s",
    ),
    Definition(
        "latency_breakdown_pct", "latency_breakdown_pct", "Latency by part",
        "means of per-task shares: init = execution - active, tool = sum of call durations, llm ="
        " active - tool, infra = init + tool; v2 of the execution time (headline), v1 with the"
        " permission fix (pf) besides",
        "tool = time in which at least one call ran, so that parallel and sub-agents' calls count"
        " once and llm is never negative", "%",
    ),
    Definition(
        "tool_ratio_active_pct", "tool_ratio_active_pct", "Tool time of active time",
        "sum of call durations / active time, a task each",
        "time in which at least one call ran / active time", "%",
    ),
    Definition(
        "tool_stats", "tool_stats", "Calls by tool",
        "finished calls, their total and mean seconds", "as the paper, with the distribution", "",
    ),
    Definition(
        "bash_category_time_s", "bash_category_time_s", "Bash time by kind of command",
        "first match of: tests, git, packages, files, python -c, python, text, shell; seconds and"
        " share of all Bash time", _AS_PAPER,
    ),
    Definition(
        "run_to_run", "", "The same task again",
        "named for one task in the text; no script",
        "execution times of a task's attempts in one set, longest / shortest", "",
    ),
    Definition(
        "tool_timeline", "tool_timeline", "When tools are used",
        "place of a call's begin between the task's first and last call: 0-30, 30-70, 70-100 %",
        _AS_PAPER, "",
    ),
    Definition(
        "disk", "disk", "Images and start-up",
        "image sizes (1024 MB a GB), pull and permission-fix times above 0", _AS_PAPER,
    ),
    Definition(
        "change_rate", "change_rate", "Change per second",
        "absolute difference / time between samples less than 2 s apart; GB read as 1024 MB, CPU as"
        " printed (an average since the container's start); event: above 20 % or 50 MB a second",
        "decimal units, samples of 0 B left out, CPU load between samples worked out from the"
        " running average", "per s",
    ),
    Definition(
        "changes_per_pair", "rq1", "Change from sample to sample",
        "the same without dividing by the time between",
        "decimal units, samples of 0 B left out, CPU load between samples", "",
    ),
    Definition(
        "peaks", "rq2", "Peaks over tasks",
        "of the recording's summary; CV = sample standard deviation / mean; CPU peaks are of the"
        " running average",
        "memory as the paper; CPU peaks are of the load between samples", "",
    ),
    Definition(
        "overprov", "overprov", "Peak over mean",
        "of the recording's summary, a task each; CPU of the running average, so mostly the"
        " start-up sample",
        "memory of samples above 0 B; CPU of the load between samples", "x",
    ),
    Definition(
        "utilisation", "rq4", "Use under a limit at the peak",
        "100 / mean of peak over mean", "the same with the corrected peaks over means", "x",
    ),
    Definition(
        "cpu_mem_corr", "cpu_mem_corr", "Correlation of CPU and memory",
        "Pearson's r over the samples of a task; CPU of the running average",
        "CPU load between samples, decimal units, samples of 0 B left out", "r",
    ),
    Definition(
        "mem_trajectory_phases", "mem_trajectory_phases", "Memory by third of the run",
        "interpolated to 100 points; GB read as 1024 MB", "decimal units, samples of 0 B left out",
        "MB",
    ),
    Definition(
        "baseline", "", "Baseline memory",
        "no script of the authors gives it",
        "mean over tasks of the mean of the first tenth of the samples without the container's"
        " start (below 50 MB)", "MB",
    ),
    Definition(
        "concurrency_naive", "concurrency_naive", "One core divided by CPU",
        "100 / mean and 100 / largest CPU of a task's summary",
        "the same with the load between samples", "",
    ),
    Definition(
        "burst_attr", "burst_attr", "Bursts inside of tool calls",
        "samples above 300 MB and above 30 % CPU that lie in a call; memory text cut one character"
        " short (196MB read as 19), CPU as printed",
        "decimal units; CPU load between samples", "x",
    ),
    Definition(
        "cpu_in_tools", "", "CPU time inside of tool calls",
        "not in the paper", "seconds of the running average's differences that lie in a call", "%",
    ),
    Definition(
        "tool_burst", "tool_burst", "What a call adds, by tool",
        "largest sample in the call less the last before it; memory text cut short, CPU as printed",
        "decimal units; CPU load between samples", "",
    ),
    Definition(
        "bash_burst", "bash_burst", "What a Bash call adds, by kind",
        "the same; kinds in another order (packages before git, python before files)",
        "decimal units; CPU load between samples", "",
    ),
    Definition(
        "retry_waste", "retry_waste", "Retries",
        "three and more Bash calls in a row, of any command; memory left behind with the text cut"
        " short",
        "the same groups with decimal units", "",
    ),
    Definition(
        "retry_test_groups", "", "Retries of tests",
        "the paper's words, for which no script counts",
        "three and more calls in a row that run tests", "",
    ),
    Definition(
        "retry_same_command", "", "The same command again",
        "not in the paper", "three and more calls in a row of the same Bash command", "",
    ),
    Definition(
        "tokens", "tokens", "Tokens",
        "a turn is a trace record; each repeats its message's usage, so sums count two to four"
        " times",
        "a turn is a message; output tokens only where the whole is known (not the stream's first"
        " value)", "",
    ),
    Definition(
        "token_corr", "token_corr", "Tokens and resources",
        "Pearson's r over tasks, sums over trace records", "sums over messages", "r",
    ),
    Definition(
        "concurrency_sim", "concurrency_sim", "Memory of N agents together",
        "traces drawn with replacement and random offsets, 200 draws; static = sum of maxima,"
        " dynamic = maximum of the sum; memory text cut short",
        "the same draws with decimal units", "",
    ),
    Definition(
        "cpu_high", "", "Samples with much CPU",
        "in the comparison of the two sets only, of the running average",
        "share of samples above 50 % and 30 % of a core, load between samples", "%",
    ),
    Definition(
        "common_tasks", "haiku_vs_local", "Tasks in both sets",
        "means over tasks valid in both; CPU of the running average",
        "CPU = mean of the load between samples", "",
    ),
)  # fmt: skip
