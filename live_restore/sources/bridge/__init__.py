"""The process that follows Micro-Manager's acquisitions through its Java bridge."""
