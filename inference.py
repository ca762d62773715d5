"""What a network makes of images at test time: whole or in sliding windows, at several scales, with mirror images; for scores and for pictures.

Views are averaged at every pixel of the scaled image, as semseg does it, or, with TEST_GRID, at coarse cells: there two small matrices interpolate
the logits at positions, wherever a window lies and backwards for a mirror image, so that no map is larger than the sums.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

import settings
from settings import UsageError, UserError


class Protocol(NamedTuple):
    """How images are tested; settings TEST_... say the same in more words."""

    scales: tuple = (1.0,)
    flip: bool = False
    crop: tuple = None  # (height, width) of the windows; None = whole images
    rate: float = 2 / 3  # step from window to window, of their sides
    base: int = None  # long side of an image at scale 1; None = its own
    short: int = None  # short side of an image at scale 1; None = its own
    long: int = None  # with `short`: the long side is never longer than this times the scale; None = no limit
    average: str = 'prob'  # of views: probabilities, or logits
    grid: int = 1  # several scales are summed at every so-many-th pixel
    budget: int = 2**20  # pixels that go through the network at once, if a single view has not more
    stride: int = 8  # whole images are padded to a multiple of it, with aligned corners plus 1
    form: str = 'corners'  # how logits lie on pixels: UPSAMPLE

    def __str__(self):
        views = [
            f'scale{"s" * (len(self.scales) > 1)} {", ".join(f"{s:g}" for s in self.scales)}'
            + f' of {self.base} pixels' * bool(self.base)
        ]
        if self.short:
            views[0] += f' of {self.short} pixels on the short side' + (
                f', at most {self.long} on the long one' if self.long else ''
            )
        views += ['mirror images'] * self.flip
        (h, w), rate = self.crop or (0, 0), self.rate
        views += [
            f'windows of {w}x{h} every {math.ceil(w * rate)}x{math.ceil(h * rate)}'
            if self.crop
            else 'whole images'
        ]
        views += [{'prob': 'mean of probabilities', 'logit': 'mean of logits'}[self.average]] * (
            self.crop is not None or self != self.single()
        )
        return 'views: ' + '; '.join(
            views
            + [f'summed at every {self.grid}. pixel'] * (self.grid > 1 and self != self.single())
        )

    def single(self):
        """The same at scale 1 alone, without mirror images."""
        return self._replace(scales=(1.0,), flip=False)


def protocol():
    """The Protocol that settings describe."""
    s = settings
    if s.HEAD == 'psa' and s.PSA_COMPACT and s.sides(s.TEST_CROP or 0) != s.sides(s.CROP_SIZE):
        raise UsageError(
            f'PSA_COMPACT=True attends between the positions of a training crop alone: test in windows of that size, TEST_CROP={s.CROP_SIZE}'
        )
    return Protocol(
        s.TEST_SCALES,
        s.TEST_FLIP,
        s.TEST_CROP and s.sides(s.TEST_CROP),
        s.TEST_STRIDE_RATE,
        s.TEST_BASE_SIZE,
        s.TEST_SHORT_SIDE,
        s.TEST_LONG_SIDE,
        s.TEST_AVERAGE,
        s.TEST_GRID,
        s.TEST_BATCH * math.prod(s.sides(s.CROP_SIZE)),
        s.STRIDE,
        s.UPSAMPLE,
    )


# ----------------------------------------------------------------------------------------------------------- geometry


def scaled_size(h, w, scale, base=None, short=None, long=None):
    """(height, width) of an image whose long side becomes scale * base pixels (semseg's way).

    With `short`, its short side becomes scale * short, or less where the long side would exceed scale * long (detectron2's way).
    """
    if short:
        factor = short / min(h, w)
        if long:
            factor = min(factor, long / max(h, w))
        return max(1, int(scale * factor * h + 0.5)), max(1, int(scale * factor * w + 0.5))
    side = round(scale * (base or max(h, w)))
    return (side, max(1, round(side / h * w))) if h > w else (max(1, round(side / w * h)), side)


def windows(n, crop, rate):
    """Where windows of `crop` pixels begin along n >= crop pixels: every ceil(crop * rate), the last one moved back inside."""
    step = math.ceil(crop * rate)
    return [min(i * step, n - crop) for i in range(math.ceil((n - crop) / step) + 1)]


def cells(n, grid):
    """Positions, in pixels, of cells over n pixels: the first, the last, and between them `grid` pixels apart at most."""
    return torch.linspace(0, n - 1, -(-(n - 1) // grid) + 1, dtype=torch.float64)


def resample(maps, rows, cols):
    """Maps (..., h, w) interpolated linearly at positions `rows` and `cols` -> (..., len(rows), len(cols)), float32; beyond the ends they go on as they end."""

    def weights(at, n):
        at = at.clamp(0, n - 1).to(maps.device)
        return (1 - (at[:, None] - torch.arange(n, device=maps.device)).abs()).clamp(min=0).float()

    with torch.autocast(maps.device.type, enabled=False):
        return weights(rows, maps.shape[-2]) @ maps.float() @ weights(cols, maps.shape[-1]).t()


def among_logits(at, n_logits, n_pixels, p):
    """Positions in pixels of a view -> positions among its logits, as network.upsample has them."""
    if p.form == 'corners':
        return at * ((n_logits - 1) / max(n_pixels - 1, 1))
    return (at + 0.5) * (n_logits / n_pixels if p.form == 'centres' else 1 / p.stride) - 0.5


# ---------------------------------------------------------------------------------------------------------- inference


def padded(n, p):
    """Return the length to which n pixels of a whole image are padded, so that a logit covers STRIDE pixels.

    So it does in training, too, for crops of that form. Where logits are enlarged with aligned corners that is 1 mod STRIDE, with half-pixel centres 0 mod STRIDE.
    """
    if p.form == 'centres':
        return n + -n % p.stride
    return n + (1 - n) % p.stride


def resize(x, size, antialias=False):
    """Resize maps (b, c, h, w) to (b, c, *size), bilinear with half-pixel centres.

    antialias  smooth where the result is smaller, as Pillow does
    """
    if x.shape[2:] == size:
        return x
    return F.interpolate(x, size, mode='bilinear', align_corners=False, antialias=antialias)


def look(net, image, at, mirrors, average, p):
    """Mean over the windows, or over the whole, straight and mirrored, of what a network says of normalised images (b, 3, h, w).

    at       positions in pixels, rows and columns, ascending; None = every pixel -> (b, n, rows, columns)
    mirrors  (False,), (True,) or both
    average  what of the logits is summed, such as their softmax
    """
    b, _, h, w = image.shape
    size = p.crop or (padded(h, p), padded(w, p))
    room = max(1, p.budget // (size[0] * size[1]))  # views at once
    if b > room:
        return torch.cat([look(net, part, at, mirrors, average, p) for part in image.split(room)])
    lack = [max(side - n, 0) for side, n in zip(size, (h, w))]
    top, left = (n // 2 if p.crop else 0 for n in lack)
    image = F.pad(image, (left, lack[1] - left, top, lack[0] - top))  # with the mean colour
    views = [
        (y, x, mirror)
        for y in windows(h + lack[0], size[0], p.rate)
        for x in windows(w + lack[1], size[1], p.rate)
        for mirror in mirrors
    ]
    rows, cols = at or (cells(h, 1), cells(w, 1))
    total, seen = None, torch.zeros(len(rows), len(cols))
    for begin in range(0, len(views), room // b):
        some = views[begin : begin + room // b]
        cut = [image[:, :, y : y + size[0], x : x + size[1]] for y, x, _ in some]
        logits = net(
            torch.cat([c.flip(3) if mirror else c for c, (_, _, mirror) in zip(cut, some)]),
            coarse=bool(at),
        )
        for (y, x, mirror), found in zip(some, logits.split(b)):
            (i, j), (k, m) = [
                torch.searchsorted(
                    a, torch.tensor([first - 0.5, first + n - 0.5], dtype=a.dtype)
                ).tolist()
                for a, first, n in ((rows + top, y, size[0]), (cols + left, x, size[1]))
            ]
            if at:
                here = rows[i:j] + (top - y), cols[k:m] + (left - x)
                here = here[0], size[1] - 1 - here[1] if mirror else here[1]
                found = resample(
                    found, *(among_logits(a, *n, p) for a, *n in zip(here, found.shape[2:], size))
                )
            else:
                found = (found.flip(3) if mirror else found)[
                    :, :, max(top - y, 0) :, max(left - x, 0) :
                ][:, :, : j - i, : m - k]
            found = average(found)
            if len(views) == 1:
                return found
            total = found.new_zeros(*found.shape[:2], *seen.shape) if total is None else total
            total[:, :, i:j, k:m] += found
            seen[i:j, k:m] += 1
    return total.div_(seen.to(total.device))


def scores(net, image, p, single=None):
    """Scores (b, n, h, w) float32 of images (b, 3, h, w) uint8 on the network's device, whose softmax are probabilities.

    They are logits of a single view, or the logarithm of the mean of the probabilities (or the mean of logits) of all views of Protocol `p`.
    single  what this function gave for p.single(): that view is not computed again, but for TEST_GRID
    """
    h, w = image.shape[2:]
    several = len(p.scales) > 1 or p.flip
    grid, summed = p.grid if several else 1, p.average == 'prob' and (several or p.crop)
    average = (lambda x: x.softmax(1)) if summed else (lambda x: x)
    at = (cells(h, grid), cells(w, grid)) if grid > 1 else None
    image, total = net.normalise(image), 0
    for scale in p.scales:
        size, mirrors = (
            scaled_size(h, w, scale, p.base, p.short, p.long),
            (False, True)[: 1 + p.flip],
        )
        if min(size) < p.stride and scale < 1:
            raise UserError(
                f'scale {scale:g} of TEST_SCALES makes {size[1]}x{size[0]} pixels of an image of {w}x{h}, less than STRIDE = {p.stride}; '
                'leave it out, or raise TEST_BASE_SIZE or TEST_SHORT_SIDE'
            )
        if (
            single is not None and scale == 1 and not at and (size == (h, w) or p.crop)
        ):  # elsewhere its average is another one
            total = total + average(single)
            mirrors = mirrors[1:]
        if mirrors:
            there = at and [
                ((a + 0.5) * (m / n) - 0.5).clamp(0, m - 1) for a, n, m in zip(at, (h, w), size)
            ]
            found = look(
                net, resize(image, size, antialias=bool(p.short)), there, mirrors, average, p
            )  # detectron2 resizes by Pillow
            total = total + (found if at else resize(found, (h, w))) * len(mirrors)
    total = total / (len(p.scales) * (1 + p.flip)) if several else total
    total = total.clamp(min=1e-30).log() if summed else total
    return F.interpolate(total, (h, w), mode='bilinear', align_corners=True) if at else total


def predict(net, image, p, beside=False):
    """[train ids (b, h, w) uint8] of images (b, 3, h, w) uint8 on the network's device by Protocol `p`; `beside`: and those by p.single()."""
    single = scores(net, image, p.single()) if beside else None
    found = [scores(net, image, p, single), single][: 1 + beside]
    return [f.max(1)[1].to(torch.uint8) for f in found]  # on CPU argmax(1) is several times slower
