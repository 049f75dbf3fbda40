"""Backbones: loading them, tuning their weights, and the folder in which a trained one is stored."""

import logging
import warnings

# What libraries say about each other when PEFT is loaded, and a user can do nothing about.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # a kernel that nothing here needs
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # PEFT's use of it
