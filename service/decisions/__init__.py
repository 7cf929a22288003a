"""What an answer was made of: recorded, kept, shown and replayed."""
