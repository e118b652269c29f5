"""The Amazon sandbox: a real HTTP server that stands in for Amazon's Selling Partner API locally."""
