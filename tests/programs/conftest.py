"""The model of the tests of serving."""

from tests.serving.conftest import detector as detector
