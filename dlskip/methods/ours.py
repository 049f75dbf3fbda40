"""Our method: trained controllers choose the layers of every sample and token."""

from __future__ import annotations

from dlskip.methods.learned import Learned

TITLE = "Ours"

METHOD = Learned("ours")
