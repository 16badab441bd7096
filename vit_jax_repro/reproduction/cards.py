"""A reproducibility card as something to show."""

from vit_jax_repro.paper.sections import Section, View
from vit_jax_repro.runs.card import FACTORS, Card


def view(card: Card) -> View:
  """View of a card: how much is documented, then each variable."""
  counts = {factor: card.score(factor) for factor in FACTORS}
  scores = (f'{name} {found} of {n}' for name, (found, n) in counts.items())
  section = Section(
    f'Reproducibility card: {card.title}',
    (f'Variables documented: {", ".join(scores)}.',),
    ('variable', 'factor', 'answer', 'where'),
    tuple((v.name, v.factor, v.answer, v.where) for v in card.variables),
  )
  records = tuple(
    {
      'factor': v.factor,
      'variable': v.name,
      'answer': v.answer,
      'where': v.where,
      'documented': v.documented,
    }
    for v in card.variables
  )
  return View((section,), records)
