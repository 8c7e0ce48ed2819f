"""Where models run: engines, the catalogue that brings their weights, and the entry points that open them."""
