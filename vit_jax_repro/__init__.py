"""The Vision Transformer paper and its baselines, in JAX and Flax.

The rooms are imported one by one: `from vit_jax_repro import models`.
"""

__version__ = '0.1.0'
