"""Arg max and thresholded softmax over the channels of resized logits, which never exist as a whole.

Between four neighbouring low-resolution positions bilinear resizing gives convex combinations. So
- a channel that is the largest at all four is the largest everywhere between them;
- its inverse softmax value, a sum of exponentials of linear functions, is convex there, hence at most the interpolation
  of its four values.
Both settle most pixels of a trained model at low resolution; only the others, near borders, are computed channel by
channel. Where those are many (untrained models, noise) bands of rows are resized whole, one small buffer at a time.
"""

import math
from collections.abc import Iterator

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

# values computed at a time; a few buffers of this size stay in the cache
_CHUNK_VALUES = 1 << 19
# choosing pixels pays off below this share of pixels to compute
_GATHERED_SHARE = 0.3
# rows of logits that are looked at first, and the share of equal neighbours in them that is worth more
_SAMPLED_ROWS = 8
_NEIGHBOURS_ALIKE = 0.75
# room for rounding: pixels this close to the threshold are computed in full
_BOUND_MARGIN = 1e-4


def resized_argmax(
    logits: Float[Tensor, "channels rows columns"], size: tuple[int, int], *, threshold: float = 0.0
) -> tuple[Int[Tensor, "height width"], Bool[Tensor, "height width"] | None]:
    """Arg max over channels of the logits resized to `size` (height, width), bilinear with align_corners=False.

    Returns:
        (winner, confident): the channel, int64, the first of equal ones; and whether its softmax value over all
        channels is at least `threshold`, None for a threshold of 0. Up to the rounding of the interpolation both are
        what resizing, softmax and arg max of the whole array give.
    """
    if logits.device.type != "cpu":
        return _on_accelerator(logits, size, threshold)
    logits = logits.detach().float().contiguous()
    limit = 1 / threshold if threshold > 0 else None
    scratch = _Scratch()
    low_size = (logits.shape[1], logits.shape[2])
    if low_size != size and _looks_noisy(logits, scratch):
        winner, inverse = _collect(_resized_bands(logits, size, scratch), size, limit, scratch)
    else:
        winner, inverse = _collect(_plain_bands(logits, scratch), low_size, limit, scratch)
    if tuple(winner.shape) != size:
        winner, easy = _between_equals(winner, size)
        if inverse is not None and limit is not None:
            inverse = F.interpolate(inverse[None, None], size, mode="bilinear", align_corners=False)[0, 0]
            easy &= inverse <= limit * (1 - _BOUND_MARGIN)
        hard = (~easy).flatten().nonzero()[:, 0]
        if len(hard) > _GATHERED_SHARE * easy.numel():
            winner, inverse = _collect(_resized_bands(logits, size, scratch), size, limit, scratch)
        else:
            for pixels, values in _resized_pixels(logits, size, hard, scratch):
                some_winner, some_inverse = _winners(values[None], limit, scratch)
                winner.view(-1)[pixels] = some_winner[0]
                if inverse is not None and some_inverse is not None:
                    inverse.view(-1)[pixels] = some_inverse[0]
    return winner.long(), None if inverse is None or limit is None else inverse <= limit


def _on_accelerator(logits: Tensor, size: tuple[int, int], threshold: float) -> tuple[Tensor, Tensor | None]:
    """Everything at once and no wait for the device: memory is plenty there, and choosing pixels would need a wait."""
    logits = logits.detach().float()
    if tuple(logits.shape[1:]) != size:
        logits = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
    top, winner = logits.max(0)
    confident = (logits.logsumexp(0) - top) <= -math.log(threshold) if threshold > 0 else None
    return winner, confident


class _Scratch:
    """Buffers by name, used again for every band: touching fresh memory would take longer than the arithmetic."""

    def __init__(self) -> None:
        self._flat: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        length = math.prod(shape)
        if name not in self._flat or len(self._flat[name]) < length:
            self._flat[name] = torch.empty(length, dtype=dtype)
        return self._flat[name][:length].view(shape)


def _collect(
    bands: Iterator[tuple[slice, Tensor]], size: tuple[int, int], limit: float | None, scratch: _Scratch
) -> tuple[Int[Tensor, "height width"], Float[Tensor, "height width"] | None]:
    """Winners, and inverse softmax values if there is a limit for them, of a map that comes in bands of rows."""
    winner = torch.empty(size, dtype=torch.int16)
    inverse = None if limit is None else torch.empty(size)
    for rows, values in bands:
        winner[rows], band_inverse = _winners(values, limit, scratch)
        if inverse is not None and band_inverse is not None:
            inverse[rows] = band_inverse
    return winner, inverse


