"""Sets the environment for compiling programs for hardware that is not here."""

import os

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
