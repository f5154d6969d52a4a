"""The sentence encoder of the caption lens, and the BERT that it is made of."""

__all__ = ["bert", "encoder"]
