"""Recipes of the pocket models: one tokenizer and the small models that are trained from scratch with it."""
