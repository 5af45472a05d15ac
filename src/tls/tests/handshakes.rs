//! Versions, protocols, client certificates, sessions, and peers that do not shake hands.

use std::sync::Arc;

use rustls::version::{TLS12, TLS13};

use super::*;

/// A root, and a server for a.example under it.
async fn good(manner: Manner) -> (Authority, Server) {
    let root = Authority::root("Example Root");
    let server = Server::start(&root.issue(&["a.example"]), manner).await;
    (root, server)
}

#[tokio::test]
async fn tls_1_3_is_spoken_with_a_post_quantum_key_exchange() {
    let (root, server) = good(Manner::default()).await;
    let facts = server.greet(&trusting(&root), "a.example").await;
    assert_eq!(facts.version.as_str(), "TLSv1.3");
    assert_eq!(facts.key_exchange, Some("X25519MLKEM768"));
    assert!(facts.cipher_suite.starts_with("TLS_AES_"), "{}", facts.cipher_suite);
    assert!(!facts.resumed);
    assert_eq!(facts.client_certificate, ClientCertificate::NotAsked);
}

#[tokio::test]
async fn tls_1_2_is_spoken() {
    let (root, server) = good(Manner { only: Some(&TLS12), ..Manner::default() }).await;
    let facts = server.greet(&trusting(&root), "a.example").await;
    assert_eq!(facts.version.as_str(), "TLSv1.2");
    assert!(facts.certificate.is_some());
}

#[tokio::test]
async fn http_2_is_spoken_where_both_want_it() {
    let both: &'static [&'static [u8]] = &[b"h2", b"http/1.1"];
    let rows = [
        (both, Alpn::Http2, Some(Protocol::Http2)),
        (both, Alpn::Http1, Some(Protocol::Http1)),
        (both, Alpn::None, None),
        (&[b"http/1.1"], Alpn::Http2, Some(Protocol::Http1)),
        (&[b"h2"], Alpn::Http2, Some(Protocol::Http2)),
        (&[], Alpn::Http2, None),
        (&[], Alpn::Http1, None),
    ];
    for (alpn, offered, chosen) in rows {
        let (root, server) = good(Manner { alpn, ..Manner::default() }).await;
        let stream = TcpStream::connect(server.address).await.unwrap();
        let tls = trusting(&root);
        let secured = tls.handshake(stream, &host("a.example"), offered, LONG).await.unwrap();
        assert_eq!(secured.facts.alpn, chosen, "{offered:?}");
    }
}

#[tokio::test]
async fn the_host_is_sent_as_server_name_but_an_address_is_not() {
    let root = Authority::root("Example Root");
    let identity = root.issue(&["a.example", "127.0.0.1", "other.example"]);
    let server = Server::start(&identity, Manner::default()).await;
    server.greet(&trusting(&root), "a.example").await;
    server.greet(&trusting(&root), "127.0.0.1").await;
    let named = |name: &str| TargetTls { server_name: Some(name.into()), ..TargetTls::default() };
    server.greet(&trusting_with(&root, &named("other.example")), "a.example").await;
    server.greet(&trusting_with(&root, &named("other.example")), "127.0.0.1").await;
    let sent = server.names.lock().unwrap().clone();
    let sent: Vec<_> = sent.iter().map(Option::as_deref).collect();
    let other = Some("other.example");
    assert_eq!(sent, [Some("a.example"), None, other, other]);
}

