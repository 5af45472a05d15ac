# The words of the workshop; `just` alone does what a commit needs.

commit: fmt-check clippy test doc

# the gateway at work, on this machine alone
run:
    cargo run --release --locked -- demo

# formatting as in .rustfmt.toml
fmt-check:
    cargo fmt --check

# no warning is left
clippy:
    cargo clippy --locked --all-targets -- -D warnings

# the Rust tests
test:
    cargo nextest run --locked

# library tests only
quick:
    cargo nextest run --locked --lib

# everything, with the packages, namespaces and real clients it needs (Debian, root)
all:
    .ci/run

# every benchmark, then the gateway beside other proxies (docs/performance.md)
bench:
    cargo bench --locked
    benches/side-by-side

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

# licences, advisories, bans and sources of dependencies
deny:
    cargo deny check

# units, image and versions
packaging:
    tests/packaging.sh

# every fuzz target for so many seconds
fuzz SECONDS="60":
    fuzz/run {{SECONDS}}
