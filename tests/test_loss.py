import pytest
import torch

import loss


def by_hand(logits, label, ignore):
    """-log softmax of the label's class, a pixel at a time: the sum over valid pixels of each image."""
    sums = []
    for image, truth in zip(logits, label):
        total = 0.0
        for y in range(truth.shape[0]):
            for x in range(truth.shape[1]):
                if truth[y, x] != ignore:
                    total += torch.logsumexp(image[:, y, x], 0).item() - image[truth[y, x].item(), y, x].item()
        sums.append(total)
    return sums


@pytest.mark.parametrize('average', ['all', 'valid'])
@pytest.mark.parametrize('ignore', [255, 200])
def test_cross_entropy(average, ignore):
    torch.manual_seed(0)
    logits, label = torch.randn(3, 5, 4, 6), torch.randint(0, 5, (3, 4, 6), dtype=torch.uint8)
    label[0, :2], label[2] = ignore, ignore
    total, count = loss.cross_entropy(logits, label, ignore, average)
    assert total.tolist() == pytest.approx(by_hand(logits, label, ignore), rel=1e-5)
    assert count.tolist() == ([24, 24, 24] if average == 'all' else [12, 24, 0])
    assert total[2] == 0 and count.dtype == total.dtype


@pytest.mark.parametrize('average', ['all', 'valid'])
def test_all_void_has_a_gradient_of_zero(average):
    logits = torch.randn(2, 5, 4, 6, requires_grad=True)
    total, _ = loss.cross_entropy(logits, torch.full((2, 4, 6), 255), 255, average)
    total.sum().backward()
    assert total.tolist() == [0, 0] and (logits.grad == 0).all()


def test_gradient_of_void_pixels_is_zero():
    logits, label = torch.randn(1, 5, 4, 6, requires_grad=True), torch.zeros(1, 4, 6, dtype=torch.uint8)
    label[0, 1] = 255
    loss.cross_entropy(logits, label, 255, 'all')[0].sum().backward()
    assert (logits.grad[0, :, 1] == 0).all() and (logits.grad[0, :, 0] != 0).all()


def test_sums_add_up_over_any_split():
    logits, label = torch.randn(4, 5, 4, 6), torch.randint(0, 5, (4, 4, 6))
    whole, count = loss.cross_entropy(logits, label, 255, 'valid')
    parts = [loss.cross_entropy(l, t, 255, 'valid') for l, t in zip(logits.split(1), label.split(1))]
    assert torch.cat([p[0] for p in parts]).tolist() == pytest.approx(whole.tolist())
    assert torch.cat([p[1] for p in parts]).tolist() == count.tolist()
