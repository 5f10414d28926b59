"""IAT, the Illumination Adaptive Transformer in its 90K form (Cui et al., BMVC 2022).

A local branch finds a factor and an offset for each pixel; a global branch asks ten learned questions of the image and
answers with a gamma and a 3 x 3 colour matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, BLOCKS = 16, 3
GLOBAL, HEADS, QUESTIONS = 64, 4, 10
DARKEST = 1e-8  # least value that gamma is applied to


class _ColourNorm(nn.Module):
    """Mixes the channels by a matrix, then scales and shifts each."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, 1, WIDTH))
        self.beta = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.color = nn.Parameter(torch.eye(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.color[..., None, None]) * self.alpha.view(-1, 1, 1) + self.beta.view(-1, 1, 1)


class _Mlp(nn.Module):
    """Two layers with GELU between."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.fc1, self.fc2 = first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _LocalBlock(nn.Module):
    """Position by a depthwise convolution, mixing by another, then an MLP of 1 x 1 convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma_1 = nn.Parameter(torch.ones(1, WIDTH, 1, 1))
        self.gamma_2 = nn.Parameter(torch.ones(1, WIDTH, 1, 1))
        self.pos_embed = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        self.norm1, self.norm2 = _ColourNorm(), _ColourNorm()
        self.conv1, self.conv2 = nn.Conv2d(WIDTH, WIDTH, 1), nn.Conv2d(WIDTH, WIDTH, 1)
        self.attn = nn.Conv2d(WIDTH, WIDTH, 5, padding=2, groups=WIDTH)
        self.mlp = _Mlp(nn.Conv2d(WIDTH, 4 * WIDTH, 1), nn.Conv2d(4 * WIDTH, WIDTH, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        x = x + self.gamma_1 * self.conv2(self.attn(self.conv1(self.norm1(x))))
        return x + self.gamma_2 * self.mlp(self.norm2(x))


class _Local(nn.Module):
    """Factor and offset of each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.mul_blocks = nn.Sequential(*(_LocalBlock() for _ in range(BLOCKS)))
        self.add_blocks = nn.Sequential(*(_LocalBlock() for _ in range(BLOCKS)))
        self.mul_end = nn.Sequential(nn.Conv2d(WIDTH, 3, 3, padding=1), nn.ReLU())
        self.add_end = nn.Sequential(nn.Conv2d(WIDTH, 3, 3, padding=1), nn.Tanh())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = F.leaky_relu(self.conv1(image), 0.2)
        return self.mul_end(self.mul_blocks(x) + x), self.add_end(self.add_blocks(x) + x)


class _Questions(nn.Module):
    """Attention of learned questions to the image."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Parameter(torch.ones(1, QUESTIONS, GLOBAL))
        self.k, self.v = nn.Linear(GLOBAL, GLOBAL, bias=False), nn.Linear(GLOBAL, GLOBAL, bias=False)
        self.proj = nn.Linear(GLOBAL, GLOBAL)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._heads(t) for t in (self.q.expand(len(x), -1, -1), self.k(x), self.v(x)))
        found = F.scaled_dot_product_attention(q, k, v)
        return self.proj(found.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (HEADS, GLOBAL // HEADS)).transpose(1, 2)


class _GlobalBlock(nn.Module):
    """The transformer block of the global branch: tokens (N,64,H,W) in, answers (N,10,64) out."""

    def __init__(self) -> None:
        super().__init__()
        self.pos_embed = nn.Conv2d(GLOBAL, GLOBAL, 3, padding=1, groups=GLOBAL)
        self.norm1, self.norm2 = nn.LayerNorm(GLOBAL), nn.LayerNorm(GLOBAL)
        self.attn = _Questions()
        self.mlp = _Mlp(nn.Linear(GLOBAL, 4 * GLOBAL), nn.Linear(4 * GLOBAL, GLOBAL))

    def forward(self, x: Tensor) -> Tensor:
        tokens = (x + self.pos_embed(x)).flatten(2).transpose(1, 2)
        answers = self.attn(self.norm1(tokens))
        return answers + self.mlp(self.norm2(answers))


class _Embedding(nn.Module):
    """A quarter of the size, 64 channels."""

    def __init__(self) -> None:
        super().__init__()
        half = GLOBAL // 2
        first = [nn.Conv2d(3, half, 3, 2, 1), nn.BatchNorm2d(half), nn.GELU()]
        self.proj = nn.Sequential(*first, nn.Conv2d(half, GLOBAL, 3, 2, 1), nn.BatchNorm2d(GLOBAL))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class _Global(nn.Module):
    """Gamma (N,1) and colour matrix (N,3,3)."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma_base, self.color_base = nn.Parameter(torch.ones(1)), nn.Parameter(torch.eye(3))
        self.conv_large, self.generator = _Embedding(), _GlobalBlock()
        self.gamma_linear, self.color_linear = nn.Linear(GLOBAL, 1), nn.Linear(GLOBAL, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        answers = self.generator(self.conv_large(image))
        gamma = self.gamma_linear(answers[:, 0]) + self.gamma_base
        colour = self.color_linear(answers[:, 1:]).view(-1, 3, 3) + self.color_base
        return gamma, colour


class IAT(nn.Module):
    """Both branches: ``(matrix (x * factor + offset)) ** gamma``."""

    def __init__(self) -> None:
        super().__init__()
        self.local_net, self.global_net = _Local(), _Global()

    def forward(self, image: Tensor) -> Tensor:
        """Restores (N,3,H,W) in [0,1]."""
        factor, offset = self.local_net(image)
        gamma, colour = self.global_net(image)
        mixed = torch.einsum('nij,njhw->nihw', colour, image * factor + offset)
        return mixed.clamp(DARKEST, 1) ** gamma[..., None, None]
