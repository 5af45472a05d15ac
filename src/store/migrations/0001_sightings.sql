-- What each target's name led to when it was last vetted: a name that was global and turns private
-- is rebinding, also after a restart.
CREATE TABLE sightings (
    target_id TEXT    NOT NULL,
    host      TEXT    NOT NULL,
    class     TEXT    NOT NULL CHECK (class IN ('global', 'private')),
    seen_at   BIGINT  NOT NULL, -- Unix seconds
    PRIMARY KEY (target_id, host)
);
