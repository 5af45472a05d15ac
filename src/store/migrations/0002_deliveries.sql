-- Webhook deliveries: one row an attempt. Never a body, a secret or a URL in clear.
CREATE TABLE deliveries (
    seq                  INTEGER PRIMARY KEY AUTOINCREMENT,
    webhook_attempt_id   TEXT    NOT NULL UNIQUE,
    delivery_id          TEXT    NOT NULL, -- the same for every attempt with one idempotency key
    target_id            TEXT    NOT NULL,
    event_type           TEXT,
    webhook_status       TEXT    NOT NULL CHECK (webhook_status IN ('delivered', 'failed', 'blocked')),
    idempotency_key      TEXT,
    payload_hash         TEXT,             -- SHA-256 of the body, hex
    method               TEXT    NOT NULL,
    url_hash             TEXT,             -- SHA-256 of the URL, whose query may hold credentials, hex
    receiver_status_code BIGINT,
    code                 TEXT,
    cause                TEXT,
    duration_ms          BIGINT  NOT NULL,
    last_attempt_at      BIGINT  NOT NULL, -- Unix milliseconds
    retry_after_seconds  BIGINT
);
CREATE INDEX deliveries_by_target ON deliveries (target_id, seq);
CREATE INDEX deliveries_by_age ON deliveries (last_attempt_at);

-- What an idempotency key stands for. A row is written once the receiver may have seen the request;
-- receiver_status is there only when it answered 2xx.
CREATE TABLE idempotency (
    target_id       TEXT   NOT NULL,
    idempotency_key TEXT   NOT NULL,
    delivery_id     TEXT   NOT NULL,
    fingerprint     TEXT   NOT NULL, -- SHA-256 over method, URL and body hash, hex
    receiver_status BIGINT,
    attempted_at    BIGINT NOT NULL, -- Unix milliseconds
    PRIMARY KEY (target_id, idempotency_key)
);
CREATE INDEX idempotency_by_age ON idempotency (attempted_at);
