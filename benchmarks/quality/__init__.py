"""How well the product recommends, beside baselines, on one dataset."""
