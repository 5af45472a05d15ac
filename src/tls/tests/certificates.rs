//! Which certificates are accepted, and what is said of the others.

use rcgen::{
    CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, NameConstraints, date_time_ymd,
};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{authority::called, *};

#[tokio::test]
async fn a_good_certificate_is_accepted_and_told_of() {
    let root = Authority::root("Example Root");
    let identity = root.issue_with(&["a.example", "b.example", "192.0.2.7"], |params| {
        params.not_before = date_time_ymd(2020, 1, 2);
        params.not_after = date_time_ymd(2999, 3, 4);
    });
    let server = Server::start(&identity, Manner::default()).await;
    let facts = server.greet(&trusting(&root), "a.example").await;
    let certificate = facts.certificate.unwrap();
    assert_eq!(certificate.subject, "CN=the server");
    assert_eq!(certificate.issuer, "CN=Example Root");
    assert_eq!(certificate.not_before.to_string(), "2020-01-02T00:00:00Z");
    assert_eq!(certificate.not_after.to_string(), "2999-03-04T00:00:00Z");
    assert_eq!(certificate.names, ["a.example", "b.example", "192.0.2.7"]);
    assert_eq!(certificate.pin, facts::pin_text(&identity.pin));
}

#[tokio::test]
async fn an_expired_certificate_is_refused_and_told_of() {
    let root = Authority::root("Example Root");
    let identity = root.issue_with(&["a.example"], |params| {
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    let error = refused(&root, &identity, "a.example").await;
    assert_eq!(error.cause.cause_word(), "tls_expired");
    assert_eq!(
        error.to_string(),
        "the certificate of CN=the server expired on 2020-01-01T00:00:00Z"
    );
    let certificate = error.certificate.unwrap();
    assert_eq!(certificate.issuer, "CN=Example Root");
    assert_eq!(certificate.names, ["a.example"]);
    assert_eq!(certificate.not_after.to_string(), "2020-01-01T00:00:00Z");
}

#[tokio::test]
async fn an_expired_intermediate_is_named() {
    let root = Authority::root("Example Root");
    let below = root.below("Old Authority", |params| {
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let identity = below.issue(&["a.example"]).with([&below]);
    let error = refused(&root, &identity, "a.example").await;
    assert!(
        matches!(&error.cause, TlsError::Expired { subject, .. } if subject == "CN=Old Authority"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_certificate_of_the_future_is_refused() {
    let root = Authority::root("Example Root");
    let identity = root.issue_with(&["a.example"], |params| {
        params.not_before = date_time_ymd(2998, 1, 1);
        params.not_after = date_time_ymd(2999, 1, 1);
    });
    let error = refused(&root, &identity, "a.example").await;
    assert_eq!(error.cause.cause_word(), "tls_not_yet_valid");
    assert!(error.to_string().ends_with("before 2998-01-01T00:00:00Z"), "{error}");
}

#[tokio::test]
async fn names_are_compared_as_rfc_9525_has_it() {
    let root = Authority::root("Example Root");
    let rows: [(&[&str], &str, bool); 16] = [
        (&["a.example"], "a.example", true),
        (&["A.Example"], "a.example", true),
        (&["a.example"], "a.example.", true),
        (&["a.example"], "b.example", false),
        (&["a.example"], "x.a.example", false),
        (&["a.example.evil.example"], "a.example", false),
        (&["*.a.example"], "x.a.example", true),
        (&["*.a.example"], "a.example", false),
        (&["*.a.example"], "y.x.a.example", false),
        (&["x*.a.example"], "xy.a.example", false),
        (&["*.example", "a.example"], "a.example", true),
        (&["127.0.0.1"], "127.0.0.1", true),
        (&["127.0.0.2"], "127.0.0.1", false),
        (&["::1"], "[::1]", true),
        (&["::ffff:127.0.0.1"], "127.0.0.1", false),
        (&["a.example"], "127.0.0.1", false),
    ];
    for (names, asked, fits) in rows {
        let server = Server::start(&root.issue(names), Manner::default()).await;
        match server.meet(&trusting(&root), asked).await {
            Ok(_) => assert!(fits, "{names:?} accepted for {asked}"),
            Err(error) => {
                assert!(!fits, "{names:?} refused for {asked}: {error}");
                assert_eq!(error.cause.cause_word(), "tls_hostname_mismatch");
                let TlsError::HostnameMismatch { names: told, .. } = error.cause else {
                    panic!("another error")
                };
                assert_eq!(told.len(), names.len());
            }
        }
    }
}

#[tokio::test]
async fn an_ip_address_written_as_a_dns_name_is_not_one() {
    let root = Authority::root("Example Root");
    let identity = root.issue_with(&[], |params| {
        params.subject_alt_names =
            vec![rcgen::SanType::DnsName("127.0.0.1".to_owned().try_into().unwrap())];
    });
    let error = refused(&root, &identity, "127.0.0.1").await;
    assert_ne!(error.cause.cause_word(), "tls_unknown_issuer");
}

#[tokio::test]
async fn a_common_name_does_not_count() {
    let root = Authority::root("Example Root");
    let identity = root.issue_with(&[], |params| params.distinguished_name = called("a.example"));
    let error = refused(&root, &identity, "a.example").await;
    let expected = TlsError::HostnameMismatch { name: "a.example".to_owned(), names: Vec::new() };
    assert_eq!(error.cause, expected);
    assert!(error.to_string().contains("common name does not count"), "{error}");
}

#[tokio::test]
async fn a_certificate_for_many_names_is_told_of_in_a_sentence() {
    let root = Authority::root("Example Root");
    let names: Vec<_> = (0..150).map(|number| format!("{number}.example")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let error = refused(&root, &root.issue(&names), "a.example").await;
    assert!(error.to_string().ends_with("4.example and 95 more"), "{error}");
    assert_eq!(error.certificate.unwrap().names.len(), 100);
}

#[tokio::test]
async fn an_unknown_issuer_is_named() {
    let root = Authority::root("Corporate Root");
    let error = refused(&Authority::root("Other"), &root.issue(&["a.example"]), "a.example").await;
    assert_eq!(error.cause.cause_word(), "tls_unknown_issuer");
    assert_eq!(error.to_string(), "the issuer CN=Corporate Root is not trusted, and was not sent");
}

#[tokio::test]
async fn the_issuer_at_the_end_of_the_chain_is_named() {
    let root = Authority::root("Corporate Root");
    let below = root.below("Corporate Issuing", |_| ());
    let other = Authority::root("Other");
    let identity = below.issue(&["a.example"]).with([&below]);
    let expected = TlsError::UnknownIssuer {
        issuer: "CN=Corporate Root".to_owned(),
        untrusted: Untrusted::NotSent,
    };
    assert_eq!(refused(&other, &identity, "a.example").await.cause, expected);
    // in any order, and with the root
    let identity = below.issue(&["a.example"]).with([&root, &below]);
    let expected = TlsError::UnknownIssuer {
        issuer: "CN=Corporate Root".to_owned(),
        untrusted: Untrusted::RootSent,
    };
    assert_eq!(refused(&other, &identity, "a.example").await.cause, expected);
}

#[tokio::test]
async fn a_self_signed_certificate_is_refused() {
    let root = Authority::root("Example Root");
    // with and without the CA flag, which `openssl req -x509` sets
    for is_ca in [IsCa::NoCa, IsCa::Ca(rcgen::BasicConstraints::Unconstrained)] {
        let identity = Identity::self_signed(&["a.example"], |params| params.is_ca = is_ca);
        let error = refused(&root, &identity, "a.example").await;
        let expected = TlsError::UnknownIssuer {
            issuer: "CN=the server".to_owned(),
            untrusted: Untrusted::SelfSigned,
        };
        assert_eq!(error.cause, expected);
    }
}

#[tokio::test]
async fn a_root_of_the_same_name_with_another_key_is_not_trusted() {
    let (trusted, rogue) = (Authority::root("Same Name"), Authority::root("Same Name"));
    let namesake = TlsError::UnknownIssuer {
        issuer: "CN=Same Name".to_owned(),
        untrusted: Untrusted::Namesake,
    };
    let identity = rogue.issue(&["a.example"]);
    assert_eq!(refused(&trusted, &identity, "a.example").await.cause, namesake);
    let identity = rogue.issue(&["a.example"]).with([&rogue]);
    assert_eq!(refused(&trusted, &identity, "a.example").await.cause, namesake);
    let identity = Identity::self_signed(&["a.example"], |params| {
        params.distinguished_name = called("Same Name");
    });
    let error = refused(&trusted, &identity, "a.example").await;
    assert_eq!(error.cause.cause_word(), "tls_unknown_issuer");
}

#[tokio::test]
async fn a_missing_intermediate_is_told_from_an_unknown_issuer() {
    // id-ad-caIssuers with a URI
    let uri = b"http://aia.example/issuing.crt";
    let length = |bytes: usize| u8::try_from(bytes).unwrap();
    let oid = [6, 8, 0x2b, 6, 1, 5, 5, 7, 0x30, 2];
    let mut access = vec![0x30, length(uri.len() + 14), 0x30, length(uri.len() + 12)];
    access.extend(oid);
    access.extend([0x86, length(uri.len())]);
    access.extend(uri);
    let root = Authority::root("Example Root");
    let below = root.below("Issuing Authority", |_| ());
    let identity = below.issue_with(&["a.example"], |params| {
        let extension =
            CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], access.clone());
        params.custom_extensions.push(extension);
    });
    let error = refused(&root, &identity, "a.example").await;
    let issuer = "CN=Issuing Authority".to_owned();
    assert_eq!(error.cause, TlsError::IncompleteChain { issuer: issuer.clone() });
    assert_eq!(error.cause.cause_word(), "tls_incomplete_chain");
    // without that extension, it may as well be a root of the customer's
    let error = refused(&root, &below.issue(&["a.example"]), "a.example").await;
    assert_eq!(error.cause, TlsError::UnknownIssuer { issuer, untrusted: Untrusted::NotSent });
    // and with the intermediate, all is well
    let server = Server::start(&identity.with([&below]), Manner::default()).await;
    server.greet(&trusting(&root), "a.example").await;
}

#[tokio::test]
async fn a_certificate_for_clients_is_refused() {
    let root = Authority::root("Example Root");
    let identity = root.issue_with(&["a.example"], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    let error = refused(&root, &identity, "a.example").await;
    assert_eq!(error.cause, TlsError::WrongUsage(Usage::Server));
    assert_eq!(error.cause.cause_word(), "tls_wrong_usage");
}

#[tokio::test]
async fn an_authority_s_own_certificate_is_refused_for_a_server() {
    let root = Authority::root("Example Root");
    let identity = root.issue_with(&["a.example"], |params| {
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    let error = refused(&root, &identity, "a.example").await;
    assert_eq!(error.cause, TlsError::WrongUsage(Usage::CaAsServer));
}

#[tokio::test]
async fn one_that_is_no_authority_issues_nothing() {
    let root = Authority::root("Example Root");
    let below = root.below("No Authority", |params| params.is_ca = IsCa::ExplicitNoCa);
    let identity = below.issue(&["a.example"]).with([&below]);
    let error = refused(&root, &identity, "a.example").await;
    assert_eq!(error.cause, TlsError::WrongUsage(Usage::ServerAsCa));
}

#[tokio::test]
async fn an_authority_issues_only_for_names_it_may() {
    let root = Authority::root("Example Root");
    let trees = |names: &[&str]| {
        names.iter().map(|&name| GeneralSubtree::DnsName(name.to_owned())).collect()
    };
    let only = |names: &[&str]| NameConstraints {
        permitted_subtrees: trees(names),
        excluded_subtrees: Vec::new(),
    };
    let all_but = |names: &[&str]| NameConstraints {
        permitted_subtrees: Vec::new(),
        excluded_subtrees: trees(names),
    };
    let rows = [
        (only(&["ours.example"]), &["a.ours.example"][..], "a.ours.example", true),
        (only(&["ours.example"]), &["a.other.example"], "a.other.example", false),
        (only(&["ours.example"]), &["a.ours.example", "b.example"], "a.ours.example", false),
        (all_but(&["other.example"]), &["a.other.example"], "a.other.example", false),
        // RUSTSEC-2026-0099: a wildcard that reaches into what is excluded
        (all_but(&["x.other.example"]), &["*.other.example"], "y.other.example", false),
    ];
    for (constraints, names, asked, fits) in rows {
        let below = root.below("Constrained", |params| params.name_constraints = Some(constraints));
        let identity = below.issue(names).with([&below]);
        let server = Server::start(&identity, Manner::default()).await;
        match server.meet(&trusting(&root), asked).await {
            Ok(_) => assert!(fits, "{names:?} accepted"),
            Err(error) => {
                assert!(!fits, "{names:?}: {error}");
                let expected = TlsError::CertificateInvalid(CertificateFault::NameConstraint);
                assert_eq!(error.cause, expected);
                assert_eq!(error.cause.cause_word(), "tls_certificate_invalid");
            }
        }
    }
}

#[tokio::test]
async fn a_wrong_signature_in_the_chain_is_refused() {
    let root = Authority::root("Example Root");
    let below = root.below("Issuing Authority", |_| ());
    let mut identity = below.issue(&["a.example"]).with([&below]);
    let mut leaf = identity.chain[0].to_vec();
    *leaf.last_mut().unwrap() ^= 1;
    identity.chain[0] = leaf.into();
    let error = refused(&root, &identity, "a.example").await;
    assert_eq!(error.cause, TlsError::CertificateInvalid(CertificateFault::Signature));
}

#[test]
fn a_certificate_of_version_one_is_for_no_host() {
    let identity = Authority::root("Example Root").issue(&["a.example"]);
    let leaf = of_version_one(&identity.chain[0]);
    let name = ServerName::try_from("a.example").unwrap();
    let trusted = roots(&Authority::root("Example Root"));
    let error = trusted.trusted().unwrap().verify(&leaf, &[], &name, UnixTime::now()).unwrap_err();
    let store = RootCertStore::empty();
    let verdict = verdict::Refused::new(&leaf, &[], &name, &[&store]).verdict(&error);
    assert_eq!(verdict.cause_word(), "tls_hostname_mismatch");
}

/// The certificate without its version and extensions. Its signature is of no matter any more.
fn of_version_one(certificate: &[u8]) -> CertificateDer<'static> {
    let (_, outer, _) = element(certificate);
    let (_, body, signature) = element(outer);
    let mut kept = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let (tag, _, next) = element(rest);
        if tag != 0xa0 && tag != 0xa3 {
            kept.extend_from_slice(&rest[..rest.len() - next.len()]);
        }
        rest = next;
    }
    let mut inside = sequence(&kept);
    inside.extend_from_slice(signature);
    sequence(&inside).into()
}

/// Tag, content, and what follows.
fn element(der: &[u8]) -> (u8, &[u8], &[u8]) {
    let (header, length) = match der[1] {
        short @ 0..=127 => (2, usize::from(short)),
        0x81 => (3, usize::from(der[2])),
        _ => (4, usize::from(u16::from_be_bytes([der[2], der[3]]))),
    };
    (der[0], &der[header..header + length], &der[header + length..])
}

fn sequence(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap();
    let mut der = match (length.to_be_bytes(), length) {
        ([0, low], 0..=127) => vec![0x30, low],
        ([0, low], _) => vec![0x30, 0x81, low],
        ([high, low], _) => vec![0x30, 0x82, high, low],
    };
    der.extend(content);
    der
}

#[tokio::test]
async fn text_of_a_certificate_cannot_break_a_log_line() {
    let root = Authority::root("Bad\r\nX-Injected: 1\u{1b}[31m");
    let error = refused(&Authority::root("Other"), &root.issue(&["a.example"]), "a.example").await;
    assert!(!error.to_string().contains(char::is_control), "{error:?}");
    assert!(!error.certificate.unwrap().issuer.contains(char::is_control));
}

#[tokio::test]
async fn a_time_beyond_counting_is_the_last_that_counts() {
    let root = Authority::root("Example Root");
    let identity = root.issue_with(&["a.example"], |params| {
        params.not_after = date_time_ymd(9999, 12, 31);
    });
    let server = Server::start(&identity, Manner::default()).await;
    let facts = server.greet(&trusting(&root), "a.example").await;
    assert_eq!(facts.certificate.unwrap().not_after, jiff::Timestamp::MAX);
}

#[tokio::test]
async fn a_pinned_key_is_accepted_and_another_is_not() {
    let root = Authority::root("Example Root");
    let identity = root.issue(&["a.example"]);
    let server = Server::start(&identity, Manner::default()).await;
    let pinned = |pins: &[[u8; 32]]| TargetTls { pins: pins.into(), ..TargetTls::default() };
    for pins in [&[identity.pin][..], &[[0; 32], identity.pin]] {
        server.greet(&trusting_with(&root, &pinned(pins)), "a.example").await;
    }
    let wrong = trusting_with(&root, &pinned(&[[0; 32]]));
    let error = server.meet(&wrong, "a.example").await.unwrap_err();
    assert_eq!(error.cause.cause_word(), "tls_pin_mismatch");
    assert!(error.to_string().contains(&facts::pin_text(&identity.pin)), "{error}");
}

#[tokio::test]
async fn a_pin_does_not_stand_in_for_verification() {
    let root = Authority::root("Example Root");
    let identity = Identity::self_signed(&["a.example"], |_| ());
    let server = Server::start(&identity, Manner::default()).await;
    let tls = TargetTls { pins: [identity.pin].into(), ..TargetTls::default() };
    let error = server.meet(&trusting_with(&root, &tls), "a.example").await.unwrap_err();
    assert_eq!(error.cause.cause_word(), "tls_unknown_issuer");
}

#[tokio::test]
async fn a_target_s_own_roots_are_added_to_the_gateway_s() {
    let (gateways, targets) = (Authority::root("Gateway's"), Authority::root("Target's"));
    let files = Files::new();
    let ca_file = Some(files.write("ca.pem", &targets.pem));
    let tls = trusting_with(&gateways, &TargetTls { ca_file, ..TargetTls::default() });
    for authority in [&gateways, &targets] {
        let server = Server::start(&authority.issue(&["a.example"]), Manner::default()).await;
        server.greet(&tls, "a.example").await;
    }
    let server = Server::start(&targets.issue(&["a.example"]), Manner::default()).await;
    let error = server.meet(&trusting(&gateways), "a.example").await.unwrap_err();
    assert_eq!(error.cause.cause_word(), "tls_unknown_issuer");
}

#[tokio::test]
async fn of_two_stores_refusals_the_one_that_says_more_is_told() {
    let (gateways, targets) = (Authority::root("Gateway's"), Authority::root("Target's"));
    let files = Files::new();
    let ca_file = Some(files.write("ca.pem", &targets.pem));
    let tls = trusting_with(&gateways, &TargetTls { ca_file, ..TargetTls::default() });
    for authority in [&gateways, &targets] {
        let server = Server::start(&authority.issue(&["b.example"]), Manner::default()).await;
        let error = server.meet(&tls, "a.example").await.unwrap_err();
        assert_eq!(error.cause.cause_word(), "tls_hostname_mismatch");
    }
}

#[tokio::test]
async fn a_self_signed_certificate_can_be_its_own_root() {
    let identity = Identity::self_signed(&["a.example"], |_| ());
    let files = Files::new();
    let ca_file = Some(files.write("ca.pem", &identity.chain_pem()));
    let root = Authority::root("Example Root");
    let tls = trusting_with(&root, &TargetTls { ca_file, ..TargetTls::default() });
    let server = Server::start(&identity, Manner::default()).await;
    server.greet(&tls, "a.example").await;
}
