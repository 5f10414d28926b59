"""Better codes than the likeliest ones, found at test time by judges of quality that need no gradient.

With one round this is best-of-N: codes are drawn where the network is unsure, and the best image is kept. Its distance
from what the network says is bounded, log N - (N-1)/N in Kullback-Leibler divergence (Stiennon et al., NeurIPS 2020,
arXiv:2009.01325). More rounds are the cross-entropy method (Rubinstein, 1999; smoothing as in de Boer et al., "A
Tutorial on the Cross-Entropy Method", Annals of Operations Research 134, 2005): the best quarter says where the next
round draws. Either way judges may be gamed (Gao et al., arXiv:2210.10760), so there must be two, and the likeliest
codes are always a candidate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from basicsr.codebooks import CodePrediction
from basicsr.errors import OptionError
from basicsr.iqa.ensemble_scorer import raw_scores
from basicsr.iqa.scorer import Scorer

NEEDED = ('predict', 'embed', 'render', 'book_sizes')


@dataclass(frozen=True)
class Sampling:
    """How codes are drawn.

    Attributes:
        top_k: Likeliest entries of a book that are drawn from, at every place.
        temperature: Below 1, likely entries are drawn more often than the network says.
        certain: Probability of the likeliest entry from which it is always taken.
        elite: Share of the candidates, the best ones, that the next round learns from.
        smoothing: How far the next round follows them; the rest stays as it was.

    Raises:
        OptionError: A value is out of its range.
    """

    top_k: int = 8
    temperature: float = 0.7
    certain: float = 0.6
    elite: float = 0.25
    smoothing: float = 0.7

    def __post_init__(self) -> None:
        shares = (self.certain, self.elite, self.smoothing)
        if self.top_k < 1 or self.temperature <= 0 or not all(0 < share <= 1 for share in shares):
            raise OptionError(
                f'Codes are drawn from at least 1 entry at a temperature above 0, with shares above 0 and up to 1, not '
                f'{self}.'
            )


@dataclass(frozen=True)
class Found:
    """What a search for one image came to.

    Attributes:
        image: (1,3,H,W), the best candidate.
        codes: (1,K,h,w), its codes.
        scores: Its scores (M,) by the judges, higher better, in their own units.
        greedy: The scores (M,) of the likeliest codes.
        changed: Share of the codes that are not the likeliest ones.
    """

    image: Tensor
    codes: Tensor
    scores: Tensor
    greedy: Tensor
    changed: float


@dataclass(frozen=True)
class _Candidate:
    choice: list[Tensor]  # for each book (h,w), the place among the likeliest entries; 0 is the likeliest
    scores: Tensor  # (M,)
    distance: Tensor  # (), mean absolute difference from the image of the likeliest codes


class CodeSearch(nn.Module):
    """Runs a predictor of codes and searches for better codes, image by image; a network to whoever runs it.

    Candidates are ranked by each judge, and the mean rank counts; of equals that wins which is nearest to the image of
    the likeliest codes. The same seed gives the same image, whatever else is in the batch. Run in tiles, each tile
    chooses for itself, and overlaps are blended: the result is not that of the whole image.

    Args:
        net: A predictor of codes (:mod:`basicsr.codebooks`), with its knobs as it stands.
        scorer: An ensemble of two judges or more, of which each ranks for itself, whatever its weight.
        candidates: Images that are judged a round, that of the likeliest codes among them.
        rounds: 1 draws once (best-of-N), more learn from the best of each round (cross-entropy method).
        seed: Of the draws.
        sampling: How codes are drawn.

    Raises:
        OptionError: The network predicts no codes, there are less than two judges, or a number is out of range.
    """

    prepare: ClassVar[None] = None  # codes are read off each tile by itself

    def __init__(
        self, net: nn.Module, scorer: Scorer, candidates: int = 8, rounds: int = 1, seed: int = 0,
        sampling: Sampling = Sampling(),
    ) -> None:  # fmt: skip
        super().__init__()
        check_predictor(net)
        if len(scorer.members()) < 2:
            raise OptionError(f'One judge alone is gamed: {scorer.name} must be an ensemble of two scorers or more.')
        if candidates < 2 or rounds < 1:
            raise OptionError(f'A search needs at least 2 candidates and 1 round, not {candidates} and {rounds}.')
        self.net, self.scorer, self.sampling = net, scorer, sampling
        self.candidates, self.rounds, self.seed = candidates, rounds, seed
        self.pad_mode = getattr(net, 'pad_mode', 'reflect')
        judges = scorer.members().values()
        self._signs = [1.0 if judge.calibration.high > judge.calibration.low else -1.0 for judge in judges]

    def describe(self) -> str:
        """What is done, in words."""
        judges = ' + '.join(self.scorer.members())
        rounds = f' in {self.rounds} rounds' if self.rounds > 1 else ''
        return f'best of {self.candidates}{rounds} by {judges}'

    def forward(self, inp: Tensor) -> Tensor:
        """The best images (N,3,H,W) found for degraded ones of that shape, in [0,1], not clipped.

        Raises:
            DataError: The images are not of a size that network and judges take.
        """
        return torch.cat([self.search(image[None]).image for image in inp])

    @torch.no_grad()
    def search(self, image: Tensor) -> Found:
        """Searches for the codes of one image (1,3,H,W).

        Raises:
            DataError: As :meth:`forward`.
        """
        task = _Task(self, image)
        greedy = task.judged(task.greedy())
        finalists, chances = [greedy], task.chances()
        for round_number in range(self.rounds):
            drawn = [task.judged(task.drawn(chances)) for _ in range(self.candidates - 1)]
            best = _ordered([greedy, *drawn])
            if self.rounds == 1:
                finalists = best[:1]
                break
            finalists.append(best[0])
            if round_number + 1 < self.rounds:
                elite = best[: math.ceil(self.sampling.elite * len(best))]
                chances = task.learned(chances, elite, self.sampling.smoothing)
        return task.found(_ordered(finalists)[0], greedy)


def check_predictor(net: nn.Module) -> None:
    """Makes sure that a network predicts codes.

    Raises:
        OptionError: It does not.
    """
    if not all(hasattr(net, name) for name in NEEDED) or not net.book_sizes:
        raise OptionError(f'{type(net).__name__} predicts no codes, so that none can be searched for.')


class _Task:
    """The search for one image: what its codes may be, and what they are worth."""

    def __init__(self, search: CodeSearch, image: Tensor) -> None:
        self.search, self.image = search, image
        net = search.net
        self.prediction: CodePrediction = net.predict(net.pad(image) if hasattr(net, 'pad') else image, net.score)
        likeliest = [logits[0].float().topk(min(search.sampling.top_k, logits.shape[1]), 0) for logits in self._logits]
        self.values = [values for values, _ in likeliest]
        self.entries = [entries for _, entries in likeliest]
        self.random = torch.Generator().manual_seed(search.seed)
        self.first = self.rendered(self.greedy())

    @property
    def _logits(self) -> tuple[Tensor, ...]:
        return self.prediction.logits

    def greedy(self) -> list[Tensor]:
        """The likeliest entry everywhere."""
        return [torch.zeros_like(entries[0]) for entries in self.entries]

    def chances(self) -> list[Tensor]:
        """For each book (k,h,w), how likely each of the likeliest entries is drawn; certain places have no choice."""
        sampling, found = self.search.sampling, []
        for logits, values in zip(self._logits, self.values):
            sure = logits[0].float().softmax(0).amax(0) >= sampling.certain
            first = torch.zeros_like(values)
            first[0] = 1
            found.append(torch.where(sure, first, (values / sampling.temperature).softmax(0)))
        return found

    def drawn(self, chances: Sequence[Tensor]) -> list[Tensor]:
        """Choices drawn by the Gumbel-max trick, from noise of the CPU: the same on every device."""
        found = []
        for chance in chances:
            noise = -torch.log(-torch.log(torch.rand(chance.shape, generator=self.random)))
            found.append((chance.log() + noise.to(chance.device)).argmax(0))
        return found

    def learned(self, chances: Sequence[Tensor], elite: Sequence[_Candidate], smoothing: float) -> list[Tensor]:
        """Chances that follow how often the best candidates made each choice."""
        found = []
        for book, chance in enumerate(chances):
            rows = torch.arange(len(chance), device=chance.device).view(-1, 1, 1)
            often = torch.stack([(rows == one.choice[book]).to(chance.dtype) for one in elite]).mean(0)
            found.append(smoothing * often + (1 - smoothing) * chance)
        return found

    def codes(self, choice: Sequence[Tensor]) -> Tensor:
        """Codes (1,K,h,w) of a choice."""
        return torch.stack([e.gather(0, c[None])[0] for e, c in zip(self.entries, choice)])[None]

    def rendered(self, choice: Sequence[Tensor]) -> Tensor:
        """The image (1,3,H,W) of a choice."""
        net = self.search.net
        image = net.render(net.embed(self.codes(choice)), self.prediction)
        return image[..., : self.image.shape[-2], : self.image.shape[-1]]

    def judged(self, choice: list[Tensor]) -> _Candidate:
        """A choice with its scores, higher better, and its distance from the likeliest."""
        image = self.rendered(choice)
        return _Candidate(choice, self._scores(image), (image - self.first).abs().mean())

    def _scores(self, image: Tensor) -> Tensor:
        search = self.search
        with torch.autocast(image.device.type, enabled=False):
            raw = raw_scores(search.scorer, image.float().clamp(0, 1), self.image.float().clamp(0, 1))
        scores = [sign * value[0].float() for sign, value in zip(search._signs, raw.values())]
        return torch.stack(scores).nan_to_num(nan=-math.inf)

    def found(self, best: _Candidate, greedy: _Candidate) -> Found:
        """The result, rendered once more: images of candidates are not kept."""
        changed = torch.stack([(choice > 0).float().mean() for choice in best.choice]).mean()
        return Found(self.rendered(best.choice), self.codes(best.choice), best.scores, greedy.scores, float(changed))


def _ordered(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """The candidates, the best one first."""
    ranks = mean_ranks(torch.stack([one.scores for one in candidates])).tolist()
    keys = [(rank, float(one.distance), number) for number, (rank, one) in enumerate(zip(ranks, candidates))]
    return [candidates[number] for *_, number in sorted(keys)]


def mean_ranks(scores: Tensor) -> Tensor:
    """Mean rank (N,) of candidates over judges, 0 the best, from scores (N,M), higher better; equals share ranks."""
    better = (scores[None] > scores[:, None]).float().sum(1)
    equal = (scores[None] == scores[:, None]).float().sum(1) - 1
    return (better + equal / 2).mean(1)
