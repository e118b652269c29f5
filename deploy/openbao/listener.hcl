# Where OpenBao listens: every address here; the local stack puts loopback and its own ports in place.
# api_addr and cluster_addr come from the environment: BAO_API_ADDR, BAO_CLUSTER_ADDR.
listener "tcp" {
  address         = "0.0.0.0:8200"
  cluster_address = "0.0.0.0:8201"
  tls_cert_file   = "tls/cert.pem"
  tls_key_file    = "tls/key.pem"
  tls_min_version = "tls12"
}