def _looks_noisy(logits: Tensor, scratch: _Scratch) -> bool:
    """Whether so many neighbours of some sampled rows have different winners that low resolution will settle little."""
    rows = logits[:, :: max(1, logits.shape[1] // _SAMPLED_ROWS)].transpose(0, 1)
    winner, _ = _winners(scratch("values", *rows.shape).copy_(rows), None, scratch)
    return bool((winner[:, 1:] == winner[:, :-1]).float().mean() < _NEIGHBOURS_ALIKE)


def _winners(
    values: Float[Tensor, "rows channels columns"], limit: float | None, scratch: _Scratch
) -> tuple[Int[Tensor, "rows columns"], Float[Tensor, "rows columns"] | None]:
    """The first largest channel of each pixel and one over its softmax value; `values` are overwritten."""
    top = values.amax(1, keepdim=True)
    channels = values.shape[1]
    if channels <= 256:
        # torch's max with indices takes ten times as long as amax; NumPy compares fast, and among the channels that
        # equal the maximum the first has the largest weight
        is_top = scratch("is_top", *values.shape, dtype=torch.bool)
        np.equal(values.numpy(), top.numpy(), out=is_top.numpy())
        weights = torch.arange(255, 255 - channels, -1, dtype=torch.uint8)[:, None]
        winner = 255 - is_top.view(torch.uint8).mul_(weights).amax(1).to(torch.int16)
        # only NaN equals nothing, and it passes no threshold
        winner.clamp_(max=channels - 1)
    else:
        winner = values.argmax(1).to(torch.int16)
    if limit is None:
        return winner, None
    # exp2 takes half the time of exp
    return winner, values.sub_(top).mul_(math.log2(math.e)).exp2_().sum(1)


def _plain_bands(logits: Tensor, scratch: _Scratch) -> Iterator[tuple[slice, Tensor]]:
    """Bands of rows [rows, channels, columns], to be overwritten."""
    channels, height, width = logits.shape
    step = max(1, _CHUNK_VALUES // (channels * width))
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        band = scratch("values", rows.stop - start, channels, width)
        yield rows, band.copy_(logits[:, rows].transpose(0, 1))


def _resized_bands(logits: Tensor, size: tuple[int, int], scratch: _Scratch) -> Iterator[tuple[slice, Tensor]]:
    """Bands of rows of the resized logits, [rows, channels, columns]."""
    channels, height, width = logits.shape
    low, high, weight = (values.tolist() for values in _neighbours(height, size[0]))
    step = max(1, _CHUNK_VALUES // (channels * size[1]))
    for start in range(0, size[0], step):
        stop = min(start + step, size[0])
        first, last = low[start], high[stop - 1]
        narrow = scratch("narrow", last + 1 - first, channels, width)
        narrow.copy_(logits[:, first : last + 1].transpose(0, 1))
        wide = scratch("wide", last + 1 - first, channels, size[1])
        # columns by OpenCV, which has no rows to change here; rows by torch, so that a band fits the cache
        target = wide.view(-1, size[1]).numpy()
        cv2.resize(narrow.view(-1, width).numpy(), target.shape[::-1], dst=target, interpolation=cv2.INTER_LINEAR)
        band = scratch("values", stop - start, channels, size[1])
        for row in range(start, stop):
            torch.lerp(wide[low[row] - first], wide[high[row] - first], weight[row], out=band[row - start])
        yield slice(start, stop), band


def _resized_pixels(
    logits: Tensor, size: tuple[int, int], pixels: Int[Tensor, " pixels"], scratch: _Scratch
) -> Iterator[tuple[Tensor, Float[Tensor, "channels chunk"]]]:
    """The resized logits of chosen pixels of the flattened result, in chunks."""
    channels, height, width = logits.shape
    flat = logits.view(channels, -1)
    y_low, y_high, y_weight = _neighbours(height, size[0])
    x_low, x_high, x_weight = _neighbours(width, size[1])
    for chunk in pixels.split(max(1, _CHUNK_VALUES // channels)):
        y, x = chunk // size[1], chunk % size[1]
        corners = [
            torch.index_select(flat, 1, rows[y] * width + columns[x], out=scratch(name, channels, len(chunk)))
            for name, rows, columns in (
                ("values", y_low, x_low),
                ("upper right", y_low, x_high),
                ("lower left", y_high, x_low),
                ("lower right", y_high, x_high),
            )
        ]
        above = corners[0].lerp_(corners[1], x_weight[x])
        below = corners[2].lerp_(corners[3], x_weight[x])
        yield chunk, above.lerp_(below, y_weight[y])


def _between_equals(low: Int[Tensor, "rows columns"], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Each pixel's upper left neighbour at low resolution, and whether all its four neighbours are equal."""
    y_low, y_high, _ = _neighbours(low.shape[0], size[0])
    x_low, x_high, _ = _neighbours(low.shape[1], size[1])
    above, below = low[y_low], low[y_high]
    same_column = above == below
    corner = above[:, x_low]
    equal = same_column[:, x_low] & same_column[:, x_high] & (corner == above[:, x_high])
    return corner, equal


def _neighbours(length: int, resized_length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lower and upper neighbour of each resized position (half-pixel centres, clamped), and the weight of the upper."""
    position = (torch.arange(resized_length, dtype=torch.float64) + 0.5) * (length / resized_length) - 0.5
    position.clamp_(0, length - 1)
    low = position.long()
    return low, (low + 1).clamp_(max=length - 1), (position - low).float()
