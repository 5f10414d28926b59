"""Mean teachers that judge pseudo-labels and keep the best of each image: what Colabator and QualiTeacher share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from basicsr.errors import DataError, OptionError
from basicsr.iqa.scorer import Scorer
from basicsr.views import VIEWS

from .base_model import Batch
from .followers import Followers
from .label_bank import LabelBank, Labels
from .label_judge import DualGate, Judge
from .mean_teacher_model import MeanTeacherModel

HISTOGRAM = 10  # bins of the signal ``label_scores``, each 0.1 wide


class BankedTeacher(Followers, MeanTeacherModel):
    """A mean teacher with a judge and a bank. A descendant calls :meth:`set_up` at the end of its constructor."""

    judge: Judge
    bank: LabelBank
    gate: DualGate | None
    views: list[str]

    def set_up(
        self, judge: Judge, bank: LabelBank, views: list[str] | None = None, gate: DualGate | None = None
    ) -> None:
        """Gives the method its parts.

        Args:
            judge: Scores pseudo-labels.
            bank: Keeps them.
            views: Names of the views that the teacher sees; None: the image as it is.
            gate: Refuses pseudo-labels.

        Raises:
            OptionError: A view is not known, or there is none.
        """
        self.judge, self.bank, self.gate = judge, bank, gate
        self.views = ['identity'] if views is None else list(views)
        unknown = [v for v in self.views if v not in VIEWS]
        if unknown or not self.views:
            raise OptionError(f'views: {unknown or "an empty list"}; allowed are {", ".join(VIEWS)}.')

    def pseudo_labels(self, weak: Tensor, batch: Batch) -> tuple[Labels, dict[str, Tensor]]:
        """New labels are judged, gated and offered to the bank; what the bank then holds is taught."""
        labels = self.judge.labels(self.candidates(weak, batch), batch['real'])
        told = {'teacher_score': labels.scores.mean()}
        if self.gate is not None:
            labels, refused = self.gate(labels)
            told['gated'] = refused.float().mean()
        labels = self.keep(labels, batch)
        return labels, {**told, **told_of(labels)}

    def candidates(self, weak: Tensor, batch: Batch) -> Tensor:
        """New labels (B,V,3,H,W): what the teacher makes of each view."""
        return self.teach(weak, [VIEWS[v] for v in self.views])

    def keep(self, labels: Labels, batch: Batch) -> Labels:
        """Offers labels to the bank and returns what it holds of these images.

        Raises:
            DataError: The data set does not name its real images.
        """
        if 'real_key' not in batch:
            raise DataError(f'{type(self).__name__}: the data set names no real_key; train with SemiDataset.')
        return self.bank.update(batch['real_key'], labels, batch.get('real_box'))

    def scorers(self) -> list[Scorer]:
        """All judges."""
        return [self.judge.scorer]

    def followers(self) -> list[nn.Module]:
        """All judges, which follow the method to its device but are no part of its weights."""
        return [*self.scorers()]

    def extra_state(self) -> dict[str, Any]:
        """The bank, and what the gate has seen."""
        state = {'bank': self.bank.state_dict()}
        return state if self.gate is None else {**state, 'gate': self.gate.state_dict()}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`extra_state` gave."""
        self.bank.load_state_dict(state['bank'])
        if self.gate is not None:
            self.gate.load_state_dict(state['gate'])


def told_of(labels: Labels) -> dict[str, Tensor]:
    """Signals of the labels that are taught: mean score, share of images that have one, histogram of scores."""
    scores, valid = labels.scores, labels.valid
    bins = (scores.nan_to_num(0) * HISTOGRAM).floor().clamp(0, HISTOGRAM - 1).long()
    counts = torch.zeros(HISTOGRAM, device=scores.device).index_add_(0, bins.flatten(), valid.flatten().float())
    total = counts.sum()
    return {
        'label_score': torch.where(valid, scores, torch.nan).nanmean(),
        'labelled': valid.any(1).float().mean(),
        'label_scores': torch.where(total > 0, counts / total, torch.nan),
    }
