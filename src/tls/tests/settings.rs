//! Files of roots and client certificates: read, refused, and read again.

use std::{path::Path, sync::Arc};

use super::*;

fn id() -> TargetId {
    TargetId::parse("acme").unwrap()
}

fn client_files(certificate: &Path, key: &Path) -> TargetTls {
    TargetTls {
        client_cert_file: Some(certificate.to_owned()),
        client_key_file: Some(key.to_owned()),
        ..TargetTls::default()
    }
}

#[test]
fn the_system_s_roots_are_read() {
    let files = Files::new();
    let extra = files.write("extra.pem", &Authority::root("Extra").pem);
    let alone = Roots::load(&[]).unwrap();
    let roots = Roots::load(&[extra]).unwrap();
    assert_eq!(roots.system_count(), alone.system_count());
    assert_eq!((alone.extra_count(), roots.extra_count()), (0, 1));
    assert!(alone.is_same(&Roots::load(&[]).unwrap()));
    assert!(!alone.is_same(&roots));
}

#[test]
fn a_file_of_roots_that_cannot_be_used_is_named() {
    let files = Files::new();
    let good = Authority::root("Good").pem;
    let broken = authority::pem(&[0x30, 3, 2, 1, 1]);
    let rows = [
        (files.0.path().join("none.pem"), "No such file"),
        (files.write("empty.pem", ""), "no certificate in it"),
        (files.write("key.pem", &Authority::root("x").issue(&[]).key_pem), "no certificate in it"),
        (files.write("cut.pem", "-----BEGIN CERTIFICATE-----\nAA"), "cannot be read as PEM"),
        (files.write("second.pem", &format!("{good}{broken}")), "certificate 2 in it"),
        (files.write("long.pem", &"#\n".repeat(600_000)), "over 1 MiB"),
    ];
    for (path, reason) in rows {
        let error = Roots::only(std::slice::from_ref(&path)).unwrap_err();
        assert_eq!(error.path(), Some(&*path));
        let told = error.to_string();
        assert!(told.starts_with(&format!("extra_roots: {}: ", path.display())), "{told}");
        assert!(told.contains(reason), "{told}");
        let tls = TargetTls { ca_file: Some(path.clone()), ..TargetTls::default() };
        let error = ClientTls::load(&Roots::only(&[]).unwrap(), Some(&tls)).unwrap_err();
        assert!(error.to_string().starts_with(&format!("ca_file: {}: ", path.display())));
    }
}

#[test]
fn a_client_certificate_that_cannot_be_used_is_named() {
    let authority = Authority::root("Example Root");
    let (files, roots) = (Files::new(), roots(&authority));
    let (one, other) = (authority.issue(&[]), authority.issue(&[]));
    let certificate = files.write("one.pem", &one.chain_pem());
    let key = files.write("one.key", &one.key_pem);
    let others = files.write("other.key", &other.key_pem);
    let load = |tls: &TargetTls| ClientTls::load(&roots, Some(tls)).map(drop);
    load(&client_files(&certificate, &key)).unwrap();
    let rows = [
        (client_files(&key, &key), "client_cert_file", "no certificate"),
        (client_files(&certificate, &certificate), "client_key_file", "no private key"),
        (client_files(&certificate, &others), "client_key_file", "does not go with"),
        (client_files(&certificate, Path::new("/nowhere")), "client_key_file", "No such file"),
        (client_files(Path::new("/nowhere"), &key), "client_cert_file", "No such file"),
    ];
    for (tls, key, reason) in rows {
        let told = load(&tls).unwrap_err().to_string();
        assert!(told.starts_with(&format!("{key}: ")) && told.contains(reason), "{told}");
        assert!(!told.contains("PRIVATE KEY-----"), "{told}");
    }
    let half = TargetTls { client_key_file: Some(key), ..TargetTls::default() };
    assert!(load(&half).unwrap_err().to_string().contains("belong together"));
}

