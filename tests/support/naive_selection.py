"""Which image tokens AVC and IAVA choose, and CG-VLM's D: from plain numbers, one at a time."""

import math
import statistics


def hidden_columns(maps, columns, gamma, lamb):
    """Columns of image tokens that AVC takes away.

    Args:
        maps: of each layer the full maps `[1, heads, length, length]`.
        columns: of the image tokens.
    """
    means = [[float(layer[0, :, -1, column].mean()) for column in columns] for layer in maps]
    total = sum(map(sum, means))
    chosen, share = [], 0.0
    for layer in sorted(means, key=sum, reverse=True):
        chosen.append(layer)
        share += sum(layer) / total
        if share >= gamma:
            break
    scores = [sum(layer[place] for layer in chosen) / len(chosen) for place in range(len(columns))]
    mean = sum(scores) / len(scores)
    deviation = math.sqrt(sum((score - mean) ** 2 for score in scores) / (len(scores) - 1))
    return [c for c, score in zip(columns, scores, strict=True) if score < mean + lamb * deviation]


def irrelevant(general, query, strategy):
    """Tokens of IAVA's I, as places among the image tokens, from lists of numbers."""
    drop = [a - b for a, b in zip(general, query, strict=True)]
    judged = general if strategy.rule == "general_outlier_and_drop" else drop
    mean = sum(judged) / len(judged)
    bar = mean + strategy.lamb * math.sqrt(sum((value - mean) ** 2 for value in judged) / (len(judged) - 1))
    return {
        place for place, value in enumerate(judged)
        if value > bar and (strategy.rule == "difference_outlier" or drop[place] > 0)
    }  # fmt: skip


def interaction(full, image, text, neither, top):
    """CG-VLM's D of four rows of logits."""
    best = sorted(range(len(full)), key=lambda token: -full[token])[:top]
    return statistics.variance([float(full[y] - image[y] - text[y] + neither[y]) for y in best])
