"""The items: their ids, attributes, texts, tokens and states."""
