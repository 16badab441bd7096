import pytest

from vit_jax_repro.reproduction import options

pytestmark = pytest.mark.quick


def test_parse_overrides_reads_literals_and_texts():
  text = 'batch=128,pp.crop=224,base_lr=1e-3,model.scan=True,optim=sgd'
  assert options.parse_overrides(text) == {
    'batch': 128, 'pp.crop': 224, 'base_lr': 0.001, 'model.scan': True,
    'optim': 'sgd',
  }  # fmt: skip
  assert options.parse_overrides(None) == options.parse_overrides('') == {}


def test_parse_overrides_keeps_commas_inside_brackets():
  text = 'decay_steps=(1,2),pp.crop=[3, (4,5)],pp.train=train[:9]+test, batch=1'
  assert options.parse_overrides(text) == {
    'decay_steps': (1, 2), 'pp.crop': [3, (4, 5)],
    'pp.train': 'train[:9]+test', 'batch': 1,
  }  # fmt: skip


def test_apply_overrides_sets_nested_settings():
  config = {'batch': 1, 'pp': {'crop': 2, 'train': 'a'}}
  options.apply_overrides(config, {'batch': 3, 'pp.crop': (4, 5)})
  assert config == {'batch': 3, 'pp': {'crop': (4, 5), 'train': 'a'}}
  for key, says in (
    ('bach', "unknown setting 'bach'; settings are"),
    ('batch.x', "unknown setting 'batch.x'"),
    ('pp.batch', "unknown setting 'pp.batch'"),
    ('pp', "setting 'pp' is a group; set one of pp.crop, pp.train"),
  ):
    with pytest.raises(ValueError, match=says):
      options.apply_overrides(config, {key: 1})


def test_parse_overrides_refuses_a_repeated_setting():
  with pytest.raises(ValueError, match="'batch' is given twice"):
    options.parse_overrides('batch=1,batch=2')


@pytest.mark.parametrize('text', ['batch', 'batch=', '=3', 'a=1,,b=2'])
def test_parse_overrides_refuses_other_forms(text):
  with pytest.raises(ValueError, match='is not KEY=VALUE'):
    options.parse_overrides(text)
