"""How much it carries."""
