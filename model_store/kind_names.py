"""The names of the kinds of model, for whoever reads settings and has no use for torch; ``kinds.py`` has the table."""

from typing import Literal

Kind = Literal["hllm", "hatllm", "blend"]
