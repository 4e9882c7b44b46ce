"""What steps are given besides events: resources that factories make, and configuration that is read from files.

This package is the vocabulary: the markers that annotations bear, the graph of what depends on what, and the checks of
it. It runs no factory and knows no threads; `greenroom.actors.resources` opens and closes. docs/resources.md tells
how to use it.
"""

from __future__ import annotations

from greenroom.resources.dependencies import Dependency, DependencyReader, find_marker
from greenroom.resources.manager import ResourceManager
from greenroom.resources.markers import Resource, ResourceConfig, Scope, function_of

__all__ = [
    "Dependency",
    "DependencyReader",
    "Resource",
    "ResourceConfig",
    "ResourceManager",
    "Scope",
    "find_marker",
    "function_of",
]
