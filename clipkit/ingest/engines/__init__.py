"""Engines map the making of parts over chunks, here, on a cluster, or with another tool."""
