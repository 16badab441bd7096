"""Views of tables, of settings and of differences."""

import pytest

from vit_jax_repro.paper import differences, facts, listings, table

pytestmark = pytest.mark.quick


def test_all_tables_shows_counts_and_titles():
  found = [table.named('ViT Table 5'), table.named('ViT Table 6')]
  view = listings.all_tables(found, [facts.named('ViT Table 3')])
  numbers, settings = view.sections
  assert numbers.text[0] == (
    '192 numbers: 8 by evaluating a released file, 22 by fine-tuning one, 162 '
    'not checkable.'
  )
  assert numbers.rows[1] == (
    'ViT Table 6', '108', '', '', '108',
    'ViT, ResNets and hybrids by compute of pre-training on JFT-300M',
  )  # fmt: skip
  assert settings.rows == (('ViT Table 3', '13', 'Recipes of pre-training'),)
  assert [record['table'] for record in view.records] == [
    'ViT Table 5', 'ViT Table 6', 'ViT Table 3',
  ]  # fmt: skip
  assert len({tuple(record) for record in view.records}) == 1
  assert view.records[0]['checkable-finetune'] == 22


def test_all_tables_omits_an_empty_section():
  view = listings.all_tables([], [facts.named('ViT Table 3')])
  assert [section.title for section in view.sections] == ['Sizes and settings']


def test_settings_show_every_cell():
  found = facts.named('ViT Table 4')
  view = listings.settings(found)
  shown = '\n'.join(
    text
    for section in view.sections
    for text in (*section.text, *(cell for row in section.rows for cell in row))
  )
  for row in found.rows:
    for column, cell in row.items():
      assert cell in shown or column == 'table'
  assert view.records == found.rows
  head, *_ = view.sections
  assert head.title == 'ViT Table 4: Recipes of fine-tuning'
  assert 'batch_size: 512; optimizer: SGD momentum' in head.text[0]


def test_settings_fit_the_width():
  view = listings.settings(facts.named('Model sizes'))
  tables = [section for section in view.sections if any(section.columns)]
  assert len(tables) > 1
  for section in tables:
    widths = [
      max(
        *(len(row[i]) for row in section.rows),
        *map(len, section.columns[i].split() or ['']),
      )
      for i in range(len(section.columns))
    ]
    assert sum(widths) + 3 * (len(widths) - 1) <= 96


def test_all_differences_are_grouped_by_topic():
  found = differences.select('VTAB')
  view = listings.all_differences(found)
  assert [section.title for section in view.sections[1:]] == [
    'Fine-tuning', 'Evaluation', 'Published numbers',
  ]  # fmt: skip
  assert view.sections[0].text[0].startswith('pvc-01 to pvc-80 name places')
  assert view.sections[3].text[0] == (
    'pvc-60: BiT-M R152x4 VTAB-1k (BiT results)\n'
    '  BiT paper: Table 2: 70.64.\n'
    '  big_transfer: the README, which repeated it: 73.51.\n'
    '  What to do: compare the released VTAB files with 73.51.\n'
    '  Affects: numbers on VTAB.\n'
  )
  assert view.records[0]['handling'].startswith('take the settings of')
  _, open_one = listings.all_differences(differences.select('pvc-80')).sections
  assert open_one.text[0].startswith(
    'pvc-80: 384 pixels with patches of 14 (evaluation, '
  )


def test_all_differences_have_a_topic_and_their_sources():
  found = differences.all_differences()
  _, *sections = listings.all_differences(found).sections
  texts = [text for section in sections for text in section.text]
  assert sorted(text[:6] for text in texts) == [each.id for each in found]
  for each in found:
    (text,) = (text for text in texts if text.startswith(each.id))
    assert each.second in text and ': -' not in text and '..' not in text
