-- Targets of the admin API; those of the configuration are not here.
CREATE TABLE targets (
    id         TEXT   PRIMARY KEY NOT NULL,
    version    BIGINT NOT NULL,
    document   TEXT   NOT NULL, -- JSON as the API took it, never with a secret
    created_at BIGINT NOT NULL, -- Unix milliseconds
    updated_at BIGINT NOT NULL
);

-- The last version that any target got. Versions come from here, so that none comes back when a
-- target is deleted and made again.
CREATE TABLE target_versions (
    one  INTEGER PRIMARY KEY CHECK (one = 1),
    last BIGINT  NOT NULL
);
INSERT INTO target_versions (one, last) VALUES (1, 0);

-- Sealed credentials: src/seal.rs.
CREATE TABLE credentials (
    target_id  TEXT   NOT NULL REFERENCES targets (id) ON DELETE CASCADE,
    field      TEXT   NOT NULL CHECK (field IN ('signing_secret', 'signing_secret_previous')),
    key_id     TEXT   NOT NULL,
    nonce      BLOB   NOT NULL,
    sealed     BLOB   NOT NULL,
    saved_at   BIGINT NOT NULL, -- Unix milliseconds
    expires_at BIGINT,          -- of a previous secret
    PRIMARY KEY (target_id, field)
);
CREATE INDEX credentials_by_expiry ON credentials (expires_at) WHERE expires_at IS NOT NULL;
