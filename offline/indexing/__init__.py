"""From a catalogue to a bundle: tokens, embeddings, states, index, gates."""
