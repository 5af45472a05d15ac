# syntax=docker/dockerfile:1
# The egress gateway as an image of one static binary: no shell, no package manager, no root.
#
#   docker build -t egress-gateway .
#   docker run --rm --network host -v egress-state:/state egress-gateway
#
# Host networking is what gives the gateway its stable egress address. On a bridge network mount a configuration whose
# listeners are not on loopback (they then need clients and tokens):
#
#   docker run --rm -p 3128:3128 -v ./gateway.toml:/etc/egress-gateway/gateway.toml:ro -v egress-state:/state \
#     egress-gateway

ARG RUST=1.95.0

# --- build: Alpine's Rust targets musl and links statically by default ------------------------------------------------
FROM rust:${RUST}-alpine AS build
# aws-lc-rs and the bundled SQLite are C; their Rust bindings come with the crates.
RUN apk add --no-cache build-base ca-certificates-bundle
WORKDIR /build
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --locked --release --bin egress-gateway \
    && install -D -m 0755 target/release/egress-gateway /rootfs/egress-gateway
# A binary that asks for a loader would not start in an empty image.
RUN readelf -l /rootfs/egress-gateway >/tmp/segments && ! grep -q INTERP /tmp/segments
RUN install -D -m 0644 config/gateway.toml /rootfs/etc/egress-gateway/gateway.toml \
    && install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /rootfs/etc/ssl/certs/ca-certificates.crt \
    && install -D -m 0644 LICENSE /rootfs/LICENSE \
    && mkdir /empty

# --- image -----------------------------------------------------------------------------------------------------------
FROM scratch
COPY --from=build /rootfs/ /
# Belongs to the gateway's user, so that a new volume does too.
COPY --from=build --chown=65532:65532 /empty/ /state/
USER 65532:65532
ENV EGRESS_STATE_DIR=/state
WORKDIR /state
VOLUME ["/state"]
# proxy, admin
EXPOSE 3128 9128
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["/egress-gateway", "health"]
ENTRYPOINT ["/egress-gateway"]
CMD ["serve", "--config", "/etc/egress-gateway/gateway.toml"]

LABEL org.opencontainers.image.title="egress-gateway" \
      org.opencontainers.image.description="Forward proxy that decides, for each connection, whether it may leave" \
      org.opencontainers.image.licenses="Apache-2.0"
