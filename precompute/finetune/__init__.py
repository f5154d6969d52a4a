"""What a user tunes: captioners and CLIP models."""
