"""Releases: the contract of a dataset, the release folders of datasets and models, and their upload to the Hugging Face hub."""
