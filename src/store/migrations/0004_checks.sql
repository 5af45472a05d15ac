-- Connectivity checks, the newest of each target. Ids are ULIDs: in the order of time.
CREATE TABLE checks (
    connectivity_check_id TEXT   PRIMARY KEY NOT NULL,
    target_id             TEXT   NOT NULL,
    fingerprint           TEXT   NOT NULL, -- of what was checked
    document              TEXT   NOT NULL, -- JSON, as the API shows it
    checked_at            BIGINT NOT NULL  -- Unix milliseconds
);
CREATE INDEX checks_by_target ON checks (target_id, connectivity_check_id);
CREATE INDEX checks_by_age ON checks (checked_at);

-- What readiness writes: whether the database takes anything is known only by trying.
CREATE TABLE probes (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    writes BIGINT  NOT NULL
);
INSERT INTO probes (one, writes) VALUES (1, 0);
