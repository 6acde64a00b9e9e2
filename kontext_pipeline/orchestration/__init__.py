"""Dagster: assets, checks, partitions, jobs, schedules, sensors, resources and IO managers. No other room imports it.

Loading a code location must be quick, so what is slow to import (Arrow, SQLAlchemy and what needs them) is
imported by the functions that use it.
"""
