"""Tests of the orchestration room: a real Dagster, a real sandbox over HTTP, real Parquet."""
