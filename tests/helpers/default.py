"""The default parameters, wherever they are: params.yaml may hold another recipe."""

from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PARAMS = next(path for path in (REPO / "params.default.yaml", REPO / "params.yaml") if path.is_file())
