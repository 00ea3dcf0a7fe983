"""A payment provider to try the shop against: a process of its own, and no friend of ours."""
