"""Amazon's side: Login with Amazon, the Selling Partner API, marketplaces and credentials."""
