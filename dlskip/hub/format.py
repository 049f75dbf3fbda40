"""The files of a saved folder, and its configuration: read, checked and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from dlskip import __version__, files
from dlskip.config.sections import Price, Prices, Section
from dlskip.errors import DlskipError, offences
from dlskip.models.artifact import ADAPTERS
from dlskip.models.tuning import ALL_WEIGHTS
from dlskip.skip import Threshold
from dlskip.skip.policy import BatchPolicy

CONFIG = "dlskip_config.json"
LORA = "adapter_model.safetensors"
LORA_CONFIG = "adapter_config.json"
LORA_FOLDER = "lora"
_LORA_FILES = (LORA, LORA_CONFIG)  # beside the others in folders of earlier versions
FILES = (CONFIG, ADAPTERS, ALL_WEIGHTS, *_LORA_FILES, *(f"{LORA_FOLDER}/{name}" for name in _LORA_FILES))
_DIAL = TypeAdapter(list[tuple[float, float]])  # shares of layers run, and the settings that gave them


class ReleaseConfig(Section):
    """``dlskip_config.json``."""

    format_version: Literal[1] = 1
    dlskip_version: str = __version__
    base_model: str = Field(description="hub id, a packaged model's name, or absolute path of a folder")
    base_revision: str | None = Field(None, description="hub commit of the base model, or SHA-256 of the packaged file")
    layers: int = Field(ge=3, description="L")
    bottleneck: int = Field(ge=1, description="r of the adapters")
    controller_reads: Literal["input", "output"]
    kv_fill: Literal["copy", "project"]
    prices: Prices | None = Field(None, description="range of prices trained for")
    threshold: float = Field(0.5, ge=0, le=1)
    price: Price | None = Field(None, description="of a layer; null: the middle of the range")
    batch_policy: BatchPolicy = "per_sample"
    calibration: dict[str, Any] = Field({}, description="how the threshold that it names was chosen")

    @classmethod
    def of(cls, values: dict[str, Any], where: str, mend: str | None = None) -> ReleaseConfig:
        """Checks values that come from ``where``.

        Raises:
            DlskipError: A key is missing or unknown, a value out of its range, or the format's version another.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise DlskipError(offences(error, cls.model_fields), where=where, mend=mend) from error

    def override(self, **given: Any) -> ReleaseConfig:
        """The same with those arguments that are not None, checked as in ``of``."""
        chosen = {name: value for name, value in given.items() if value is not None}
        return self.of(self.model_dump() | chosen, "from_pretrained")

    def at(self, budget: float) -> ReleaseConfig:
        """The same with the stored setting whose measured share of layers run is nearest to ``budget`` from below.

        Raises:
            DlskipError: None was measured, or none runs so few.
        """
        try:
            dial = _DIAL.validate_python(self.calibration.get("dial", []))
        except ValidationError as error:
            raise DlskipError("calibration.dial: no list of pairs of numbers", where=CONFIG, mend="calibrate again"
                              ) from error  # fmt: skip
        if not dial:
            raise DlskipError(
                "no measurements are stored", where="budget", mend="dlskip calibrate --layers-run ... --save"
            )
        within = [(run, setting) for setting, run in dial if run <= budget + 1e-9]
        if not within:
            raise DlskipError(f"the least that was measured is {min(run for _, run in dial):.3f}", where="budget")
        setting = max(within)[1]
        return self.override(threshold=0.5, price=setting) if self.prices else self.override(threshold=setting)

    def policy(self) -> Threshold:
        """Who decides."""
        return Threshold(self.threshold, self.batch_policy, price=self.price)

    def write(self, folder: Path) -> None:
        """Writes it into a folder."""
        files.write_text(folder / CONFIG, self.model_dump_json(indent=1) + "\n")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU; copied, not memory-mapped, as the file may be saved over.

    Raises:
        DlskipError: The file is missing or broken.
    """
    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise DlskipError(f"cannot be read: {error}", where=str(path)) from error
