"""What several tabs share: cards, markup, states, the search box, the galleries served."""
