//! The server name in the first bytes of a TLS connection.
//!
//! A client that was permitted to reach one host may not ask the server behind it for another, so
//! the bytes a client sends into a CONNECT are looked at until its ClientHello (RFC 8446 §4.1.2) is
//! whole, and the name in it (RFC 6066 §3) is handed to the caller to compare. Nothing is decrypted
//! or changed.
//!
//! What one TLS server accepts and another refuses is [`Hello::Malformed`] here: a client that the
//! gateway reads in one way and the server in another would carry a name past the comparison.
//! With Encrypted ClientHello the name read is the outer one.

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// Not yet to be told: read more and call [`read`] again with everything so far. Never given
    /// for [`HELLO_BYTES_MAX`] bytes or more.
    Incomplete,
    /// Some other protocol: its first byte begins no TLS record and no SSL 2.0 ClientHello.
    NotTls,
    /// TLS, but not one whole and unambiguous ClientHello: what is wrong with it, a sentence
    /// fragment that holds nothing the client sent.
    Malformed(&'static str),
    /// A whole ClientHello.
    Hello {
        /// The one `host_name` of the `server_name` extension: ASCII, lower case, without a trailing
        /// dot, 1 to 255 bytes. `None` where the client names no server.
        server_name: Option<String>,
    },
}

/// Most bytes of a connection that are looked at for a ClientHello, record headers included.
///
/// 16 KiB is one full TLS record (RFC 8446 §5.1), which no client's hello exceeds: a post-quantum
/// one takes 1.4 to 1.8 KiB, and still fits when each of its bytes has a record of its own. The
/// bound is what one client that never ends its hello can make the gateway hold.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;

/// Reads a connection's first bytes, all of those that came so far.
///
/// Called again with more bytes while the answer is [`Hello::Incomplete`]; any other answer stands,
/// whatever follows. The hello may be split over reads and records in every way.
pub fn read(bytes: &[u8]) -> Hello {
    match bytes.first() {
        None => Hello::Incomplete,
        Some(&HANDSHAKE) => read_tls(bytes).unwrap_or_else(Hello::Malformed),
        // some servers skip an alert that comes before the hello, and would read on behind our back
        Some(&(CHANGE_CIPHER_SPEC | ALERT | APPLICATION_DATA)) => {
            Hello::Malformed("the first record is not a handshake record")
        }
        Some(first) if first & 0x80 != 0 => read_sslv2(bytes),
        Some(_) => Hello::NotTls,
    }
}

/// An SSLv2-compatible ClientHello (RFC 5246 appendix E.2), which OpenSSL still accepts where a
/// server allows it: it has no room for a name, and counts as a hello without one.
fn read_sslv2(bytes: &[u8]) -> Hello {
    match bytes {
        // SSL 2.0 wrote its version 0x0002; from SSL 3.0 on the major version comes first
        [_, _, CLIENT_HELLO, 2 | 3, ..] | [_, _, CLIENT_HELLO, 0, 2, ..] => {
            Hello::Hello { server_name: None }
        }
        [] | [_] | [_, _] | [_, _, CLIENT_HELLO] | [_, _, CLIENT_HELLO, 0] => Hello::Incomplete,
        _ => Hello::NotTls,
    }
}

/// A ClientHello in TLS records.
fn read_tls(bytes: &[u8]) -> Result<Hello, &'static str> {
    match client_hello(bytes)? {
        Some(hello) => Ok(Hello::Hello { server_name: server_name(&hello)? }),
        None if bytes.len() >= HELLO_BYTES_MAX => Err(TOO_LONG),
        None => Ok(Hello::Incomplete),
    }
}

