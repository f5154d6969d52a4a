"""A gallery on disk: its layout, manifest, records, embeddings and indexes; read and written."""
