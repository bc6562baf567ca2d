"""The words of the report and of ``bnexp explain``."""

from __future__ import annotations

from typing import NamedTuple

from bnexp.errors import UsageError, did_you_mean


class Word(NamedTuple):
    """A word as it is shown, what it means, and the names under which it is found."""

    shown: str
    meaning: str
    names: tuple[str, ...]
    on_page: bool = True


GLOSSARY = (
    Word(
        "norm",
        "What stands between a layer's weights and the next layer: none; standardize (subtract the batch's mean, "
        "divide by its SD, nothing learned); full (batch norm: standardize, then γ and β); affine (γ and β "
        "alone); gamma, beta (standardize, then only one of them); center, scale (only the mean, only the SD).",
        ("norm", "none", "full", "affine", "center", "scale", "batchnorm"),
    ),
    Word(
        "γ, β",
        "A learned factor and a learned shift per unit: y = γ·â + β. They start at 1 and 0 unless the settings "
        "say otherwise. γ = SD and β = mean give back what standardizing took.",
        ("gamma", "beta", "γ", "β", "gamma_init", "beta_init"),
    ),
    Word(
        "standardize",
        "â = (a − mean)/√(variance + ε), per unit over the minibatch.",
        ("standardize", "standardise", "normalize", "eps"),
    ),
    Word(
        "running statistics",
        "Averages of the batch means and variances, kept while training and used in place of the batch's own when"
        " a network is evaluated.",
        ("running", "running statistics", "evaluate", "statistics_momentum"),
    ),
    Word(
        "population statistics",
        "Means and variances over all training rows, computed anew for an evaluation (Ioffe & Szegedy 2015, Alg. 2).",
        ("population", "population statistics"),
        on_page=False,
    ),
    Word(
        "placement",
        "pre: the norm stands before the activation function, as in the paper of Ioffe & Szegedy (2015); post: "
        "after it. Norm none has none and is shown as –.",
        ("placement", "pre", "post"),
    ),
    Word(
        "ghost batch",
        "A part of a minibatch that is standardized by its own mean and SD: what the norm sees is smaller than "
        "what a step sums over.",
        ("ghost", "ghost_size", "ghost batch"),
        on_page=False,
    ),
    Word(
        "learned",
        "Classification: final training accuracy at least learned_at of the way from chance to 1. Regression: at "
        "most 0.9 of the variance is unexplained.",
        ("learned", "learned_at"),
    ),
    Word(
        "diverged",
        "A loss or a parameter was not finite. The run stops there; it counts as the worst outcome and is never "
        "dropped from a comparison.",
        ("diverged", "failed"),
    ),
    Word(
        "n = 10 pairs, r",
        "Runs of one seed share initial weights and minibatches, so settings are compared seed by seed; r is the "
        "correlation of the two sides.",
        ("pairs", "paired", "r", "n", "seeds"),
    ),
    Word(
        "[95 %]",
        "Student-t interval over seeds, for ratios on the log scale. A median has the interval of its order "
        "statistics, from six runs on.",
        ("interval", "95"),
    ),
    Word(
        "equal within",
        "The interval's end farther from no difference: smaller margins cannot be told from these runs.",
        ("equal", "within", "equal within"),
    ),
    Word(
        "other rows",
        "The interval for other seeds and other test rows of the same kind; the one beside it is for other seeds "
        "on these test rows.",
        ("rows", "other rows", "items"),
    ),
    Word(
        "sign-flip p",
        "The share of the ways to give the seeds' differences signs whose sum is as far from zero as the one "
        "found. Where runs failed, the p of the sign test stands in its place.",
        ("sign-flip", "signflip", "p"),
    ),
    Word(
        "d_z",
        "The mean of the paired differences over their SD: how large an effect is beside what seeds do to it.",
        ("d_z", "dz", "effect size"),
    ),
    Word("Holm", "A p-value corrected for the number of questions that the claims of the spec ask.", ("holm",)),
    Word(
        "verdict",
        "Of a claim: supported, contradicted or undecided, by whether the interval lies wholly where the claim "
        "says, wholly outside, or in both. bnexp compare --explain has the rules.",
        ("verdict", "claim", "supported", "contradicted", "undecided"),
        on_page=False,
    ),
    Word(
        "tune",
        "Each side takes its own best value of a knob such as lr, chosen for each seed by the other seeds' "
        "validation score. One learning rate for all norms is the commonest fault of such studies.",
        ("tune", "lr", "learning rate"),
        on_page=False,
    ),
    Word(
        "tap",
        "Where activations are read: preactivation a = Wx + b, after the norm, or after the activation function.",
        ("tap", "activations", "probe"),
        on_page=False,
    ),
    Word(
        "shift",
        "How far a unit's values on the probe rows have moved, squared, since the start, an epoch or a step: the "
        "move of their mean, the move of their scale, and the reshuffling of rows add up to it.",
        ("shift", "moved_mean", "moved_scale", "moved_reshuffle", "decorrelation"),
        on_page=False,
    ),
    Word(
        "ICS",
        "Internal covariate shift. Ioffe & Szegedy (2015): a layer's input distribution moves while it trains; "
        "measured as shift. Santurkar et al. (2018): how far a layer's gradient turns when the layers below take "
        "their step; measured as ics.",
        ("ics", "internal covariate shift", "covariate shift"),
    ),
    Word(
        "landscape",
        "Loss, gradient and their change along the gradient's direction from where training stands: how smooth "
        "the loss is there (Santurkar et al. 2018).",
        ("landscape", "smoothness"),
        on_page=False,
    ),
    Word(
        "rank",
        "Of the probe rows' activations: (Σλ)²/Σλ², in how many directions they spread.",
        ("rank", "effective_rank", "stable_rank"),
        on_page=False,
    ),
    Word(
        "identity",
        "γ = √(variance + ε) and β = mean give back what went in: batch norm can be no norm at all, exactly so "
        "only where the batch is all rows.",
        ("identity", "conversions"),
    ),
)


def look_up(name: str) -> Word:
    """The entry of a word; raise UsageError for one that is not explained."""
    by_name = {one: word for word in GLOSSARY for one in word.names}
    found = by_name.get(name.strip().lower())
    if found is None:
        hint = did_you_mean(name.lower(), by_name) or f"; there are {', '.join(word.names[0] for word in GLOSSARY)}"
        raise UsageError(f"no entry {name!r}{hint}")
    return found
