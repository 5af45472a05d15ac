-- Keys of reverse connectors, by the SHA-256 of their public key as sha256//BASE64.
CREATE TABLE connectors (
    spki        TEXT   NOT NULL PRIMARY KEY,
    name        TEXT   NOT NULL,
    enrolled_at BIGINT NOT NULL, -- Unix seconds
    revoked_at  BIGINT,          -- Unix seconds
    last_seen   BIGINT           -- Unix seconds
);
CREATE INDEX connectors_by_name ON connectors (name);

-- Enrolment tokens, each good for one key. Never the token itself.
CREATE TABLE connector_tokens (
    hash       TEXT   NOT NULL PRIMARY KEY, -- SHA-256 of the token's secret, base64
    name       TEXT   NOT NULL,
    expires_at BIGINT NOT NULL, -- Unix seconds
    used_at    BIGINT           -- Unix seconds
);
