"""What goes over the wire; strict, so that ``"k": "10"`` and unknown fields are mistakes and not guesses."""
