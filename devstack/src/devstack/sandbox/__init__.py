"""The Amazon sandbox: a real HTTP server that stands in for Amazon's Selling Partner API locally.

    python -m devstack.sandbox      settings.py has the SANDBOX_… variables that it reads

What Amazon has too: the consent page (`/apps/authorize/consent`), Manage Your Apps (`/apps/manage`), Login with
Amazon (`/auth/o2/token`), Orders v2026-01-01, Sellers v1. What it has not: `GET
/messaging/v1/orders/{orderId}/messages`, and the control API under `/sandbox` (sellers of any size, revocation,
drafts, client secrets, the clock, faults, counts of calls).
"""
