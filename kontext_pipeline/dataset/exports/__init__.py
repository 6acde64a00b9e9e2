"""Exports of the dataset: the layouts that trainers and readers of datasets take, written from samples and pictures."""
