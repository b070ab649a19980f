r"""The classifier two-sample test: can a network tell the samples from the data?

A classifier is trained on a part of both samples and its accuracy measured on the rest. The best
possible accuracy is :math:`\tfrac12 (1 + TV(p, q))`, with TV the total variation distance, and any
classifier's expected one is a lower bound of that: ½ means "not told apart *by this classifier*".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._core.arrays import DataLike, together
from .._core.precision import wide
from .._core.random import draw_key, mix, stream
from .._core.reprs import summary
from .._core.samples import check_at_least, event_rows
from .._core.signatures import checked

__all__ = ["ClassifierTest", "classifier_test"]

Classifier = Callable[[Tensor, Tensor, Tensor], Tensor]


@checked
@dataclass(frozen=True)
class ClassifierTest:
    """Accuracy on held-out points, and what it means.

    Attributes:
        accuracy: share of held-out points told right.
        p_value: probability of at least this accuracy by guessing (binomial, exact).
        held_out: number of held-out points, half from each sample.
    """

    accuracy: float
    p_value: float
    held_out: int

    __repr__ = summary

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """Wilson's interval for the accuracy of *this* classifier; a lower bound for the best.

        Raises:
            ValueError: if the level does not lie in (0, 1).
        """
        if not 0 < level < 1:
            raise ValueError(f"level must lie in (0, 1), got {level}")
        right = round(self.accuracy * self.held_out)
        from scipy import stats

        found = stats.binomtest(right, self.held_out).proportion_ci(level, method="wilson")
        return float(found.low), float(found.high)


@checked
@torch.inference_mode(False)
def classifier_test(
    x: DataLike,
    y: DataLike,
    *,
    classifier: Classifier | None = None,
    train_share: float = 0.5,
    generator: torch.Generator | None = None,
) -> ClassifierTest:
    r"""Train a classifier to tell two samples apart, and test it on held-out points.

    Bias: downward, as an estimate of the Bayes accuracy ``(1 + TV)/2``: by what the classifier does
    not learn from this many points. Measured for ``N(0, Id)`` and ``N(e_1 / 2, 1.2² Id)``: 0.599
    for 0.609 (d = 2) and 0.638 for 0.677 (d = 10) at 1,000 points, 0.609 and 0.670 at 10,000: an
    accuracy near one half is no proof that laws agree. As a test it is exact: held-out
    points are independent of the training, so the p-value is valid at any size. The larger
    sample is cut to the size of the smaller, so that guessing is right half of the time.

    Args:
        x: first sample, ``(N, *)``, at least ten rows; rows must be independent.
        y: second sample, ``(M, *)``.
        classifier: ``(points, labels, held_out) -> scores``, with labels 0 (x) and 1 (y), positive
            scores for 1; any event shape. By default a network of two hidden layers of 64 on
            standardised flat events, with early stopping (seconds for 10,000 points).
        train_share: share of the points to train on.
        generator: source of the split and of the training.

    Raises:
        TypeError: if either is not a tensor or an array of a floating-point dtype.
        ValueError: if they are not finite, of different events or of fewer than ten rows, the share
            does not lie in (0, 1), or the classifier's scores are not one a point.

    Source: Lopez-Paz and Oquab, "Revisiting classifier two-sample tests" (2017).

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(400, 2, generator=generator)
        >>> classifier_test(x, x.flip(0) + 3, generator=generator).accuracy > 0.9
        True
    """
    if not 0 < train_share < 1:
        raise ValueError(f"train_share must lie in (0, 1), got {train_share}; 0.5 is usual")
    x, y = together(("x", "y"), x, y)
    flat_x, flat_y = event_rows(x, y)
    check_at_least(10, "a classifier test", x=flat_x, y=flat_y)
    key = draw_key(generator)
    draws = stream(mix(key, 0), device=x.device)
    n = min(len(x), len(y))
    cut = min(max(1, round(train_share * n)), n - 1)
    parts = []
    for sample in (x.detach(), y.detach()):
        order = torch.randperm(len(sample), generator=draws, device=x.device)[:n]
        parts.append((sample[order[:cut]], sample[order[cut:]]))
    points = torch.cat([parts[0][0], parts[1][0]])
    held_out = torch.cat([parts[0][1], parts[1][1]])
    labels = torch.arange(2 * cut, device=x.device).ge(cut).to(x.dtype)
    truth = torch.arange(2 * (n - cut), device=x.device) >= n - cut
    if classifier is None:
        scores = _train_network(points.flatten(1), labels, held_out.flatten(1), mix(key, 1))
    else:
        scores = classifier(points, labels, held_out)
    scores = torch.as_tensor(scores).reshape(-1)
    if scores.numel() != len(held_out) or bool(scores.isnan().any()):
        raise ValueError(
            f"the classifier must give one finite score for each of {len(held_out)} held-out"
            f" points, and gave {scores.numel()}"
        )
    right = int(((scores > 0) == truth).sum())
    from scipy import stats  # it takes half a second

    p_value = float(stats.binomtest(right, len(truth), alternative="greater").pvalue)
    return ClassifierTest(right / len(truth), p_value, len(truth))


def _train_network(points: Tensor, labels: Tensor, held_out: Tensor, key: int) -> Tensor:
    """Scores of a small network, trained with early stopping on a fifth of the points."""
    device = points.device
    points, held_out = wide(points), wide(held_out)  # for statistics of half precision
    mean, std = points.mean(0), points.std(0).clamp(min=1e-12)
    points, held_out = ((z - mean).div(std).to(device, torch.float32) for z in (points, held_out))
    labels = labels.float()
    draws = stream(mix(key, 0), device=device)
    network = nn.Sequential(
        nn.Linear(points.shape[1], 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1)
    ).to(device, torch.float32)
    for parameter in network.parameters():
        bound = 1 / math.sqrt(parameter.shape[-1])
        nn.init.uniform_(parameter, -bound, bound, generator=draws)
    order = torch.randperm(len(points), generator=draws, device=device)
    checked, used = order[: max(2, len(order) // 5)], order[max(2, len(order) // 5) :]
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    loss = nn.functional.binary_cross_entropy_with_logits
    best, kept, waited = math.inf, {}, 0
    with torch.enable_grad():
        for _ in range(200):
            shuffled = used[torch.randperm(len(used), generator=draws, device=device)]
            for batch in torch.split(shuffled, 256):
                optimiser.zero_grad()
                loss(network(points[batch]).squeeze(1), labels[batch]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            with torch.no_grad():
                value = float(loss(network(points[checked]).squeeze(1), labels[checked]))
            if value < best - 1e-5:
                best, waited = value, 0
                kept = {name: p.detach().clone() for name, p in network.state_dict().items()}
            else:
                waited += 1
                if waited >= 10:
                    break
    network.load_state_dict(kept)
    with torch.no_grad():
        scores: Tensor = network(held_out).squeeze(1)
    return scores
