"""Dagster: assets, checks, partitions, jobs, schedules, sensors, resources and IO managers. No other room imports Dagster.

A code location must load quickly, so functions import slow modules (Arrow, SQLAlchemy, and modules that need them)
when they are called.
"""
