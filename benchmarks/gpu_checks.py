"""Whether the losses are right on a GPU: values, gradients, graphs, and that nobody waits."""

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from gpu_session import (
    Session,
    binary,
    classes,
    compiled,
    likelihood,
    sigmoid,
    softmax,
    softmax_asymmetric,
)
from torch import Tensor

import parfocal

BITS = {torch.float32: 24, torch.bfloat16: 8, torch.float16: 11}
LEAST = {torch.float32: -149, torch.bfloat16: -133, torch.float16: -24}


def truth(x: Tensor, y: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Value and slope of hard targets in float64, without a difference."""
    u = torch.where(y > 0.5, x, -x).double()
    t = torch.exp(-u.abs())
    small, large = t / (1 + t), 1 / (1 + t)
    q, p = torch.where(u > 0, small, large), torch.where(u > 0, large, small)
    cross_entropy = torch.log1p(t) + (-u).clamp(min=0)
    slope = -(q**gamma) * (gamma * p * cross_entropy + q)
    return q**gamma * cross_entropy, torch.where(y > 0.5, slope, -slope)


def ulp(result: Tensor, expected: Tensor) -> float:
    """The largest error in units of the last place; infinite where something isn't finite."""
    is_out = expected.abs() > torch.finfo(result.dtype).max
    result, expected = result[~is_out], expected[~is_out]
    if not result.isfinite().all():
        return math.inf
    unit = (torch.frexp(expected).exponent - BITS[result.dtype]).clamp(min=LEAST[result.dtype])
    return round(((result.double() - expected).abs() / torch.exp2(unit.double())).max().item(), 3)


def logits(device: str, dtype: torch.dtype, n: int) -> tuple[Tensor, Tensor]:
    """Logits up to 100, dense at 0; in 16 bits every finite logit with both targets."""
    if dtype == torch.float32:
        far = torch.exp(torch.empty(n, device=device).uniform_(math.log(1e-6), math.log(100.0)))
        far = far * (torch.randint(0, 2, (n,), device=device) * 2 - 1)
        x = torch.cat([far, torch.randn(n, device=device) * 4])
        return x.requires_grad_(), (torch.rand(2 * n, device=device) < 0.5).float()
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).to(device)
    x = x[x.isfinite()]
    return torch.cat([x, x]).requires_grad_(), torch.cat([torch.ones_like(x), torch.zeros_like(x)])


def values_are_right(session: Session) -> None:
    """Value and slope of each logit, unreduced and from a sum, in ULP."""
    for dtype in BITS:
        x, y = logits(session.device, dtype, 2**22 if session.device == "cuda" else 2**12)
        for gamma in (0.0, 0.125, 0.5, 1.0, 2.0, 5.0):  # numbers of float32
            with session.trying(f"ULP {dtype} gamma {gamma:g}"):
                loss = partial(parfocal.sigmoid_focal_loss, alpha=None, gamma=gamma)
                value, slope = truth(x.detach(), y, gamma)
                each = loss(x, y)
                total = loss(x, y, reduction="sum")
                errors = {
                    "value": ulp(each.detach(), value),
                    "slope": ulp(torch.autograd.grad(each.sum(), x)[0], slope),
                    "slope of the sum": ulp(torch.autograd.grad(total, x)[0], slope),
                    "allowed": 4 + 2 * gamma if dtype == torch.float32 else 1,
                }
                session.note("correct", f"{dtype}, gamma {gamma:g}, ULP"[6:], errors)


def rows_are_right(session: Session) -> None:
    """The gradient of class indices against float64, relative to its largest number in the row."""
    for shape in ((512, 21), (512, 1000), (64, 32000), (4, 128256), (2, 21, 64, 64)):
        for dtype in (torch.float32, torch.bfloat16):
            for smoothing in (0.0, 0.1):
                name = f"softmax {dtype} {shape}" + (", smoothed" if smoothing else "")
                with session.trying(name):
                    x, index = classes(session.device, shape, dtype)
                    (got,) = torch.autograd.grad(softmax(x, index, smoothing), x)
                    wide = x.detach().double().requires_grad_()
                    (want,) = torch.autograd.grad(softmax(wide, index, smoothing), wide)
                    error = ((got.double() - want).abs().amax(1) / want.abs().amax(1)).max().item()
                    bound = 2.0**-19 if dtype == torch.float32 else 2.0**-8
                    session.note("correct", name, [error, error <= bound])


def compositions_are_right(session: Session) -> None:
    """Losses without a kernel of their own: in ULP, and relative to the largest of a row."""
    for dtype in (torch.float32, torch.bfloat16):
        short = str(dtype).removeprefix("torch.")
        with session.trying(f"likelihood {short}"):
            # From sure to hopeless, evenly in the logarithm.
            n = torch.logspace(-6, 2, 2**16, base=10.0, device=session.device).to(dtype)
            n.requires_grad_()
            (slope,) = torch.autograd.grad(likelihood(n) * len(n), n)
            wide = n.detach().double()
            q = -torch.expm1(-wide)
            want = q * (q + 2 * wide * torch.exp(-wide))
            errors = {"slope": ulp(slope, want), "allowed": 8 if dtype == torch.float32 else 1}
            session.note("correct", f"likelihood {short}, gamma 2, ULP", errors)
        for shape in ((512, 1000), (2, 21, 64, 64)):
            name = f"softmax asymmetric {short} {shape}"
            with session.trying(name):
                x, index = classes(session.device, shape, dtype)
                (got,) = torch.autograd.grad(softmax_asymmetric(x, index), x)
                wide = x.detach().double().requires_grad_()
                (want,) = torch.autograd.grad(softmax_asymmetric(wide, index), wide)
                error = ((got.double() - want).abs().amax(1) / want.abs().amax(1)).max().item()
                bound = 2.0**-19 if dtype == torch.float32 else 2.0**-8
                session.note("correct", name, [error, error <= bound])


