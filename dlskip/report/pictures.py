"""The figures as the page shows them: alternative texts that carry their message, and how to read them."""

from __future__ import annotations

import math
from typing import NamedTuple

from dlskip.methods.names import title as method_title
from dlskip.report import headline
from dlskip.report.figures_common import papers_task
from dlskip.report.view import View


class Picture(NamedTuple):
    """A figure in the page: file name without suffix, what it shows, and how to read it."""

    name: str
    alt: str
    caption: str


def pictures(view: View) -> list[Picture]:
    """Every figure that is drawn."""
    h = view.headline
    means = headline.sentences(view)
    found = [
        Picture("headline", " ".join(means), "Left: every threshold of ours, its random control and the strongest "
                "baselines. Right: the share of samples that skip each layer; at the right edge its mean."),
        Picture("figure3", "Line chart of macro F1 against the share of layers skipped on one task, every method. "
                + _bests(view), "The paper's figure 3. Lines join a method's settings; each begins with nothing "
                "skipped."),
        Picture("quality_vs_skip", "Small line charts, one per average and task: quality against the share of layers "
                "skipped, every method. The settings table holds the numbers.",
                "A line that stays level loses nothing. The dashed level is vanilla, with nothing skipped."),
        Picture("batch_rules", "Small line charts, one per average and task: ours at every batch size, with the random "
                "control and vanilla. The settings table holds the numbers.",
                "Each point is a threshold. Majority batches (bs=8, 16) decide once for the whole batch."),
        Picture("pareto", "Scatter plots of quality against measured speed-up. The speed table holds the numbers.",
                "Up is better, right is faster. The thin line joins the settings that no other one beats in both; they "
                "are labelled with threshold or share."),
        Picture("speed", "Scatter plots of measured speed-up against the share of layers skipped, with the ideal line "
                "1/(1-s). The speed table holds the numbers.",
                "Below 1 means slower than the same weights unskipped. The gap to the line is what embedding, LM head, "
                "key/value filling, gathering of rows and the controllers cost on this machine."),
        Picture("layer_heatmap", f"Heat map of the skip rate per layer and task, ours at {h.ours.setting.label()}. "
                "The file reports/layers.csv holds the numbers.",
                "Rows that differ mean that tasks use different layers; the skip-variance table says how much samples "
                "of one task differ."),
        Picture("method_heatmap", "Heat maps of the skip rate per layer and method, at settings that skip about as "
                "much as ours at the headline. The file reports/layers.csv holds the numbers.",
                "Static methods skip a layer always or never; ours and random differ between samples."),
        Picture("token_depth", "Chart of which layers ran for each token of one translated sentence.",
                "One column per token that decides; the prompt decides once."),
        Picture("training", "Line charts of loss, skip rates, reward and held-out cross entropy for each stage. The "
                "file reports/curves.csv holds the numbers.",
                "Top: the loss of every stage. Below: what the stages with a policy do to it."),
        Picture("sampled_vs_threshold", "Line charts of the sampled and the thresholded skip rate through RL and "
                "MIXER. " + _alarms(view), "The sampled rate is what training sees, the thresholded one what inference "
                "does; an alarm is raised when they part or when either collapses."),
        Picture("figure4", "Line charts of policy-gradient loss, reward and skip rate for RL with and without the "
                "sampling strategy. The file reports/curves.csv holds the numbers.",
                "The paper's figure 4: the same start and the same number of steps."),
        Picture("ablations", "Dot plot of quality and share of layers skipped of every ablation beside ours. The "
                "ablations table holds the numbers.",
                "A row per ablation, a dot per threshold. Further right is better in quality, and cheaper in share; an "
                "ablation that scores higher but skips less has not won."),
        Picture("prices", "Line charts of quality against the share of layers skipped: ours by threshold, and "
                "controllers that are told the price of a layer, by price. The settings table holds the numbers.",
                "One checkpoint each. Where both lines reach a share, the higher one keeps more."),
    ]  # fmt: skip
    there = {"ablations": bool(view.ablations), "prices": bool(view.priced)}
    return [picture for picture in found if there.get(picture.name, True)]


def _bests(view: View) -> str:
    """Each method's best setting on the task of figure 3, in a sentence."""
    task, said = papers_task(view), []
    for method in view.compared if task else []:
        runs = view.runs(method, view.batch_of(method))
        scored = [(score, run) for run in runs if not math.isnan(score := view.one(run, "f1_macro", [str(task)]))]
        if scored:
            score, run = max(scored)
            share = view.one(run, "skip_ratio", [str(task)])
            said.append(f"{method_title(method)} {score:.1f} at {share:.0f} % skipped")
    return f"Best settings: {', '.join(said)}." if said else "Not run."


def _alarms(view: View) -> str:
    count = len(view.found.alarms)
    return "No alarm was raised." if not count else f"{count} alarm{'s were' if count > 1 else ' was'} raised."
