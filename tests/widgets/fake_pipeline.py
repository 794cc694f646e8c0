"""A stand-in for the model with the pipeline's interface: quick, deterministic, and easy to watch."""

import time
from types import SimpleNamespace

import numpy as np
from scipy.ndimage import distance_transform_edt


class FakePipeline:
    """Fills hidden pixels from the nearest known ones, bent by the candidate's generator, with one new disc."""

    num_ids = 32

    def __init__(self, *, delay: float = 0.0) -> None:
        self.delay = delay
        self.encoded: list = []
        self.calls: list = []
        self.steps = 0

    def encode_image(self, image):
        self.encoded.append(tuple(image.shape))
        return image

    def inpaint(
        self, features, ids, known, *, num_inference_steps, num_candidates, generator, sampler=None, callback=None
    ):
        self.calls.append({"ids": ids, "known": known, "steps": num_inference_steps, "sampler": sampler})
        for step in range(num_inference_steps):
            callback(step, num_inference_steps)
            self.steps += 1
            time.sleep(self.delay)
        results = [self._fill(ids, known, generator[k].initial_seed()) for k in range(num_candidates)]
        segments = [[{"id": int(i), "category_id": 1} for i in np.unique(r[r > 0])] for r in results]
        return SimpleNamespace(ids=results, segments=segments, semantic=[None] * num_candidates)

    def _fill(self, ids, known, seed):
        draw = np.random.default_rng(seed)
        height, width = ids.shape
        filled = ids.copy()
        if known.any():
            rows, columns = distance_transform_edt(~known, return_distances=False, return_indices=True)
            filled = ids[rows, columns]
        hidden = np.argwhere(~known)
        y, x = hidden[draw.integers(len(hidden))]
        radius = draw.uniform(0.06, 0.14) * max(height, width)
        disc = (np.arange(height)[:, None] - y) ** 2 + (np.arange(width) - x) ** 2 <= radius**2
        filled[disc & ~known] = draw.integers(20, self.num_ids)
        return np.where(known, ids, filled)
