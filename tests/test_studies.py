"""The transfer study at its smallest."""

import copy
import json

from vit_jax_repro import jobs, recipes, studies
from vit_jax_repro.runs import configuration

MODEL = recipes.QUICKSTART_MODEL | dict(
  hidden_size=16,
  transformer=dict(num_layers=1, mlp_dim=16, num_heads=2),
)
SHORT = dict(total_steps=3, warmup_steps=1, batch=8, eval_every=0)


def recipe(dataset, **changes):
  made = copy.deepcopy(recipes.QUICKSTART) | dict(dataset=dataset) | changes
  made['pp'] |= dict(train='few')
  return configuration.create(made | SHORT, MODEL).to_dict()


def test_each_side_has_its_better_rate_and_every_seed(tmp_path):
  config = dict(
    pretrain=recipe('digits/0-4'),
    finetune=recipe('digits/5-9'),
    held_out='held_out',
    seeds=[0, 1],
    base_lrs=[0.001, 0.01],
  )
  sides = studies.transfer(config, tmp_path)
  assert [side.name for side in sides] == ['pre-trained', 'from scratch']
  for side, folder in zip(sides, ('transfer', 'scratch'), strict=True):
    assert side.base_lr in (0.001, 0.01) and len(side.accuracies) == 2
    for seed, accuracy in enumerate(side.accuracies):
      model = tmp_path / folder / f'lr_{side.base_lr}' / f'seed_{seed}'
      # The choice was made on the held-out images, the result on the others.
      again = jobs.evaluate(model / 'model.npz', 'digits/5-9')
      assert again.accuracy == accuracy
      chosen_on = json.loads((model / 'config.json').read_text())['pp']['test']
      assert chosen_on == 'held_out'
  written = json.loads((tmp_path / 'transfer.json').read_text())
  assert written[0]['mean'] == sides[0].mean
