"""The leaderboard as tables, a picture and a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from moa_tf.atomic import replacing, to_plain
from moa_tf.evaluation.leaderboard import FIGURES, LOWER_IS_BETTER
from moa_tf.evaluation.page import Html, Section, details, figure, listing, page, paragraph, table
from moa_tf.explanation.figures import plain_style, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"shallow": "#c77f2e", "deep": "#2b6ca3", "blend": "#3f7f4c"}
"""Of kinds of models; told apart by their shapes too."""
MARKERS = {"shallow": "s", "deep": "o", "blend": "D"}
DRAWN = ("log_loss_treated", "macro_auroc", "macro_average_precision")
PAIRED = ("log_loss_treated", "macro_auroc", "macro_average_precision", "mean_average_precision")


def model_table(board: dict[str, Any]) -> pd.DataFrame:
    """One row a model: its figures, their intervals, and what it cost."""
    rows = []
    for model in board["models"]:
        row = {"model": model["name"], "kind": model["kind"], "log_loss_all": model["log_loss_all"]}
        for name in FIGURES:
            row[name] = model[name]
            row[f"{name}_low"], row[f"{name}_high"] = model["intervals"][name]
        row["permutation_p_value"] = model["permutation_p_value"]
        rows.append({**row, **model["cost"]})
    return pd.DataFrame(rows)


def mechanism_table(board: dict[str, Any]) -> pd.DataFrame:
    """One row a model and mechanism."""
    every = board["mechanisms"]
    parts = [
        pd.DataFrame(
            {
                "model": model["name"],
                "mechanism": every["name"],
                "drugs": every["drugs"],
                "rows": every["rows"],
                **model["mechanisms"],
            }
        )
        for model in board["models"]
    ]
    return pd.concat(parts, ignore_index=True)


def draw_leaderboard(board: dict[str, Any]) -> Figure:
    """A dot and its interval a model, of three figures; column means dashed."""
    with plain_style():
        from matplotlib.figure import Figure

        models = board["models"]
        drawing = Figure(figsize=(11, 1.6 + 0.32 * len(models)), layout="constrained")
        axes = drawing.subplots(1, len(DRAWN), sharey=True)
        chance = {"log_loss_treated": board["prior_log_loss_treated"], "macro_auroc": 0.5}
        for axis, name in zip(axes, DRAWN, strict=True):
            for place, model in enumerate(models):
                low, high = model["intervals"][name]
                colour = COLOURS[model["kind"]]
                axis.plot([low, high], [place, place], color=colour, linewidth=2.5, alpha=0.55)
                axis.plot(model[name], place, MARKERS[model["kind"]], color=colour, markersize=7)
            if name in chance:
                axis.axvline(chance[name], color="#555555", linestyle="--", linewidth=1)
            axis.set_title(
                f"{FIGURES[name]} ({'lower' if name in LOWER_IS_BETTER else 'higher'} is better)", fontsize=10
            )
            axis.grid(axis="x", color="#dddddd", linewidth=0.8)
            axis.set_axisbelow(True)
            for side in ("top", "right", "left"):
                axis.spines[side].set_visible(False)
            axis.tick_params(axis="y", length=0)
        axes[0].set_yticks(range(len(models)), [model["name"] for model in models])
        axes[0].set_ylim(len(models) - 0.4, -0.6)
        kinds = [kind for kind in COLOURS if any(model["kind"] == kind for model in models)]
        handles = [
            axes[0].plot([], [], MARKERS[kind], color=COLOURS[kind], label=kind, markersize=7)[0]
            for kind in kinds
        ]
        dashed = axes[0].plot([], [], "--", color="#555555", linewidth=1, label="column means")[0]
        drawing.legend(
            handles=[*handles, dashed], loc="outside lower center", ncols=len(kinds) + 1, frameon=False
        )
        return drawing


def draw_reliability(board: dict[str, Any], names: Sequence[str]) -> Figure:
    """Observed against stated frequency of some models, both by logarithm."""
    with plain_style():
        from matplotlib.figure import Figure

        drawing = Figure(figsize=(6.4, 5.2), layout="constrained")
        axis = drawing.subplots()
        axis.plot([1e-4, 1], [1e-4, 1], color="#555555", linestyle="--", linewidth=1, label="perfect")
        models = {model["name"]: model for model in board["models"]}
        for number, name in enumerate(names):
            stated, observed = (
                np.asarray(models[name]["reliability"][key]) for key in ("stated", "observed")
            )
            seen = observed > 0
            axis.plot(stated[seen], observed[seen], marker="osD^v<>"[number % 7], markersize=5, label=name)
        axis.set(xscale="log", yscale="log", xlim=(2e-4, 1.1), ylim=(2e-4, 1.1))
        for ticks in (axis.xaxis, axis.yaxis):
            ticks.set_major_formatter(lambda value, place: f"{value:g}")
        axis.set_xlabel("stated probability (mean of a band)")
        axis.set_ylabel("share that is true")
        axis.grid(color="#dddddd", linewidth=0.8)
        axis.legend(frameon=False, fontsize=9)
        return drawing


def write_report(
    directory: Path, board: dict[str, Any], title: str, notes: Sequence[str], trials: Sequence[dict[str, Any]]
) -> None:
    """Writes leaderboard.json, .csv and .png, mechanisms.csv and index.html, each whole or not at all.

    Args:
        directory: where; what is there of an earlier comparison is replaced.
        board: see `report`, as are the others.
        title: see there.
        notes: see there.
        trials: see there.
    """
    text = json.dumps(to_plain({**board, "controls": trials}), indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(directory / "leaderboard.json") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    for name, table_of in (("leaderboard.csv", model_table), ("mechanisms.csv", mechanism_table)):
        with replacing(directory / name) as temporary:
            table_of(board).to_csv(temporary, index=False)
    with replacing(directory / "leaderboard.png") as temporary:
        save_figure(draw_leaderboard(board), temporary, dpi=150, format="png")
    with replacing(directory / "index.html") as temporary:
        temporary.write_text(report(board, title, notes, trials), encoding="utf-8")


def report(board: dict[str, Any], title: str, notes: Sequence[str], trials: Sequence[dict[str, Any]]) -> Html:
    """The whole page.

    Args:
        board: from `leaderboard`.
        title: what was compared.
        notes: what a reader must know, a line each.
        trials: of each control its `title` and `models`, metrics by name.
    """
    models = board["models"]
    best = models[0]
    low, high = best["intervals"]["log_loss_treated"]
    lead = (
        f"{len(models)} models on the same {board['folds']} folds: {board['treated_rows']:,} treated signatures of "
        f"{board['drugs']:,} drugs, {len(board['mechanisms']['name'])} mechanisms. The best log loss is that of "
        f"{best['name']}: {best['log_loss_treated']:.5f} ({low:.5f} to {high:.5f}); column means have "
        f"{board['prior_log_loss_treated']:.5f}."
    )
    sections = [
        Section("leaderboard", "Leaderboard", (_leaderboard_figure(board), _model_table(board))),
        Section("differences", "Which differences are real", _pairs(board)),
    ]
    if trials:
        sections.append(Section("controls", "Controls", _controls(board, trials)))
    sections += [
        Section("calibration", "Calibration", (_reliability(board),)),
        Section("mechanisms", "Mechanisms", _mechanisms(board)),
        Section("reading", "How to read this", (listing(_READING),)),
    ]
    return page(title, [paragraph(lead), listing(notes)] if notes else [paragraph(lead)], sections)


_READING = (
    "Intervals are 95 % bootstrap intervals over drugs: what other drugs of the same kind would have done to the "
    "figure. The models are not trained again for it.",
    "Two intervals that overlap say little about the difference. The differences are taken drug by drug, in the same "
    "draws; one whose interval leaves 0 out is real as far as the choice of drugs goes. Many are looked at: of twenty "
    "that are nothing one will look real.",
    "AUROC and average precision are means over the mechanisms that have a positive and a negative in a fold, and rank "
    "within folds.",
    "Precision at 1 and 5 and mAP are of each drug's list of mechanisms, the mean of its signatures. The p-value says "
    "how often the lists of other drugs would do as well; common mechanisms being common counts for nothing.",
    "Calibration error: how far stated probabilities are from observed shares, in bands of probability.",
    "Peak memory is that of the whole process, TensorFlow and the table included.",
)


def _leaderboard_figure(board: dict[str, Any]) -> Html:
    models = board["models"]
    alt = "; ".join(f"{model['name']} {model['log_loss_treated']:.5f}" for model in models)
    caption = (
        "Figures of all models with 95 % intervals over drugs, the best log loss first. Dashed: column means."
    )
    return figure(draw_leaderboard(board), f"Log loss: {alt}", caption)


def _model_table(board: dict[str, Any]) -> Html:
    rows = []
    for model in board["models"]:
        cost = model["cost"]
        memory = cost.get("peak_memory")
        rows.append(
            [
                model["name"] + (" *" if model["caveat"] else ""),
                model["kind"],
                *(
                    float(f"{model[name]:.5f}") if name in LOWER_IS_BETTER else model[name]
                    for name in FIGURES
                ),
                float(f"{model['log_loss_all']:.5f}"),
                model["permutation_p_value"],
                None if cost.get("seconds") is None else round(cost["seconds"]),
                cost.get("parameters"),
                None if memory is None else round(memory / 2**20),
            ]
        )
    columns = [
        "model",
        "kind",
        *FIGURES.values(),
        "log loss, all rows",
        "p of mAP",
        "seconds",
        "parameters",
        "MB",
    ]
    intervals = [
        [model["name"], *(_interval(model["intervals"][name], name) for name in FIGURES)]
        for model in board["models"]
    ]
    ends = table("95 % intervals over drugs", ["model", *FIGURES.values()], intervals)
    return Html(table("Treated rows unless said otherwise", columns, rows) + details("With intervals", ends))


def _interval(ends: Sequence[float], name: str, sign: str = "") -> str:
    digits = 5 if name in LOWER_IS_BETTER else 3
    low, high = (f"{end:{sign}.{digits}f}" for end in ends)
    return f"{low} to {high}"


def _pairs(board: dict[str, Any]) -> tuple[Html, ...]:
    names = [model["name"] for model in board["models"]]
    pairs = {(pair["a"], pair["b"]): pair for pair in board["pairs"]}
    best = names[0]
    beaten = [b for a, b in pairs if a == best and pairs[a, b]["log_loss_treated"]["high"] < 0]
    level = [b for a, b in pairs if a == best and b not in beaten]
    parts = []
    if beaten:
        parts.append(
            paragraph(f"By log loss {best} is better than {', '.join(beaten)}, whatever drugs are drawn.")
        )
    if level:
        parts.append(paragraph(f"That it is better than {', '.join(level)} could be the choice of drugs."))
    for number, name in enumerate(PAIRED):
        digits = 5 if name in LOWER_IS_BETTER else 3
        rows = []
        for a in names:
            cells = [a]
            for b in names:
                pair, sign = (
                    (pairs[a, b][name], 1) if (a, b) in pairs else (pairs.get((b, a), {}).get(name), -1)
                )
                real = pair is not None and not pair["low"] <= 0 <= pair["high"]
                cells.append("" if pair is None else f"{sign * pair['difference']:+.{digits}f}{' ●' * real}")
            rows.append(cells)
        better = "below 0 the row is better" if name in LOWER_IS_BETTER else "above 0 the row is better"
        title = f"{FIGURES[name]}: row less column; {better}; ● the interval leaves 0 out"
        what = table(title, ["", *names], rows)
        parts.append(what if number == 0 else details(FIGURES[name], what))
    ends = [
        [f"{a} − {b}", *(_interval((pair[name]["low"], pair[name]["high"]), name, "+") for name in PAIRED)]
        for (a, b), pair in pairs.items()
    ]
    columns = ["", *(FIGURES[name] for name in PAIRED)]
    parts.append(details("Intervals of the differences", table("95 % intervals over drugs", columns, ends)))
    return tuple(parts)


def _controls(board: dict[str, Any], trials: Sequence[dict[str, Any]]) -> tuple[Html, ...]:
    own = {model["name"]: model for model in board["models"]}
    rows = []
    for trial in trials:
        for name, metrics in trial["models"].items():
            overall = metrics["overall"]
            low, high = overall["intervals"]["macro_auroc"]
            rows.append(
                [
                    name,
                    trial["title"],
                    overall["log_loss_treated"],
                    overall["prior_log_loss_treated"],
                    f"{overall['macro_auroc']:.3f} ({low:.3f} to {high:.3f})",
                    overall["macro_average_precision"],
                    own[name]["log_loss_treated"] if name in own else None,
                    own[name]["macro_auroc"] if name in own else None,
                ]
            )
    columns = ["model", "control", "log loss", "column means", "macro AUROC", "avg. precision"]
    text = (
        "With labels shuffled over drugs nothing can be learnt: an AUROC that leaves .5 out for most models would be a "
        "leak. One alone or viability alone show what each kind of feature adds, rows held out what replicates of the "
        "same drug on both sides would have bought."
    )
    caption = (
        "The same models, with something taken away or let in; beside them the figures of the comparison"
    )
    return paragraph(text), table(caption, [*columns, "log loss without", "AUROC without"], rows)


def _reliability(board: dict[str, Any]) -> Html:
    names = [model["name"] for model in board["models"]][:6]
    rows = [
        [name, *cells]
        for name in names
        for cells in zip(
            *(
                next(model for model in board["models"] if model["name"] == name)["reliability"][key]
                for key in ("stated", "observed", "count")
            ),
            strict=True,
        )
    ]
    numbers = table("Bands of probability", ["model", "stated", "observed", "predictions"], rows)
    first = board["models"][0]
    caption = (
        f"Of what {', '.join(names)} state with a probability, which share is true. Calibration error of {names[0]}: "
        f"{first['calibration_error']:.5f}. Bands without a positive are not drawn."
    )
    return figure(
        draw_reliability(board, names),
        "Observed against stated frequency",
        caption,
        details("Numbers", numbers),
    )


def _mechanisms(board: dict[str, Any]) -> tuple[Html, ...]:
    best, every = board["models"][0], board["mechanisms"]
    own = best["mechanisms"]
    order = np.argsort(-np.nan_to_num(np.asarray(own["average_precision"], float), nan=-1), kind="stable")
    rows = [
        [
            every["name"][j],
            every["drugs"][j],
            every["rows"][j],
            *(own[key][j] for key in ("auroc", "average_precision", "enrichment")),
        ]
        for j in order
    ]
    columns = ["mechanism", "drugs", "signatures", "AUROC", "avg. precision", "enrichment at 1 %"]
    text = f"Those of {best['name']}, the best average precision first. All models' are in mechanisms.csv."
    return paragraph(text), table(f"{len(rows)} mechanisms", columns, rows)
