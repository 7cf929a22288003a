"""A request as one story: history, encode, retrieve, constrain, rank, fill; knows neither HTTP nor Redis."""
