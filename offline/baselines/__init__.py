"""What a model is measured against: small systems trained on the same interactions."""
