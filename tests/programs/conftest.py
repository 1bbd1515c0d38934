"""The model of the tests of serving."""

from tests.serving.conftest import detector as detector
from tests.serving.conftest import faceless as faceless
