"""From rows to what can be said: estimates with their uncertainty, comparisons, pages and plots."""
