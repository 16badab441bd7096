import pytest

from vit_jax_repro.reproduction import overrides

pytestmark = pytest.mark.quick


def test_values_are_literals_or_texts():
  text = 'batch=128,pp.crop=224,base_lr=1e-3,model.scan=True,optim=sgd'
  assert overrides.parse(text) == {
    'batch': 128, 'pp.crop': 224, 'base_lr': 0.001, 'model.scan': True,
    'optim': 'sgd',
  }  # fmt: skip
  assert overrides.parse(None) == overrides.parse('') == {}


@pytest.mark.parametrize('text', ['batch', 'batch=', '=3', 'a=1,,b=2'])
def test_what_is_no_setting_is_refused(text):
  with pytest.raises(ValueError, match='is not KEY=VALUE'):
    overrides.parse(text)
