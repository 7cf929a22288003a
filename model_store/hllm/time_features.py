"""When something happened, as an embedding: six tables, concatenated, through an MLP (HLLM, appendix).

Each event's calendar fields (UTC) are looked up, and the result is summed onto the item embedding before the
User LLM.
"""

import torch
from torch import nn

_TABLE_ROWS = (2100, 13, 32, 24, 60, 60)  # year, month, day, hour, minute, second
_SECONDS_PER_DAY = 86_400
_MAX_SECONDS = 4_102_444_799  # 2099-12-31T23:59:59Z, the last second that the year table knows
_MIN_SECONDS = -62_135_596_800  # 0001-01-01T00:00:00Z


def calendar_fields(timestamps: torch.Tensor) -> torch.Tensor:
    """Splits timestamps into UTC calendar fields, in integer arithmetic on any device.

    Args:
        timestamps: (...) int64, seconds since 1970; clamped to the years 1 to 2099.

    Returns:
        (..., 6) int64: year, month 1-12, day 1-31, hour, minute, second.
    """
    seconds = timestamps.clamp(_MIN_SECONDS, _MAX_SECONDS)
    days = seconds.div(_SECONDS_PER_DAY, rounding_mode="floor")
    second_of_day = seconds - days * _SECONDS_PER_DAY
    # Howard Hinnant's civil_from_days: years begin in March, so the leap day comes last; eras are 400 years
    shifted = days + 719_468
    era = shifted.div(146_097, rounding_mode="floor")
    day_of_era = shifted - era * 146_097
    year_of_era = (day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted_month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted_month + 2) // 5 + 1
    month = torch.where(shifted_month < 10, shifted_month + 3, shifted_month - 9)
    year = year_of_era + era * 400 + (month <= 2).to(torch.int64)
    clock = (second_of_day // 3_600, second_of_day // 60 % 60, second_of_day % 60)
    return torch.stack((year, month, day, *clock), dim=-1)


class TimeFeatures(nn.Module):
    """Timestamps to vectors of the item embedding's size.

    The paper's tables are a quarter of the model's width; so are these. The last layer starts at zero, so
    that training starts from the model without time (our choice: the paper does not say).

    Args:
        embedding_dim: Size of the result.
    """

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        width = max(8, embedding_dim // 4)
        tables = [nn.Embedding(rows, width) for rows in _TABLE_ROWS]
        self.hidden = nn.Linear(width * len(_TABLE_ROWS), embedding_dim)
        self.output = nn.Linear(embedding_dim, embedding_dim)
        for table in tables:
            nn.init.normal_(table.weight, std=0.02)
        self.tables = nn.ModuleList(tables)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, timestamps: torch.Tensor) -> torch.Tensor:
        """(B, L) int64 seconds to (B, L, D)."""
        fields = calendar_fields(timestamps)
        looked_up = [table(fields[..., column]) for column, table in enumerate(self.tables)]
        result: torch.Tensor = self.output(nn.functional.silu(self.hidden(torch.cat(looked_up, dim=-1))))
        return result
