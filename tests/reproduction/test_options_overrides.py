import pytest

from vit_jax_repro.reproduction import options

pytestmark = pytest.mark.quick


def test_values_are_literals_or_texts():
  text = 'batch=128,pp.crop=224,base_lr=1e-3,model.scan=True,optim=sgd'
  assert options.parse_overrides(text) == {
    'batch': 128, 'pp.crop': 224, 'base_lr': 0.001, 'model.scan': True,
    'optim': 'sgd',
  }  # fmt: skip
  assert options.parse_overrides(None) == options.parse_overrides('') == {}


def test_commas_in_brackets_belong_to_a_value():
  text = 'decay_steps=(1,2),pp.crop=[3, (4,5)],pp.train=train[:9]+test, batch=1'
  assert options.parse_overrides(text) == {
    'decay_steps': (1, 2), 'pp.crop': [3, (4, 5)],
    'pp.train': 'train[:9]+test', 'batch': 1,
  }  # fmt: skip


def test_settings_are_set():
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


def test_a_setting_comes_once():
  with pytest.raises(ValueError, match="'batch' is given twice"):
    options.parse_overrides('batch=1,batch=2')


@pytest.mark.parametrize('text', ['batch', 'batch=', '=3', 'a=1,,b=2'])
def test_what_is_no_setting_is_refused(text):
  with pytest.raises(ValueError, match='is not KEY=VALUE'):
    options.parse_overrides(text)
