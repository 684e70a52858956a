"""The recipe of the pocket world: one tokenizer and the small models that are trained from scratch with it."""