def the_device_is_not_waited_for(session: Session) -> None:
    """Under the mode that makes waiting an error; and both passes in a CUDA graph."""
    if session.device != "cuda":
        return
    for name, step, x in steps(session):
        with session.trying(f"no sync: {name}"):
            step()
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
            try:
                step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
            session.note("correct", f"no sync: {name}", True)
        with session.trying(f"CUDA graph: {name}"):
            session.note("correct", f"CUDA graph: {name}", replays(step, x))


def steps(session: Session) -> Iterator[tuple[str, Callable[[], None], Tensor]]:
    """Both passes of a few losses."""
    x, y = binary("cuda", 2**16, torch.float32)
    z, index = classes("cuda", (512, 1000), torch.float32)
    m, maps = classes("cuda", (2, 21, 64, 64), torch.bfloat16)
    mask = torch.rand_like(x) < 0.5
    yield "sigmoid mean", lambda: sigmoid(x, y).backward(), x
    yield "sigmoid mean, scaled", lambda: torch.mul(sigmoid(x, y), 1024).backward(), x
    yield "sigmoid none", lambda: sigmoid(x, y, reduction="none").sum().backward(), x
    masked = partial(parfocal.sigmoid_focal_loss, reduction="mean", mask=mask)
    yield "sigmoid masked", lambda: masked(x, y).backward(), x
    yield "softmax rows", lambda: softmax(z, index).backward(), z
    yield "softmax smoothed", lambda: softmax(z, index, 0.1).backward(), z
    yield "softmax maps", lambda: softmax(m, maps).backward(), m


def replays(step: Callable[[], None], x: Tensor) -> bool:
    """Whether a captured step, replayed on other logits, gives the gradient of a new one."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            x.grad = None
            step()
    torch.cuda.current_stream().wait_stream(stream)
    x.grad, graph = None, torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    with torch.no_grad():
        x.copy_(torch.randn_like(x))
    graph.replay()
    replayed, x.grad = x.grad.clone(), None  # type: ignore[union-attr]
    step()
    return torch.equal(replayed, x.grad)


def passes_are_right(session: Session) -> None:
    """The same total each time; an incoming gradient of 3, twice over one graph; other strides."""
    device = session.device
    x, y = binary(device, 2**20 if device == "cuda" else 2**12, torch.float32)
    session.note(
        "correct", "three totals alike", len({sigmoid(x, y).item() for _ in range(3)}) == 1
    )
    z, index = classes(device, (64, 100), torch.float32)
    for name, loss, data, leaf in (("sigmoid", sigmoid, y, x), ("softmax", softmax, index, z)):
        with session.trying(f"{name}: an incoming gradient of 3"):
            (once,) = torch.autograd.grad(loss(leaf, data), leaf)
            value, three = loss(leaf, data), torch.tensor(3.0, device=device)
            twice = [
                torch.autograd.grad(value, leaf, three, retain_graph=True)[0] for _ in range(2)
            ]
            alike = all(torch.allclose(g, 3 * once, rtol=2**-21, atol=1e-44) for g in twice)
            session.note("correct", f"{name}: an incoming gradient of 3, twice", alike)
    base = torch.randn(4, 32, 48, 21, device=device)
    index = torch.randint(0, 21, (4, 32, 48), device=device)
    one_hot = F.one_hot(index, 21).permute(0, 3, 1, 2).float()
    for name, loss, data in (("sigmoid", sigmoid, one_hot), ("softmax", softmax, index)):
        with session.trying(f"{name}: channels last"):
            views = base.permute(0, 3, 1, 2), base.permute(0, 3, 1, 2).contiguous()
            a, b = (
                torch.autograd.grad(loss(v, data), v)[0]
                for v in (view.detach().requires_grad_() for view in views)
            )
            alike = torch.allclose(a, b, rtol=2**-19, atol=0)
            session.note("correct", f"{name}: channels last as contiguous", alike)


def compiled_code_is_right(session: Session) -> None:
    """Under torch.compile: torch 2.11 gives zero gradients of some functions without a word."""
    for name, loss, (x, data) in (
        ("sigmoid", sigmoid, binary(session.device, 2**12, torch.float32)),
        ("softmax", softmax, classes(session.device, (64, 100), torch.float32)),
    ):
        with session.trying(f"{name} compiled"):
            (eager,) = torch.autograd.grad(loss(x, data), x)
            (other,) = torch.autograd.grad(compiled(loss)(x, data), x)
            alike = torch.allclose(eager, other, rtol=2**-18, atol=1e-30)
            session.note("correct", f"{name} compiled as eager", alike and bool(other.any()))


def more_than_int32(session: Session) -> None:
    """More logits than an int32 counts: their gradient in three places, as on the CPU."""
    n = session.size.beyond_int32
    x = torch.empty(n, device=session.device, dtype=torch.bfloat16).normal_(0, 4).requires_grad_()
    y = torch.empty(n, device=session.device, dtype=torch.uint8).random_(0, 2)
    sigmoid(x, y, reduction="sum").backward()
    for at in (0, n // 2, n - 4096):
        part = x.detach()[at : at + 4096].cpu().requires_grad_()
        sigmoid(part, y[at : at + 4096].cpu(), reduction="sum").backward()
        assert x.grad is not None
        assert part.grad is not None
        got, want = x.grad[at : at + 4096].cpu().float(), part.grad.float()
        alike = torch.allclose(got, want, rtol=2**-7, atol=1e-38)
        session.note("correct", f"{n} logits, from {at}", alike)