/// The body of the ClientHello, put together from its records, once it is whole.
fn client_hello(bytes: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    let window = bytes.get(..HELLO_BYTES_MAX).unwrap_or(bytes);
    let mut records = Reader(window);
    let mut message = Vec::new();
    while let Some(kind) = records.u8() {
        if kind != HANDSHAKE {
            return Err("a record of another type within the ClientHello");
        }
        let Some(major) = records.u8() else { return Ok(None) };
        if major != 3 {
            return Err("a record of an unknown protocol version");
        }
        let (Some(_minor), Some(length)) = (records.u8(), records.u16()) else { return Ok(None) };
        if length == 0 {
            return Err("an empty handshake record");
        }
        if length > RECORD_LENGTH_MAX {
            return Err("a record longer than TLS permits");
        }
        // the record may not be here as a whole; what of it is here is enough to judge by
        let fragment = records.up_to(length);
        let declared = message.len().saturating_add(length);
        message.extend_from_slice(fragment);
        let mut handshake = Reader(&message);
        if handshake.u8().is_some_and(|kind| kind != CLIENT_HELLO) {
            return Err("the first handshake message is not a ClientHello");
        }
        let Some(body_length) = handshake.u24() else { continue };
        let whole = body_length.saturating_add(HANDSHAKE_HEADER_LENGTH);
        if whole > HELLO_BYTES_MAX {
            return Err(TOO_LONG);
        }
        // a client waits for the ServerHello before it sends another handshake message
        if declared > whole {
            return Err("bytes after the ClientHello in its record");
        }
        if let Some(body) = handshake.take(body_length) {
            return Ok(Some(body.to_vec()));
        }
    }
    Ok(None)
}

/// The name in the body of a ClientHello (RFC 8446 §4.1.2), where it has one.
fn server_name(hello: &[u8]) -> Result<Option<String>, &'static str> {
    const SHORT: &str = "a ClientHello that ends within a field";
    let mut hello = Reader(hello);
    if hello.u8().ok_or(SHORT)? != 3 {
        return Err("a ClientHello of an unknown protocol version");
    }
    let _minor = hello.u8().ok_or(SHORT)?;
    let _random = hello.take(32).ok_or(SHORT)?;
    if hello.u8().and_then(|length| hello.take(length.into())).ok_or(SHORT)?.len() > 32 {
        return Err("a session id longer than 32 bytes");
    }
    let cipher_suites = hello.u16().and_then(|length| hello.take(length)).ok_or(SHORT)?;
    if cipher_suites.is_empty() || !cipher_suites.len().is_multiple_of(2) {
        return Err("a list of cipher suites of no valid length");
    }
    let compression = hello.u8().and_then(|length| hello.take(length.into())).ok_or(SHORT)?;
    if compression.is_empty() {
        return Err("an empty list of compression methods");
    }
    if hello.is_empty() {
        return Ok(None); // TLS 1.2 and before may leave extensions out
    }
    let mut extensions =
        hello.u16().and_then(|length| hello.take(length)).map(Reader).ok_or(SHORT)?;
    if !hello.is_empty() {
        return Err("bytes after the extensions of the ClientHello");
    }
    let mut found = None;
    while !extensions.is_empty() {
        let kind = extensions.u16().ok_or(SHORT)?;
        let body = extensions.u16().and_then(|length| extensions.take(length)).ok_or(SHORT)?;
        if kind == SERVER_NAME && found.replace(host_name(body)?).is_some() {
            return Err("more than one server_name extension");
        }
    }
    Ok(found)
}

/// The one name in a `server_name` extension (RFC 6066 §3). Name types other than `host_name` were
/// never defined, and what servers make of them differs.
fn host_name(extension: &[u8]) -> Result<String, &'static str> {
    const SHORT: &str = "a server_name extension whose lengths do not agree";
    let mut extension = Reader(extension);
    let mut list =
        extension.u16().and_then(|length| extension.take(length)).map(Reader).ok_or(SHORT)?;
    if !extension.is_empty() {
        return Err(SHORT);
    }
    if list.u8().ok_or("an empty server_name extension")? != HOST_NAME {
        return Err("a server name of an unknown type");
    }
    let name = list.u16().and_then(|length| list.take(length)).ok_or(SHORT)?;
    if !list.is_empty() {
        return Err("more than one server name");
    }
    let name = str::from_utf8(name).map_err(|_| "a server name that is not ASCII")?;
    if name.len() > SERVER_NAME_LENGTH_MAX {
        return Err("a server name longer than 255 bytes");
    }
    if !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a server name with characters that no name has");
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        return Err("an empty server name");
    }
    Ok(name.to_ascii_lowercase())
}

