"""Eight selective state-space blocks (Mamba, arXiv 2312.00752), the backbone of the Q tower (35,483,136 at 768).

It does not know how long a context could have been: a short one is a short sequence.

Letters are the paper's. Sizes: b batch, L length, E inner width (twice the model's), N = 128 states a channel, R the
rank of Δ (a 16th of the model's width). Tensors: u input of the scan (b, L, E), h its state (b, E, N), Δ (in code
`delta`) step size (b, L, E), A decay (E, N), B what a step writes into the state and C what it reads out of it
(b, L, N), D the skip (E,), y output (b, L, E).

The published count, 53,177,088, is of a scan without C. It is what ours becomes when Δ comes from a full E × E Linear
in place of the rank-48 pair (+2,211,840 in each of the 8 blocks) and one of the two outer Linears has no bias (−768):
the number fits to the last digit, but the decomposition is our inference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from retrieval.predictors.base import Predictor, at, to_front

N = 128


class Mamba(Predictor):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.into = nn.Linear(dim, dim)
        self.blocks = nn.ModuleList(Block(dim) for _ in range(8))
        self.head = nn.Linear(dim, dim)

    def raw(self, context: Tensor, mask: Tensor) -> Tensor:
        steps, last = to_front(context, mask)
        states = self.into(steps).to(steps.dtype)  # in mixed precision too, what the blocks add to stays whole
        for block in self.blocks:
            states = block(states)
        prediction: Tensor = self.head(at(states, last))
        return prediction


class Block(nn.Module):
    """x + out_proj(scan(conv(RMSNorm(x))) gated), (b, L, width) to the same; figure 3 of the paper."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        E, R = 2 * dim, math.ceil(dim / 16)
        self.split = [R, N, N]
        self.norm = nn.RMSNorm(dim, eps=1e-5)
        self.in_proj = nn.Linear(dim, 2 * E, bias=False)
        self.conv1d = nn.Conv1d(E, E, kernel_size=4, groups=E, padding=3)
        self.x_proj = nn.Linear(E, R + 2 * N, bias=False)
        self.dt_proj = nn.Linear(R, E)
        self.A_log = nn.Parameter(torch.arange(1.0, N + 1).log().repeat(E, 1))
        self.D = nn.Parameter(torch.ones(E))
        self.out_proj = nn.Linear(E, dim, bias=False)
        # softplus of this bias is a step size between .001 and .1, as in the authors' code
        steps = torch.exp(torch.rand(E) * (math.log(0.1) - math.log(0.001)) + math.log(0.001))
        with torch.no_grad():
            self.dt_proj.bias.copy_(steps + torch.log(-torch.expm1(-steps)))
        nn.init.uniform_(self.dt_proj.weight, -(R**-0.5), R**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        u, gate = self.in_proj(self.norm(x)).chunk(2, dim=-1)
        u = functional.silu(self.conv1d(u.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        low, B, C = self.x_proj(u).split(self.split, dim=-1)
        delta = functional.softplus(self.dt_proj(low))
        y = fast_scan(u, delta, -self.A_log.exp(), B, C) + u * self.D
        mixed: Tensor = x + self.out_proj(y * functional.silu(gate))
        return mixed


def slow_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """y of h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t, y_t = C_t h_t: the paper's algorithm 2, step by step."""
    h = torch.zeros(u.shape[0], *A.shape, dtype=u.dtype, device=u.device)
    ys = []
    for t in range(u.shape[1]):
        decay = torch.exp(delta[:, t, :, None] * A)
        h = decay * h + (delta[:, t] * u[:, t]).unsqueeze(-1) * B[:, t, None, :]
        ys.append((h * C[:, t, None, :]).sum(dim=-1))
    return torch.stack(ys, dim=1)


def fast_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """As `slow_scan`, a few rows at a time and without keeping the states: they are computed again for the gradient.

    At 768 dimensions the state of one row is 0.8 MB: a batch of 256 would leave the caches at every operation, and what
    the gradient needs of five steps in eight blocks would be tens of gigabytes.
    """
    if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]  # the loop would fit the example only
        return slow_scan(u, delta, A, B, C)
    u, delta, B, C = (value.to(A.dtype) for value in (u, delta, B, C))  # states decay in full precision
    with torch.autocast(u.device.type, enabled=False):
        y: Tensor = _Scan.apply(u, delta, A, B, C)  # type: ignore[no-untyped-call]
    return y


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        ctx.save_for_backward(u, delta, A, B, C)
        y = torch.empty_like(u)
        for rows in _rows(u, A):
            for t, (h, _) in enumerate(_states(u[rows], delta[rows], A, B[rows])):
                y[rows, t] = torch.bmm(h, C[rows, t, :, None]).squeeze(-1)
        return y

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> tuple[Tensor, ...]:
        (dy,), (u, delta, A, B, C) = dys, ctx.saved_tensors
        du, ddelta, dA, dB, dC = (torch.zeros_like(value) for value in (u, delta, A, B, C))
        for rows in _rows(u, A):
            states = [(h.clone(), decay) for h, decay in _states(u[rows], delta[rows], A, B[rows])]
            dh = torch.zeros_like(states[0][0])
            for t in reversed(range(u.shape[1])):
                h, decay = states[t]
                step, g = delta[rows, t], dy[rows, t]
                dh.addcmul_(g.unsqueeze(-1), C[rows, t, None, :])
                dC[rows, t] = torch.bmm(g.unsqueeze(1), h).squeeze(1)
                dB[rows, t] = torch.bmm((step * u[rows, t]).unsqueeze(1), dh).squeeze(1)
                written = torch.bmm(dh, B[rows, t, :, None]).squeeze(-1)  # the gradient of Δ_t u_t
                du[rows, t] = written * step
                ddelta[rows, t] = written * u[rows, t]
                if t > 0:
                    dh *= decay
                    exponent = dh * states[t - 1][0]  # the gradient of Δ_t A
                    ddelta[rows, t] += (exponent * A).sum(dim=-1)
                    dA.add_((exponent * step.unsqueeze(-1)).sum(dim=0))
        return du, ddelta, dA, dB, dC


def _states(u: Tensor, delta: Tensor, A: Tensor, B: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(h_t, exp(Δ_t A)) step by step; h is one tensor that the next step overwrites."""
    written = (delta * u).unsqueeze(-1)
    h = written[:, 0] * B[:, 0, None, :]
    yield h, h  # there is nothing yet to decay
    for t in range(1, u.shape[1]):
        decay = (delta[:, t, :, None] * A).exp_()
        yield h.mul_(decay).addcmul_(written[:, t], B[:, t, None, :]), decay


def _rows(u: Tensor, A: Tensor) -> Iterator[slice]:
    """The batch in runs of rows whose states fit into a CPU's caches, or into a GPU's memory."""
    count = max(1, (2**18 if u.device.type == "cpu" else 2**27) // A.numel())
    yield from (slice(start, start + count) for start in range(0, len(u), count))
