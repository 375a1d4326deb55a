"""The diversity metric: how different the pictures of one prompt are from each other."""

import numpy as np


def diversity(vectors: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """For each picture, the mean cosine distance to the other pictures of its prompt.

    Args:
        vectors: features of the pictures (n d).
        numbers: the number of each picture's prompt (n); a prompt has at least two pictures.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(lengths > 0, lengths, 1)
    distances = np.zeros(len(unit))
    for number in np.unique(numbers):
        group = np.flatnonzero(numbers == number)
        similarities = unit[group] @ unit[group].T
        distances[group] = 1 - (similarities.sum(1) - np.diag(similarities)) / (len(group) - 1)
    return distances