/// Takes fields off the front of a slice; `None` and nothing taken where too little is left.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn up_to(&mut self, length: usize) -> &'a [u8] {
        self.take(length.min(self.0.len())).unwrap_or_default()
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<usize> {
        self.array().map(|bytes| u16::from_be_bytes(bytes).into())
    }

    fn u24(&mut self) -> Option<usize> {
        let [high, middle, low] = self.array()?;
        usize::try_from(u32::from_be_bytes([0, high, middle, low])).ok()
    }
}

// the record content types of RFC 8446 §5.1
const CHANGE_CIPHER_SPEC: u8 = 0x14;
const ALERT: u8 = 0x15;
const HANDSHAKE: u8 = 0x16;
const APPLICATION_DATA: u8 = 0x17;
/// Most bytes in one record that is not encrypted (RFC 8446 §5.1).
const RECORD_LENGTH_MAX: usize = 1 << 14;
/// Message type and three bytes of length (RFC 8446 §4).
const HANDSHAKE_HEADER_LENGTH: usize = 4;
/// The handshake type, of SSL 2.0 as of TLS.
const CLIENT_HELLO: u8 = 1;
/// The extension type of `server_name` (RFC 6066 §1.1).
const SERVER_NAME: usize = 0;
/// The one name type of RFC 6066 §3.
const HOST_NAME: u8 = 0;
/// Longest name in DNS (RFC 1035 §2.3.4).
const SERVER_NAME_LENGTH_MAX: usize = 255;
const TOO_LONG: &str = "a ClientHello longer than 16 KiB";

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    const NAME: &str = "jira.acme.example";

    /// What rustls sends to `name`, with one post-quantum key share or as it does by default.
    fn real_hello(name: &str, post_quantum: bool) -> Vec<u8> {
        let mut provider = default_provider();
        if post_quantum {
            provider.kx_groups = vec![kx_group::X25519MLKEM768];
        }
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = name.to_owned().try_into().unwrap();
        let mut bytes = Vec::new();
        ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut bytes).unwrap();
        bytes
    }

    fn named(name: &str) -> Hello {
        Hello::Hello { server_name: Some(name.to_owned()) }
    }

    fn nameless() -> Hello {
        Hello::Hello { server_name: None }
    }

    fn is_malformed(bytes: &[u8]) -> bool {
        matches!(read(bytes), Hello::Malformed(_))
    }

    /// The handshake message inside one record.
    fn message(record: &[u8]) -> &[u8] {
        &record[5..]
    }

    fn in_records_of(message: &[u8], length: usize) -> Vec<u8> {
        let record = |fragment: &[u8]| {
            let mut record = vec![HANDSHAKE, 3, 1, 0, 0];
            record[3..].copy_from_slice(&u16::try_from(fragment.len()).unwrap().to_be_bytes());
            record.extend_from_slice(fragment);
            record
        };
        message.chunks(length).flat_map(record).collect()
    }

    fn with_length(body: &[u8]) -> Vec<u8> {
        [&u16::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
    }

    fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &with_length(body)].concat()
    }

    fn entry(kind: u8, name: &[u8]) -> Vec<u8> {
        [&[kind][..], &with_length(name)].concat()
    }

    fn server_name_of(name: &[u8]) -> Vec<u8> {
        extension(0, &with_length(&entry(0, name)))
    }

    /// A hand-made hello whose extension block is `extensions`, lengths and all.
    fn hello_with(extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
        body.extend(extensions);
        let mut message = vec![CLIENT_HELLO, 0];
        message.extend(with_length(&body));
        in_records_of(&message, 1 << 14)
    }

    fn hello_of(extensions: &[u8]) -> Vec<u8> {
        hello_with(&with_length(extensions))
    }

    #[test]
    fn the_name_in_a_real_hello_is_read() {
        assert_eq!(read(&real_hello(NAME, false)), named(NAME));
        let post_quantum = real_hello(NAME, true);
        assert!(
            post_quantum.len() > 1400,
            "only {} bytes: no ML-KEM key share",
            post_quantum.len()
        );
        assert_eq!(read(&post_quantum), named(NAME));
    }

    #[test]
    fn a_client_that_connects_to_an_address_names_nobody() {
        assert_eq!(read(&real_hello("192.0.2.1", false)), nameless());
    }

    #[test]
    fn a_hello_is_incomplete_until_its_last_byte_and_the_same_after_it() {
        for hello in [real_hello(NAME, false), real_hello(NAME, true)] {
            for end in 0..hello.len() {
                assert_eq!(read(&hello[..end]), Hello::Incomplete, "after {end} bytes");
            }
            let followed = [&hello[..], &[0x14, 3, 3, 0, 1, 1]].concat();
            assert_eq!(read(&followed), named(NAME));
        }
    }

    #[test]
    fn a_hello_in_records_of_any_size_is_read_the_same() {
        for hello in [real_hello(NAME, false), real_hello(NAME, true)] {
            let message = message(&hello);
            for length in (1..64).chain([message.len() / 2, message.len() - 1]) {
                assert_eq!(read(&in_records_of(message, length)), named(NAME), "{length} each");
            }
            let tiny = in_records_of(message, 1);
            for end in 0..tiny.len() {
                assert_eq!(read(&tiny[..end]), Hello::Incomplete, "after {end} bytes");
            }
        }
    }

    #[test]
    fn a_hello_split_into_two_records_at_any_byte_is_read_the_same() {
        let hello = real_hello(NAME, true);
        let message = message(&hello);
        for at in 1..message.len() {
            let (first, second) = message.split_at(at);
            let split = [in_records_of(first, at), in_records_of(second, 1 << 14)].concat();
            assert_eq!(read(&split), named(NAME), "split at {at}");
        }
    }

    #[test]
    fn names_are_lower_case_and_without_a_trailing_dot() {
        assert_eq!(read(&hello_of(&server_name_of(b"JIRA.Acme.Example."))), named(NAME));
    }

    #[test]
    fn a_name_behind_other_extensions_is_found() {
        let extensions = [extension(0x0a0a, b""), extension(16, b"xyz"), server_name_of(b"a.b")];
        assert_eq!(read(&hello_of(&extensions.concat())), named("a.b"));
    }

    #[test]
    fn a_hello_without_extensions_names_nobody() {
        assert_eq!(read(&hello_with(&[])), nameless());
        assert_eq!(read(&hello_of(&[])), nameless());
        assert_eq!(read(&hello_of(&extension(16, b"xyz"))), nameless());
    }

    #[test]
    fn two_names_are_refused_however_they_are_written() {
        let name = entry(0, NAME.as_bytes());
        let other = entry(0, b"other.example");
        for extensions in [
            [server_name_of(NAME.as_bytes()), server_name_of(b"other.example")].concat(),
            [server_name_of(NAME.as_bytes()), server_name_of(NAME.as_bytes())].concat(),
            extension(0, &with_length(&[name.clone(), other].concat())),
            extension(0, &with_length(&[name.clone(), entry(1, b"x")].concat())),
            extension(0, &with_length(&[entry(1, b"x"), name].concat())),
        ] {
            assert!(is_malformed(&hello_of(&extensions)), "{extensions:?}");
        }
    }

    #[test]
    fn names_that_are_no_names_are_refused() {
        let long = [b'a'; 256];
        for name in
            [&b""[..], b".", b"a b", b"a\0b", b"a\0.example", "ｊira".as_bytes(), b"\xff", &long]
        {
            assert!(is_malformed(&hello_of(&server_name_of(name))), "{name:?}");
        }
        assert_eq!(read(&hello_of(&server_name_of(&long[..255]))), named(&"a".repeat(255)));
    }

    #[test]
    fn lengths_that_do_not_agree_are_refused() {
        let name = entry(0, NAME.as_bytes());
        let overrun = [&[0, 0, 0, 200][..], &with_length(&name)].concat();
        let trailing = extension(0, &[with_length(&name), vec![0]].concat());
        for extensions in [
            extension(0, b""),
            extension(0, &[0, 0]),
            extension(0, &with_length(&entry(1, NAME.as_bytes()))),
            extension(0, &[0]),
            extension(0, &name),
            extension(0, &with_length(&name[..name.len() - 1])),
            overrun,
            trailing,
            vec![0],
            vec![0, 0, 0],
        ] {
            assert!(is_malformed(&hello_of(&extensions)), "{extensions:?}");
        }
        let block = with_length(&server_name_of(NAME.as_bytes()));
        assert!(is_malformed(&hello_with(&[&block[..], &[0]].concat())));
        assert!(is_malformed(&hello_with(&block[..block.len() - 1])));
        assert!(is_malformed(&hello_with(&[0])));
    }

    /// A hello of `parts` in place of what a well-formed one has after its random.
    fn hello_after_random(version: u8, parts: &[u8]) -> Vec<u8> {
        let body = [&[version, 3][..], &[7; 32], parts].concat();
        in_records_of(&[&[CLIENT_HELLO, 0][..], &with_length(&body)].concat(), 1 << 14)
    }

    #[test]
    fn fields_before_the_extensions_are_checked() {
        let session_id = [&[33][..], &[0; 33], &[0, 2, 0x13, 1, 1, 0]].concat();
        assert_eq!(read(&hello_after_random(3, &[0, 0, 2, 0x13, 1, 1, 0])), nameless());
        assert!(is_malformed(&hello_after_random(2, &[0, 0, 2, 0x13, 1, 1, 0])));
        assert!(is_malformed(&hello_after_random(3, &session_id)));
        assert!(is_malformed(&hello_after_random(3, &[0, 0, 0, 1, 0])), "no cipher suite");
        assert!(is_malformed(&hello_after_random(3, &[0, 0, 3, 0x13, 1, 0, 1, 0])), "odd");
        assert!(is_malformed(&hello_after_random(3, &[0, 0, 2, 0x13, 1, 0])), "no compression");
        for end in 0..7 {
            let short = &[0, 0, 2, 0x13, 1, 1, 0][..end];
            assert!(is_malformed(&hello_after_random(3, short)), "{end}");
        }
    }

    #[test]
    fn records_that_are_no_hello_are_refused() {
        let hello = hello_of(&server_name_of(NAME.as_bytes()));
        let half = in_records_of(&message(&hello)[..20], 20);
        for (bytes, why) in [
            (vec![0x14], "change_cipher_spec first"),
            (vec![0x15], "an alert first"),
            (vec![0x17], "application data first"),
            (vec![0x16, 2], "record version 2"),
            (vec![0x16, 4], "record version 4"),
            (vec![0x16, 3, 1, 0, 0], "an empty record"),
            (vec![0x16, 3, 1, 0x40, 1], "a record over 2^14"),
            (vec![0x16, 3, 1, 0, 4, 2], "a ServerHello"),
            (vec![0x16, 3, 1, 0, 4, 0], "a HelloRequest"),
            (vec![0x16, 3, 1, 0, 4, 1, 0, 0x40, 0], "a hello over 16 KiB"),
            (in_records_of(&[message(&hello), &[0]].concat(), 1 << 14), "more in its record"),
            ([&half[..], &[0x15]].concat(), "an alert within the hello"),
            ([&half[..], &[0x17]].concat(), "application data within the hello"),
            ([&half[..], &[0x16, 3, 1, 0, 0]].concat(), "an empty record within the hello"),
        ] {
            assert!(is_malformed(&bytes), "{why}: {:?}", read(&bytes));
        }
    }

    #[test]
    fn a_hello_that_never_ends_is_refused_at_the_maximum() {
        // a declared length just below the bound, in records of one byte, outgrows it
        let message = [&[CLIENT_HELLO, 0, 0x3f, 0x00][..], &[0; 0x3f00]].concat();
        let endless = in_records_of(&message, 1);
        assert_eq!(read(&endless[..HELLO_BYTES_MAX - 1]), Hello::Incomplete);
        assert!(is_malformed(&endless[..HELLO_BYTES_MAX]));
        assert!(is_malformed(&endless));
    }

    #[test]
    fn an_sslv2_compatible_hello_is_a_hello_without_a_name() {
        for version in [[0, 2], [2, 0], [3, 0], [3, 1], [3, 3]] {
            let hello = [&[0x80, 0x2e, 1][..], &version, &[0, 0x15, 0, 0, 0, 16]].concat();
            assert_eq!(read(&hello), nameless(), "{version:?}");
            assert_eq!(read(&hello[..3]), Hello::Incomplete);
            assert_eq!(read(&hello[..2]), Hello::Incomplete);
            assert_eq!(read(&hello[..1]), Hello::Incomplete);
        }
        assert_eq!(read(&[0x80, 0x2e, 1, 0]), Hello::Incomplete);
        for other in [&[0x80, 0x2e, 4][..], &[0x80, 0x2e, 1, 0, 1], &[0x80, 0x2e, 1, 4]] {
            assert_eq!(read(other), Hello::NotTls, "{other:?}");
        }
    }

    #[test]
    fn other_protocols_are_told_by_their_first_byte() {
        assert_eq!(read(b""), Hello::Incomplete);
        for first in (0..0x80).filter(|first| !(0x14..=0x17).contains(first)) {
            assert_eq!(read(&[first]), Hello::NotTls, "{first:#x}");
        }
        assert_eq!(read(b"SSH-2.0-OpenSSH_9.9\r\n"), Hello::NotTls);
    }

    /// The inputs the fuzzer starts from.
    fn seeds() -> Vec<Vec<u8>> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/client_hello");
        let files = std::fs::read_dir(folder).unwrap();
        files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
    }

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

    #[test]
    fn the_seeds_are_hellos_that_rustls_reads_as_we_do() {
        let agreed = seeds().into_iter().filter_map(|seed| {
            let theirs = read_by_rustls(&seed)?;
            assert_eq!(read(&seed), theirs);
            Some(())
        });
        assert!(agreed.count() >= 4);
    }

    #[derive(Clone, Debug)]
    enum Damage {
        Flip(prop::sample::Index, u8),
        Insert(prop::sample::Index, Vec<u8>),
        Remove(prop::sample::Index, usize),
        Truncate(prop::sample::Index),
    }

    fn damage() -> impl Strategy<Value = Damage> {
        prop_oneof![
            4 => (any::<prop::sample::Index>(), 1..=255_u8).prop_map(|(at, bits)| Damage::Flip(at, bits)),
            2 => (any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..8))
                .prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
            2 => (any::<prop::sample::Index>(), 1..8_usize).prop_map(|(at, count)| Damage::Remove(at, count)),
            1 => any::<prop::sample::Index>().prop_map(Damage::Truncate),
        ]
    }

    fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
        for damage in damages {
            let length = bytes.len();
            match damage {
                _ if length == 0 => {}
                Damage::Flip(at, bits) => bytes[at.index(length)] ^= bits,
                Damage::Insert(at, more) => {
                    let at = at.index(length);
                    drop(bytes.splice(at..at, more.iter().copied()));
                }
                Damage::Remove(at, count) => {
                    let at = at.index(length);
                    drop(bytes.drain(at..length.min(at + count)));
                }
                Damage::Truncate(at) => bytes.truncate(at.index(length)),
            }
        }
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

        /// Never a panic, never a name that a server would read otherwise, never another verdict
        /// when more bytes come.
        #[test]
        fn damaged_hellos_are_never_read_otherwise_than_a_server_would(
            which: prop::sample::Index,
            damages in prop::collection::vec(damage(), 0..4),
            split: prop::sample::Index,
        ) {
            let bytes = damaged(which.get(&seeds()).clone(), &damages);
            let ours = read(&bytes);
            if let Some(theirs) = read_by_rustls(&bytes) {
                prop_assert!(
                    ours == theirs || matches!(ours, Hello::Malformed(_)),
                    "{ours:?} but rustls reads {theirs:?}"
                );
            }
            let early = read(&bytes[..split.index(bytes.len() + 1)]);
            prop_assert!(early == Hello::Incomplete || early == ours, "{early:?}, then {ours:?}");
        }
    }
}
