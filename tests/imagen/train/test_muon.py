import torch
from torch import nn

from imagen.train.muon import ADAMW_RMS, Muon, orthonormalize


def test_steps_are_near_orthonormal_and_point_where_the_gradient_does() -> None:
    rng = torch.Generator().manual_seed(0)
    for shape in ((3, 16, 16), (2, 8, 72), (2, 72, 8)):
        gradient = torch.randn(shape, generator=rng)
        left, sizes, right = torch.linalg.svd(gradient, full_matrices=False)
        turned = left.mT @ orthonormalize(gradient) @ right.mT
        diagonal = turned.diagonal(dim1=1, dim2=2)
        assert diagonal[sizes > 0.05 * sizes.max()].min() > 0.6
        assert diagonal.max() < 1.3
        torch.testing.assert_close(turned, torch.diag_embed(diagonal), atol=1e-4, rtol=0)


def test_a_step_is_that_of_torchs_own_muon() -> None:
    """It is for matrices alone, and computes in bfloat16."""
    rng = torch.Generator().manual_seed(1)
    first = torch.randn(24, 40, generator=rng)
    ours, theirs = nn.Parameter(first.clone()), nn.Parameter(first.clone())
    both = (
        Muon([ours], [], 0.01, weight_decay=0.1),
        torch.optim.Muon([theirs], 0.01, 0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(4):
        ours.grad = torch.randn(24, 40, generator=rng)
        theirs.grad = ours.grad.clone()
        for optimizer in both:
            optimizer.step()
    moved = (theirs - first).square().mean().sqrt()
    assert (ours - theirs).square().mean().sqrt() < 0.02 * moved


def test_a_convolution_is_one_matrix_and_all_else_is_adamws() -> None:
    rng = torch.Generator().manual_seed(2)
    weights, gradient = torch.randn(8, 6, 3, 3, generator=rng), torch.randn(8, 6, 3, 3, generator=rng)
    plain, shaped = (
        nn.Parameter(weights.flatten(1).clone()),
        nn.Parameter(weights.contiguous(memory_format=torch.channels_last)),
    )
    bias, same = nn.Parameter(torch.ones(8)), nn.Parameter(torch.ones(8))
    plain.grad, shaped.grad, bias.grad, same.grad = (
        gradient.flatten(1),
        gradient.clone(),
        gradient[:, 0, 0, 0],
        gradient[:, 0, 0, 0],
    )
    both = Muon([plain, shaped], [bias], 0.01), torch.optim.AdamW([same], 0.01)
    for optimizer in both:
        optimizer.step()
    torch.testing.assert_close(plain, shaped.flatten(1))
    assert torch.equal(bias, same)
    step = (plain - weights.flatten(1) * (1 - 0.01 * 0.01)).square().mean().sqrt() / 0.01
    assert 0.7 * ADAMW_RMS < step < 1.2 * ADAMW_RMS
