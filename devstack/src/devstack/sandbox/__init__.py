"""The Amazon sandbox: a real HTTP server that stands in for Amazon's Selling Partner API locally.

    python -m devstack.sandbox      settings.py has the SANDBOX_… variables that it reads

What Amazon has too: the consent page (`/apps/authorize/consent`), Manage Your Apps (`/apps/manage`), Login with
Amazon (`/auth/o2/token`), Orders v2026-01-01 and v0, Reports 2021-06-30 (all orders, by date of order or of update),
Sellers v1. What it has not: `GET /messaging/v1/orders/{orderId}/messages`, and the control API under `/sandbox`:

    PUT  sellers/{id}            orders, days, ordersPerDay, unknownEvery, reports …: a seller of any size
    PUT  sellers/{id}/pace       ordersPerDay: from now on orders change, and so many new ones come
    PUT  sellers/{id}/reports    how its reports come: seconds, charset, names of columns, …
    POST sellers/{id}/orders/{orderId}     status, packageStatus, carrier, trackingNumber: now
    GET  sellers/{id}/orders     the truth
    POST sellers/{id}/revoke
    POST clock                   advanceSeconds, speed; usage plans, tokens and reports go by it
    POST faults                  operation, status, times or share, sellerId, delaySeconds: see faults.py
    GET  calls                   how often each status was answered; DELETE begins anew
    …    applications            drafts and client secrets

Orders are computed when they are asked for: a seller of a million costs no more memory than one of ten, and a page of
100 some 5 ms of a core anywhere in it. A report's document is written to the state's folder between other requests
(some 25 µs of a core for a row), and is not done before: under a fast clock that takes longer than it says.
"""