#[tokio::test]
async fn a_configured_server_name_is_what_is_verified() {
    let (root, server) = good(Manner::default()).await;
    let named = |name: &str| TargetTls { server_name: Some(name.into()), ..TargetTls::default() };
    server.greet(&trusting_with(&root, &named("a.example")), "b.example").await;
    let error = server.meet(&trusting_with(&root, &named("b.example")), "a.example").await;
    let TlsError::HostnameMismatch { name, .. } = error.unwrap_err().cause else {
        panic!("another error")
    };
    assert_eq!(name, "b.example");
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_it_is_asked_for() {
    let (root, clients) = (Authority::root("Example Root"), Authority::root("Clients"));
    let files = Files::new();
    let identity = clients.issue_with(&[], |params| params.extended_key_usages.clear());
    let tls = trusting_with(&root, &files.client(&identity));
    for only in [&TLS13, &TLS12] {
        let manner = Manner::demanding(only, &clients);
        let server = Server::start(&root.issue(&["a.example"]), manner).await;
        let facts = server.greet(&tls, "a.example").await;
        assert_eq!(facts.client_certificate, ClientCertificate::Given);
    }
}

#[tokio::test]
async fn a_client_certificate_that_is_missing_or_wrong_is_told_in_tls_1_2() {
    let (root, clients) = (Authority::root("Example Root"), Authority::root("Clients"));
    let manner = Manner::demanding(&TLS12, &clients);
    let server = Server::start(&root.issue(&["a.example"]), manner).await;
    let error = server.meet(&trusting(&root), "a.example").await.unwrap_err();
    assert_eq!(error.cause, TlsError::ClientCertificate { given: false });
    assert_eq!(error.cause.cause_word(), "tls_client_certificate");
    assert_eq!(error.client_certificate, ClientCertificate::Missing);
    assert_eq!(error.certificate.unwrap().names, ["a.example"]);
    let files = Files::new();
    let tls = trusting_with(&root, &files.client(&Authority::root("Strangers").issue(&[])));
    let error = server.meet(&tls, "a.example").await.unwrap_err();
    assert_eq!(error.cause, TlsError::ClientCertificate { given: true });
}

/// As an HTTP library wraps what a stream says.
#[derive(Debug, thiserror::Error)]
#[error("connection error")]
struct Wrapped(#[source] std::io::Error);

#[tokio::test]
async fn a_client_certificate_that_is_missing_or_wrong_is_told_after_tls_1_3_stands() {
    let (root, clients) = (Authority::root("Example Root"), Authority::root("Clients"));
    let manner = Manner::demanding(&TLS13, &clients);
    let server = Server::start(&root.issue(&["a.example"]), manner).await;
    let files = Files::new();
    let stranger = files.client(&Authority::root("Strangers").issue(&[]));
    for (tls, given) in [(trusting(&root), false), (trusting_with(&root, &stranger), true)] {
        let mut secured = server.meet(&tls, "a.example").await.unwrap();
        let error = secured.stream.read(&mut [0; 2]).await.unwrap_err();
        let expected = Some(TlsError::ClientCertificate { given });
        assert_eq!(TlsError::after_handshake(&error, &secured.facts), expected);
        assert_eq!(TlsError::after_handshake(&Wrapped(error), &secured.facts), expected);
        let other = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert_eq!(TlsError::after_handshake(&other, &secured.facts), None);
    }
}

/// What a peer that does this is taken for.
async fn met(instead: Instead) -> HandshakeError {
    let server = Server::misbehaving(instead).await;
    let tls = trusting(&Authority::root("Example Root"));
    server.meet(&tls, "a.example").await.unwrap_err()
}

#[tokio::test]
async fn a_peer_that_closes_or_resets_at_once_is_closed_early() {
    for instead in [Instead::Close, Instead::Reset] {
        let error = met(instead).await;
        assert_eq!(error.cause, TlsError::ClosedEarly);
        assert_eq!(error.cause.cause_word(), "reset_before_server_hello");
        assert_eq!(error.certificate, None);
    }
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_given_up_in_time() {
    let server = Server::misbehaving(Instead::Stall).await;
    let tls = trusting(&Authority::root("Example Root"));
    let stream = TcpStream::connect(server.address).await.unwrap();
    let limit = Duration::from_millis(50);
    let error = tls.handshake(stream, &host("a.example"), Alpn::Http1, limit).await.unwrap_err();
    assert_eq!(error.cause, TlsError::Timeout);
    assert_eq!(error.cause.cause_word(), "tls_timeout");
}

#[tokio::test]
async fn a_peer_without_a_version_or_cipher_suite_in_common_is_told_so() {
    let hello = |minor: u8| {
        let mut hello = vec![22, 3, minor, 0, 42, 2, 0, 0, 38, 3, minor];
        hello.extend([7; 32]);
        hello.extend([0, 0xc0, 0x13, 0]);
        let hello: &'static [u8] = hello.leak();
        hello
    };
    let said: [&'static [u8]; 6] = [
        hello(0),
        hello(1),
        hello(2),
        // protocol_version, in TLS 1.0 and 1.2; handshake_failure: no cipher suite in common
        &[21, 3, 1, 0, 2, 2, 70],
        &[21, 3, 3, 0, 2, 2, 70],
        &[21, 3, 3, 0, 2, 2, 40],
    ];
    for bytes in said {
        let error = met(Instead::Say(bytes)).await;
        assert_eq!(error.cause, TlsError::Version, "{bytes:?}");
        assert_eq!(error.cause.cause_word(), "tls_version");
    }
}

#[tokio::test]
async fn a_peer_that_does_not_speak_tls_is_told_so() {
    let rows: [(&'static [u8], bool); 5] = [
        (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", true),
        (b"SSH-2.0-OpenSSH_9.9\r\n", false),
        (b"220 mail.example ESMTP\r\n", false),
        (&[0; 64], false),
        (b"HT", false),
    ];
    for (bytes, http) in rows {
        let error = met(Instead::Say(bytes)).await;
        assert_eq!(error.cause, TlsError::NotTls { http }, "{bytes:?}");
        assert_eq!(error.cause.cause_word(), "tls_handshake");
    }
}

#[tokio::test]
async fn a_peer_that_breaks_off_in_the_middle_is_told_so() {
    let rows: [(&'static [u8], &str); 3] = [
        (&[22, 3, 3, 0, 42, 2, 0, 0, 38, 3, 3], "the connection was lost during"),
        (&[21, 3, 3, 0, 2, 2, 112], "with alert 112 ("),
        (&[22, 3, 3, 0, 4, 11, 0, 0, 0], "does not follow TLS"),
    ];
    for (bytes, sentence) in rows {
        let error = met(Instead::Say(bytes)).await;
        assert!(error.to_string().contains(sentence), "{bytes:?}: {error}");
        assert_eq!(error.cause.cause_word(), "tls_handshake");
    }
}

#[tokio::test]
async fn handshakes_at_once_do_not_mix_up_what_they_saw() {
    let root = Authority::root("Example Root");
    let right = Server::start(&root.issue(&["a.example"]), Manner::default()).await;
    let wrong = Server::start(&root.issue(&["b.example"]), Manner::default()).await;
    let tls = trusting(&root);
    for _ in 0..10 {
        let (right, wrong) =
            tokio::join!(right.meet(&tls, "a.example"), wrong.meet(&tls, "a.example"));
        assert_eq!(right.unwrap().facts.certificate.unwrap().names, ["a.example"]);
        assert_eq!(wrong.unwrap_err().certificate.unwrap().names, ["b.example"]);
    }
}

#[tokio::test]
async fn a_session_is_resumed_by_its_target_and_by_no_other() {
    for only in [&TLS13, &TLS12] {
        let (root, server) = good(Manner { only: Some(only), ..Manner::default() }).await;
        let outbound = Outbound::new(roots(&root));
        let (one, other) = (TargetId::parse("one").unwrap(), TargetId::parse("other").unwrap());
        let tls = |id: &TargetId| outbound.config_for(id, None).unwrap();
        assert!(!server.greet(&tls(&one), "a.example").await.resumed);
        let facts = server.greet(&tls(&one), "a.example").await;
        assert!(facts.resumed);
        assert_eq!(facts.certificate.unwrap().names, ["a.example"]);
        assert!(!server.greet(&tls(&other), "a.example").await.resumed);
        assert!(server.greet(&tls(&other), "a.example").await.resumed);
        outbound.forget(&one);
        assert!(!server.greet(&tls(&one), "a.example").await.resumed);
    }
}

#[tokio::test]
async fn without_sessions_none_is_resumed_and_none_is_left_behind() {
    for only in [&TLS13, &TLS12] {
        let (root, server) = good(Manner { only: Some(only), ..Manner::default() }).await;
        let tls = trusting(&root);
        for _ in 0..2 {
            let facts = server.greet(&tls.without_sessions(), "a.example").await;
            assert!(!facts.resumed && facts.certificate.is_some());
        }
        assert!(!server.greet(&tls, "a.example").await.resumed);
        assert!(!server.greet(&tls.without_sessions(), "a.example").await.resumed);
        assert!(server.greet(&tls, "a.example").await.resumed);
    }
}

#[tokio::test]
async fn a_session_is_not_resumed_under_other_settings() {
    let (root, server) = good(Manner::default()).await;
    let outbound = Outbound::new(roots(&root));
    let id = TargetId::parse("one").unwrap();
    let tls = outbound.config_for(&id, None).unwrap();
    server.greet(&tls, "a.example").await;
    let pinned = TargetTls { pins: [[0; 32]].into(), ..TargetTls::default() };
    let tls = outbound.config_for(&id, Some(&pinned)).unwrap();
    let error = server.meet(&tls, "a.example").await.unwrap_err();
    assert_eq!(error.cause.cause_word(), "tls_pin_mismatch");
}

#[tokio::test]
async fn sessions_live_through_a_reload_that_changes_nothing() {
    let (root, server) = good(Manner::default()).await;
    let before = Outbound::new(roots(&root));
    let id = TargetId::parse("one").unwrap();
    let tls = before.config_for(&id, None).unwrap();
    server.greet(&tls, "a.example").await;
    let after = before.renewed(roots(&root), [(&id, None)]).unwrap();
    assert!(Arc::ptr_eq(&tls, &after.config_for(&id, None).unwrap()));
    let after = before.renewed(roots(&Authority::root("Example Root")), [(&id, None)]).unwrap();
    let tls = after.config_for(&id, None).unwrap();
    let error = server.meet(&tls, "a.example").await.unwrap_err();
    assert_eq!(error.cause.cause_word(), "tls_unknown_issuer");
}
