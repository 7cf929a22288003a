"""A blend: several models whose weighted cosines are one score, served as one bundle."""