#[test]
fn a_server_name_that_is_no_host_is_refused() {
    let roots = roots(&Authority::root("Example Root"));
    for name in ["", "a b", "1.2.3", "*.example", "a..example", "https://a.example"] {
        let tls = TargetTls { server_name: Some(name.into()), ..TargetTls::default() };
        let told = ClientTls::load(&roots, Some(&tls)).unwrap_err().to_string();
        assert!(told.starts_with("server_name: "), "{told}");
    }
    for name in ["a.example", "_x.a.example", "192.0.2.1", "[2001:db8::1]"] {
        let tls = TargetTls { server_name: Some(name.into()), ..TargetTls::default() };
        ClientTls::load(&roots, Some(&tls)).unwrap();
    }
}

#[test]
fn without_any_roots_there_is_no_tls_but_with_a_target_s_own_there_is() {
    let none = Roots::only(&[]).unwrap();
    let told = ClientTls::load(&none, None).unwrap_err().to_string();
    assert!(told.contains("no roots are trusted"), "{told}");
    let files = Files::new();
    let ca_file = Some(files.write("ca.pem", &Authority::root("Target's").pem));
    ClientTls::load(&none, Some(&TargetTls { ca_file, ..TargetTls::default() })).unwrap();
}

#[test]
fn files_are_read_again_on_reload_and_only_then() {
    let authority = Authority::root("Example Root");
    let (files, roots) = (Files::new(), roots(&authority));
    let tls = files.client(&authority.issue(&[]));
    let before = Outbound::new(roots.clone());
    let made = before.config_for(&id(), Some(&tls)).unwrap();
    let same = before.renewed(roots.clone(), [(&id(), Some(&tls))]).unwrap();
    assert!(Arc::ptr_eq(&made, &same.config_for(&id(), Some(&tls)).unwrap()));
    // the files hold another certificate now
    files.client(&authority.issue(&[]));
    assert!(Arc::ptr_eq(&made, &before.config_for(&id(), Some(&tls)).unwrap()));
    let renewed = before.renewed(roots.clone(), [(&id(), Some(&tls))]).unwrap();
    assert!(!Arc::ptr_eq(&made, &renewed.config_for(&id(), Some(&tls)).unwrap()));
    // other settings, other roots
    let named = TargetTls { server_name: Some("b.example".into()), ..tls };
    let renewed = same.renewed(roots, [(&id(), Some(&named))]).unwrap();
    assert!(!Arc::ptr_eq(&made, &renewed.config_for(&id(), Some(&named)).unwrap()));
}

#[test]
fn a_reload_with_unusable_files_says_all_that_is_wrong_and_changes_nothing() {
    let authority = Authority::root("Example Root");
    let (files, roots) = (Files::new(), roots(&authority));
    let tls = files.client(&authority.issue(&[]));
    let before = Outbound::new(roots.clone());
    let made = before.config_for(&id(), Some(&tls)).unwrap();
    files.write("client.key", "not a key");
    let other = TargetId::parse("other").unwrap();
    let ca_file = Some(files.0.path().join("none.pem"));
    let missing = TargetTls { ca_file, ..TargetTls::default() };
    let targets = [(&id(), Some(&tls)), (&other, Some(&missing))];
    let wrong = before.renewed(roots, targets).unwrap_err();
    let about: Vec<_> = wrong.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(about, ["acme", "other"]);
    assert!(Arc::ptr_eq(&made, &before.config_for(&id(), Some(&tls)).unwrap()));
}

#[test]
fn settings_of_a_target_that_changed_are_not_those_before() {
    let authority = Authority::root("Example Root");
    let outbound = Outbound::new(roots(&authority));
    let pinned = TargetTls { pins: [[1; 32]].into(), ..TargetTls::default() };
    let plain = outbound.config_for(&id(), None).unwrap();
    let changed = outbound.config_for(&id(), Some(&pinned)).unwrap();
    assert!(!Arc::ptr_eq(&plain, &changed));
    assert!(Arc::ptr_eq(&changed, &outbound.config_for(&id(), Some(&pinned)).unwrap()));
}

#[test]
fn nothing_of_a_key_is_printed() {
    let authority = Authority::root("Example Root");
    let (files, identity) = (Files::new(), authority.issue(&[]));
    let tls = trusting_with(&authority, &files.client(&identity));
    let printed = format!("{tls:?} {:?}", Outbound::new(roots(&authority)));
    assert!(printed.len() < 500, "{printed}");
}
