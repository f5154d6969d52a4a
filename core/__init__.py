"""What a search is: images, captions, embeddings, indexes, galleries. Imports nothing heavy."""
