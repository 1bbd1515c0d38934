"""How long a test waits for what must happen before it fails."""

# Far more than any machine takes that others do not starve: a test that waits this long
# has found a hang. What must be fast is asserted where it is, in a number of its own.
LIMIT = 600.0  # seconds
