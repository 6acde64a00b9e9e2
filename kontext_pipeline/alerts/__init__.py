"""Alerts: what is told at `KONTEXT_ALERT_URL`, once each, over all processes on a ledger.

The ledger remembers each alert before it is sent. So of several processes one sends it, and an alert that could not be
sent is sent by a later run.
"""
