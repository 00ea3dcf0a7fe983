"""Contracts are tests in a package: have their asserts shown as those of any test."""

import pytest

pytest.register_assert_rewrite("choreo.testing.contracts")
