import subprocess
import sys

SCRIPT = """
from vit_jax_repro.data.tf_host import tensorflow
tf = tensorflow()
assert tensorflow() is tf
assert {d.device_type for d in tf.config.get_visible_devices()} == {'CPU'}
tf.zeros(1)
"""


def test_tensorflow_sees_only_the_cpu_and_prints_nothing():
  done = subprocess.run(
    [sys.executable, '-c', SCRIPT], capture_output=True, text=True, check=False
  )
  assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
