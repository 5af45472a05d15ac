//! ClientHellos: no panic, no verdict that more bytes change, no name that rustls reads otherwise.
#![no_main]

use egress_gateway::forward::client_hello::{HELLO_BYTES_MAX, Hello, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let ours = read(bytes);
    if ours == Hello::Incomplete {
        assert!(bytes.len() < HELLO_BYTES_MAX);
    }
    let early = read(&bytes[..bytes.len() / 2]);
    assert!(early == Hello::Incomplete || early == ours, "{early:?}, then {ours:?}");
    if let Some(theirs) = read_by_rustls(bytes) {
        assert!(
            ours == theirs || matches!(ours, Hello::Malformed(_)),
            "{ours:?} but rustls reads {theirs:?}"
        );
    }
});

/// What rustls reads, where it takes the bytes for one whole hello.
fn read_by_rustls(mut bytes: &[u8]) -> Option<Hello> {
    let mut acceptor = rustls::server::Acceptor::default();
    while !bytes.is_empty() {
        acceptor.read_tls(&mut bytes).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            let hello = accepted.client_hello();
            let name = hello.server_name().map(|name| name.trim_end_matches('.'));
            return Some(Hello::Hello { server_name: name.map(str::to_ascii_lowercase) });
        }
    }
    None
}
