"""Greenroom: an actor-model workflow engine."""
