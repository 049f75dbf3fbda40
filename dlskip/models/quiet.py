"""Keeps PEFT from remarks, as it is loaded, about what a user of dlskip can do nothing about. Import it before PEFT."""

import logging
import warnings

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # a kernel that nothing here needs
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # PEFT's use of it
