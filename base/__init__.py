"""What every folder may use: files on fsspec URLs, errors a person can mend, settings, compiled kernels."""

import os

VERSION = "0.2.0"
"""Of piledriver; pyproject.toml has it from here."""

NUMBA_LOCATORS = "base.compiled.ByContent,UserProvidedCacheLocator,InTreeCacheLocator,UserWideCacheLocator"
"""Where numba looks for a place for compiled kernels, one after the other."""

os.environ.setdefault("NUMBA_CACHE_LOCATOR_CLASSES", NUMBA_LOCATORS)  # numba reads it when it is imported
