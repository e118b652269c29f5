# OpenBao (Vault's API), for the local stack and for compose. Paths are relative to the working directory, which
# holds data/, tls/ and seal.key (32 random bytes); the listener is in listener.hcl.
#
# The first start sets everything up by itself, with role ids and secret ids from the environment
# (OAUTH_ROLE_ID, OAUTH_SECRET_ID, and so on); the root token it needs for that is revoked, and nobody sees it.
# A later change of these stanzas does not reach a server that is set up: write it with a token, or start anew.

storage "raft" {
  path                   = "data"
  node_id                = "openbao"
  performance_multiplier = 1
}

seal "static" {
  current_key_id = "1"
  current_key    = "file://seal.key"
}

ui = false

initialize "engines" {
  request "mount-kv" {
    operation = "update"
    path      = "sys/mounts/secret"
    data = {
      type        = "kv"
      description = "Credentials of the Amazon application and of the tenants"
      options     = { version = "2" }
    }
  }

  request "enable-approle" {
    operation = "update"
    path      = "sys/auth/approle"
    data      = { type = "approle" }
  }
}

initialize "policies" {
  # Keeps the tenants' credentials: the only one that writes them.
  request "policy-oauth" {
    operation = "update"
    path      = "sys/policies/acl/oauth"
    data = {
      policy = <<-EOT
        path "secret/data/keybuzz/tenants/+/amazon_spapi" {
          capabilities = ["create", "update", "read"]
        }
        path "secret/destroy/keybuzz/tenants/+/amazon_spapi" {
          capabilities = ["update"]
        }
        path "secret/metadata/keybuzz/tenants/+/amazon_spapi" {
          capabilities = ["read"]
        }
        path "secret/metadata/keybuzz/tenants" {
          capabilities = ["list"]
        }
        path "secret/data/keybuzz/amazon_spapi/*" {
          capabilities = ["read"]
        }
        path "secret/data/keybuzz/ai/*" {
          capabilities = ["read"]
        }
      EOT
    }
  }

  # Use the credentials, change none.
  request "policy-amazon-reader" {
    operation = "update"
    path      = "sys/policies/acl/amazon-reader"
    data = {
      policy = <<-EOT
        path "secret/data/keybuzz/tenants/+/amazon_spapi" {
          capabilities = ["read"]
        }
        path "secret/data/keybuzz/amazon_spapi/*" {
          capabilities = ["read"]
        }
        path "secret/data/keybuzz/ai/*" {
          capabilities = ["read"]
        }
      EOT
    }
  }

  # Read the mailboxes that buyers' messages come to.
  request "policy-mailbox-reader" {
    operation = "update"
    path      = "sys/policies/acl/mailbox-reader"
    data = {
      policy = <<-EOT
        path "secret/data/keybuzz/mailboxes/*" {
          capabilities = ["read"]
        }
      EOT
    }
  }

  # Brings in the application's and the mailboxes' credentials and sees no tenant's.
  request "policy-operator" {
    operation = "update"
    path      = "sys/policies/acl/operator"
    data = {
      policy = <<-EOT
        path "secret/data/keybuzz/amazon_spapi/*" {
          capabilities = ["create", "update", "read"]
        }
        path "secret/data/keybuzz/ai/*" {
          capabilities = ["create", "update", "read"]
        }
        path "secret/data/keybuzz/mailboxes/*" {
          capabilities = ["create", "update", "read"]
        }
      EOT
    }
  }
}

initialize "roles" {
  request "role-oauth" {
    operation = "update"
    path      = "auth/approle/role/oauth"
    data = {
      role_id        = { eval_source = "env", eval_type = "string", env_var = "OAUTH_ROLE_ID", require_present = true }
      token_policies = ["oauth"]
      token_ttl      = "1h"
      token_max_ttl  = "24h"
    }
  }

  request "secret-id-oauth" {
    operation = "update"
    path      = "auth/approle/role/oauth/custom-secret-id"
    data = {
      secret_id = { eval_source = "env", eval_type = "string", env_var = "OAUTH_SECRET_ID", require_present = true }
    }
  }

  request "role-poller" {
    operation = "update"
    path      = "auth/approle/role/poller"
    data = {
      role_id        = { eval_source = "env", eval_type = "string", env_var = "POLLER_ROLE_ID", require_present = true }
      token_policies = ["amazon-reader", "mailbox-reader"]
      token_ttl      = "1h"
      token_max_ttl  = "24h"
    }
  }

  request "secret-id-poller" {
    operation = "update"
    path      = "auth/approle/role/poller/custom-secret-id"
    data = {
      secret_id = { eval_source = "env", eval_type = "string", env_var = "POLLER_SECRET_ID", require_present = true }
    }
  }

  request "role-orders" {
    operation = "update"
    path      = "auth/approle/role/orders"
    data = {
      role_id        = { eval_source = "env", eval_type = "string", env_var = "ORDERS_ROLE_ID", require_present = true }
      token_policies = ["amazon-reader"]
      token_ttl      = "1h"
      token_max_ttl  = "24h"
    }
  }

  request "secret-id-orders" {
    operation = "update"
    path      = "auth/approle/role/orders/custom-secret-id"
    data = {
      secret_id = { eval_source = "env", eval_type = "string", env_var = "ORDERS_SECRET_ID", require_present = true }
    }
  }

  request "role-operator" {
    operation = "update"
    path      = "auth/approle/role/operator"
    data = {
      role_id        = { eval_source = "env", eval_type = "string", env_var = "OPERATOR_ROLE_ID", require_present = true }
      token_policies = ["operator"]
      token_ttl      = "1h"
      token_max_ttl  = "24h"
    }
  }

  request "secret-id-operator" {
    operation = "update"
    path      = "auth/approle/role/operator/custom-secret-id"
    data = {
      secret_id = { eval_source = "env", eval_type = "string", env_var = "OPERATOR_SECRET_ID", require_present = true }
    }
  }
}
