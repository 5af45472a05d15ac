//! Tests of the configuration as a whole.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use super::*;

const PEM_VALID_UNTIL: i32 = 2040;

/// Seconds since 1970 in the tests' year, 2030.
const NOW: u64 = 1_893_456_000;

struct Pem {
    certificate: String,
    key: String,
}

fn pem(names: &[&str], is_ca: bool, until: i32) -> Pem {
    let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    if is_ca {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    }
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Pem { certificate: certificate.pem(), key: key.serialize_pem() }
}

/// A world with a file of every kind.
fn world() -> Imagined {
    let proxy = pem(&["proxy.example"], false, PEM_VALID_UNTIL);
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let files = [
        ("proxy.pem", proxy.certificate),
        ("proxy.key", proxy.key),
        ("other.key", pem(&["other.example"], false, PEM_VALID_UNTIL).key),
        ("ca.pem", pem(&[], true, PEM_VALID_UNTIL).certificate),
        ("broken.pem", broken.to_owned()),
        ("secret", "0123456789abcdef\n".to_owned()),
        ("long", "x".repeat(300)),
        ("spaces", " 0123456789abcdef\n".to_owned()),
        ("two-lines", "0123456789\nabcdef\n".to_owned()),
        ("empty", "\n".to_owned()),
        ("key.hex", "0f".repeat(32)),
        ("key.base64", format!("{}=\n", "A".repeat(43))),
    ];
    let former = "0a".repeat(32);
    let variables = [("TOKEN", "0123456789abcdef"), ("EMPTY", ""), ("FORMER_KEY", &former)];
    Imagined {
        files: files.map(|(name, text)| (name.into(), text.into_bytes())).into(),
        variables: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        now: NOW,
    }
}

/// Reads files of these names and texts, with these variables.
fn load_texts(texts: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<Loaded, Vec<String>> {
    let mut world = world();
    for (name, text) in texts {
        world.files.insert(name.into(), text.as_bytes().to_vec());
    }
    for (name, value) in variables {
        world.variables.insert((*name).to_owned(), (*value).to_owned());
    }
    let files: Vec<PathBuf> = texts.iter().map(|(name, _)| name.into()).collect();
    load_from(&files, &world)
        .map_err(|invalid| invalid.problems.iter().map(ToString::to_string).collect())
}

fn problems(texts: &[(&str, &str)], variables: &[(&str, &str)]) -> Vec<String> {
    load_texts(texts, variables).err().unwrap_or_default()
}

fn cases(folder: &str) -> BTreeMap<PathBuf, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/config").join(folder);
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| (path.clone(), std::fs::read_to_string(&path).unwrap()))
        .collect()
}

#[test]
fn every_invalid_case_gives_exactly_its_problems() {
    let cases = cases("invalid");
    assert!(cases.len() > 40, "{}", cases.len());
    let mut lines = 0;
    for (path, text) in &cases {
        let name = path.file_name().unwrap().to_str().unwrap();
        let found = problems(&[(name, text)], &[]).join("\n") + "\n";
        let expected_path = path.with_extension("txt");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&expected_path, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&expected_path).unwrap_or_default();
        assert_eq!(found, expected, "{name}; UPDATE=1 writes what was found");
        assert!(!found.contains("hunter2"), "{name} shows a secret");
        for line in found.lines() {
            assert!(line.starts_with(&format!("{name}:")), "{line}");
            lines += 1;
        }
    }
    assert!(lines > 100, "{lines}");
}

#[test]
fn every_valid_case_loads() {
    let cases = cases("valid");
    assert!(cases.len() >= 3);
    for (path, text) in &cases {
        let name = path.file_name().unwrap().to_str().unwrap();
        let loaded = load_texts(&[(name, text)], &[]);
        let loaded = loaded.unwrap_or_else(|problems| panic!("{name}: {problems:#?}"));
        assert!(!format!("{loaded:?}").contains("hunter2"), "{name}");
    }
}

#[test]
fn the_configuration_that_is_shipped_is_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/gateway.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let loaded = load_texts(&[("gateway.toml", &text)], &[]).unwrap();
    assert_eq!(loaded.warnings, [""; 0]);
    assert!(loaded.config.targets.len() >= 9);
}

#[test]
fn every_key_that_is_shipped_as_a_comment_is_known() {
    // With the "# " before each key and section taken away, no key may be unknown.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/gateway.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let mut seen = 0;
    let mut uncommented = String::new();
    for line in text.lines() {
        let inner = line.strip_prefix("# ").unwrap_or_default();
        let key = inner.split_once(" = ").map(|(key, _)| key);
        let named = |key: &str| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        if inner.starts_with('[') || key.is_some_and(named) {
            uncommented.push_str(inner);
            seen += 1;
        } else if !line.starts_with('#') {
            uncommented.push_str(line);
        }
        uncommented.push('\n');
    }
    assert!(seen > 50, "{seen}");
    let found = problems(&[("gateway.toml", &uncommented)], &[]);
    let of_keys = |problem: &String| problem.split(": ").count() > 2;
    assert!(found.iter().all(of_keys), "{found:#?}");
    let unknown: Vec<_> = found.iter().filter(|problem| problem.contains("unknown key")).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn without_anything_the_defaults_of_the_contract_hold() {
    let loaded = load_texts(&[], &[]).unwrap();
    let config = loaded.config;
    assert_eq!(config.state_dir, Path::new("state"));
    assert_eq!(config.proxy.listen, ["127.0.0.1:3128".parse().unwrap()]);
    assert_eq!(config.admin.listen, ["127.0.0.1:9128".parse().unwrap()]);
    assert_eq!(config.store.url.expose(), "sqlite:state/gateway.db");
    assert_eq!(config.policy.check_ttl, Duration::from_mins(15));
    assert!(config.policy.require_current_check && !config.policy.allow_loopback);
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.telemetry.log, crate::telemetry::LogFormat::Json);
    assert!(config.egress.ip.is_empty() && config.egress.ranges.is_empty());
    assert!(config.dns_servers.is_none() && config.clients.is_empty() && config.targets.is_empty());
    assert_eq!((loaded.files, loaded.warnings), (Vec::new(), Vec::new()));
}

/// The configuration in which every key is set.
fn everything() -> Loaded {
    let (_, text) =
        cases("valid").into_iter().find(|(path, _)| path.ends_with("everything.toml")).unwrap();
    load_texts(&[("everything.toml", &text)], &[]).unwrap()
}

#[test]
fn every_limit_has_its_effect() {
    let config = everything().config;
    let seconds = Duration::from_secs;
    assert_eq!(
        config.limits,
        Limits {
            max_connections: 1,
            max_connections_per_client: 2,
            max_in_flight_per_target: 3,
            header_timeout: seconds(4),
            dns_timeout: seconds(5),
            connect_timeout: seconds(6),
            tls_timeout: seconds(7),
            response_timeout: seconds(8),
            idle_timeout: seconds(9 * 60),
            drain_timeout: seconds(10),
            max_header_bytes: 11 << 10,
            max_signed_body: 12 << 20,
        }
    );
    assert_eq!(
        config.policy,
        Policy {
            require_current_check: false,
            check_ttl: seconds(3600),
            deny: vec!["192.0.2.0/24".parse().unwrap()],
            allow_loopback: true,
        }
    );
}

#[test]
fn every_key_has_its_effect() {
    let loaded = everything();
    let config = loaded.config;
    assert_eq!(config.egress.ip.len(), 2);
    assert_eq!(config.egress.ranges.len(), 2);
    assert_eq!(config.admin.hosts[0].to_string(), "egress.internal");
    assert_eq!(config.admin.tokens[1].role, crate::admin::token::Role::Operate);
    assert_eq!(config.clients[1].certificate_names.len(), 2);
    assert_eq!(config.dns_servers.unwrap().len(), 3);
    assert_eq!(config.resolvers["acme"].tunnels, ["acme"]);
    assert_eq!(config.store.key.unwrap().expose(), [0x0f; 32]);
    let former: Vec<_> =
        config.store.previous_keys.iter().map(crate::secret::Secret::expose).collect();
    assert_eq!(former, [[0; 32], [0x0a; 32]]);
    assert_eq!(config.store.url.to_string(), "postgres://gateway:%5Bredacted%5D@db.example/egress");
    assert_eq!(config.telemetry.log, crate::telemetry::LogFormat::Pretty);
    assert_eq!(config.tls.extra_roots, [PathBuf::from("ca.pem")]);
    assert!(config.proxy.tls.is_some());
    assert_eq!(config.connectors.listen, ["0.0.0.0:7443".parse().unwrap()]);
    assert_eq!(config.connectors.addresses[0].to_string(), "egress.example:7443");
    assert_eq!(config.connectors.key_file, PathBuf::from("proxy.key"));
    assert_eq!(config.targets.len(), 2);
    assert_eq!(config.targets[0].labels[..], [("team".into(), "identity".into())]);
    let files: Vec<_> = loaded.files.iter().map(|seen| seen.path().to_str().unwrap()).collect();
    assert_eq!(
        files,
        [
            "ca.pem",
            "everything.toml",
            "key.base64",
            "key.hex",
            "long",
            "proxy.key",
            "proxy.pem",
            "secret"
        ]
    );
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].starts_with("policy.allow_loopback"));
}

#[test]
fn connectors_are_told_to_dial_what_is_listened_at_where_that_can_be_dialled() {
    let tunnel = "[tunnels.a]\nurl = \"connector:a\"\n";
    let text = format!("{tunnel}[connectors]\nlisten = [\"192.0.2.1:7443\", \"0.0.0.0:7444\"]\n");
    let loaded = load_texts(&[("a.toml", &text)], &[]).unwrap();
    let addresses = loaded.config.connectors.addresses.iter().map(ToString::to_string);
    assert_eq!(addresses.collect::<Vec<_>>(), ["192.0.2.1:7443"]);
    assert_eq!(loaded.config.connectors.key_file, PathBuf::from("state/connector.key"));
    assert_eq!(loaded.warnings, Vec::<String>::new());
    // without a listener nobody can dial in
    let loaded = load_texts(&[("a.toml", tunnel)], &[]).unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].starts_with("tunnels.a: "), "{:?}", loaded.warnings);
}

#[test]
fn every_kind_of_tunnel_is_read() {
    let config = everything().config;
    let Tunnel::WireGuard(wireguard) = &config.tunnels["wg"] else { panic!() };
    assert_eq!(wireguard.private_key.expose(), [0; 32]);
    assert_eq!((wireguard.peer.to_string().as_str(), wireguard.mtu), ("198.51.100.7:51820", 1420));
    let Tunnel::Http(https) = &config.tunnels["https"] else { panic!() };
    assert_eq!(https.proxy.to_string(), "[2001:db8::1]:443");
    assert!(https.tls.as_ref().unwrap().client.is_some());
    let Tunnel::Http(http) = &config.tunnels["http"] else { panic!() };
    assert!(http.tls.is_none() && matches!(http.credentials, Some(Credentials::Bearer(_))));
    let Tunnel::Socks5(socks) = &config.tunnels["acme"] else { panic!() };
    assert_eq!(socks.credentials.as_ref().unwrap().1.expose(), b"0123456789abcdef");
    assert!(matches!(&config.tunnels["connector"], Tunnel::Connector(name) if name == "acme"));
}

#[test]
fn later_files_and_then_the_environment_win_and_tables_of_files_add_up() {
    let client = |name: &str, token: &str| {
        format!("[[clients]]\nname = \"{name}\"\ntoken = {token}\ntargets = [\"*\"]\n")
    };
    let first = format!(
        "state_dir = \"a\"\n[proxy]\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n[limits]\n\
         max_connections = 1\nmax_in_flight_per_target = 7\n{}{}",
        client("a", "{ env = \"TOKEN\" }"),
        target("a", ""),
    );
    let second = format!(
        "state_dir = \"b\"\n[proxy]\nlisten = [\"127.0.0.1:3\"]\n[limits]\nmax_connections = 2\n\
         {}{}",
        client("b", "{ file = \"long\" }"),
        target("b", ""),
    );
    let files = [("first.toml", first.as_str()), ("second.toml", second.as_str())];
    let config = load_texts(&files, &[]).unwrap().config;
    assert_eq!(config.state_dir, Path::new("b"));
    assert_eq!(config.proxy.listen, ["127.0.0.1:3".parse().unwrap()]);
    assert_eq!(config.limits.max_connections, 2);
    assert_eq!(config.limits.max_in_flight_per_target, 7);
    let clients: Vec<_> = config.clients.iter().map(|client| client.name.as_str()).collect();
    assert_eq!(clients, ["a", "b"]);
    let targets: Vec<_> = config.targets.iter().map(|target| target.id.as_str()).collect();
    assert_eq!(targets, ["a", "b"]);

    let variables = [
        ("EGRESS_STATE_DIR", "1"),
        ("EGRESS_PROXY__LISTEN", "127.0.0.1:4,[::1]:5"),
        ("EGRESS_LIMITS__MAX_CONNECTIONS", "3"),
        ("EGRESS_POLICY__REQUIRE_CURRENT_CHECK", "false"),
        ("EGRESS_LISTEN", "ignored: not a setting"),
        ("EGRESS_CLIENT_TOKEN", "ignored: not a setting"),
    ];
    let config = load_texts(&files, &variables).unwrap().config;
    assert_eq!(config.state_dir, Path::new("1"));
    assert_eq!(config.proxy.listen.len(), 2);
    assert_eq!(config.limits.max_connections, 3);
    assert!(!config.policy.require_current_check);
}

fn target(id: &str, more: &str) -> String {
    format!(
        "[[targets]]\nid = \"{id}\"\nprovider_key = \"jira_data_center\"\n\
         deployment_mode = \"self-hosted\"\nbase_url = \"https://{id}.example\"\n{more}"
    )
}

#[test]
fn problems_name_the_file_or_variable_that_is_to_be_corrected() {
    let first = "[limits]\nmax_connections = 0\nidle_timeout = \"1\"\n[[clients]]\nname = \"a\"\n";
    let second = "\n[limits]\nidle_timeout = \"2\"\n\n[[clients]]\nname = \"a\"\n";
    let variables = [("EGRESS_LIMITS__HEADER_TIMEOUT", "10"), ("EGRESS_PROXY__LISEN", "x")];
    let found = problems(&[("first.toml", first), ("second.toml", second)], &variables);
    let places: Vec<_> =
        found.iter().map(|line| line.split(": ").next().unwrap().to_owned()).collect();
    assert_eq!(
        places,
        [
            "first.toml:2",
            "first.toml:4",
            "first.toml:4",
            "second.toml:3",
            "second.toml:5",
            "second.toml:5",
            "second.toml:6",
            "environment EGRESS_LIMITS__HEADER_TIMEOUT",
            "environment EGRESS_PROXY__LISEN",
        ],
        "{found:#?}"
    );
    assert!(found[8].ends_with("unknown key; did you mean `listen`?"), "{found:#?}");
}

#[test]
fn a_secret_of_another_kind_in_a_later_source_replaces_the_earlier_one() {
    let files = [("gateway.toml", "[store]\nkey = { file = \"missing\" }\n")];
    let variables = [("EGRESS_STORE__KEY__ENV", "KEY"), ("KEY", &"0a".repeat(32))];
    let key = load_texts(&files, &variables).unwrap().config.store.key.unwrap();
    assert_eq!(key.expose(), [0x0a; 32]);
    let files = [("gateway.toml", "[store]\nkey = { env = \"UNSET\" }\n")];
    let variables = [("EGRESS_STORE__KEY__FILE", "key.hex")];
    let key = load_texts(&files, &variables).unwrap().config.store.key.unwrap();
    assert_eq!(key.expose(), [0x0f; 32]);
    let files = [("gateway.toml", "[store]\nkey = 5\n")];
    let whole = [("EGRESS_STORE__KEY", "{file=\"key.hex\"}")];
    let key = load_texts(&files, &whole).unwrap().config.store.key.unwrap();
    assert_eq!(key.expose(), [0x0f; 32]);
}

#[test]
fn relative_paths_are_relative_to_the_file_that_names_them() {
    let text = format!(
        "[store]\nkey = {{ file = \"key\" }}\n[tls]\nextra_roots = [\"ca.pem\"]\n[[clients]]\n\
         name = \"a\"\ntoken = {{ file = \"token\" }}\ntargets = [\"*\"]\n{}",
        target(
            "a",
            "signing_secret = { file = \"signing\" }\ntls = { ca_file = \"target.pem\" }\n"
        ),
    );
    let mut world = world();
    let ca = world.files[Path::new("ca.pem")].clone();
    world.files = [
        ("/etc/egress/gateway.toml", text.into_bytes()),
        ("/etc/egress/key", "0f".repeat(32).into_bytes()),
        ("/etc/egress/ca.pem", ca.clone()),
        ("/etc/egress/token", b"0123456789abcdef".to_vec()),
        ("/etc/egress/signing", b"0123456789abcdef".to_vec()),
        ("/etc/egress/target.pem", ca),
    ]
    .map(|(path, content)| (path.into(), content))
    .into();
    let loaded = load_from(&["/etc/egress/gateway.toml".into()], &world).unwrap();
    assert_eq!(loaded.config.tls.extra_roots, [PathBuf::from("/etc/egress/ca.pem")]);
    assert_eq!(loaded.files.len(), 6);
    let tls = loaded.config.targets[0].tls.as_ref().unwrap();
    assert_eq!(tls.ca_file.as_deref(), Some(Path::new("/etc/egress/target.pem")));

    world.variables.insert("EGRESS_STORE__KEY__FILE".into(), "key".into());
    let invalid = load_from(&["/etc/egress/gateway.toml".into()], &world).unwrap_err();
    assert_eq!(
        invalid.to_string(),
        "environment EGRESS_STORE__KEY__FILE: cannot read key: entity not found"
    );
    assert!(invalid.files.iter().any(|seen| seen.path() == Path::new("key")));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let mut world = world();
    world.files.insert("latin1.toml".into(), b"a = 1\nb = \"\xe9\"\n".to_vec());
    let invalid = load_from(&["latin1.toml".into(), "missing.toml".into()], &world).unwrap_err();
    assert_eq!(
        invalid.to_string(),
        "latin1.toml: is not UTF-8 text, from line 2 on\nmissing.toml: cannot be read: entity not \
         found"
    );
    assert_eq!(invalid.files.len(), 2);
}

#[test]
fn an_expired_certificate_is_warned_of() {
    let mut world = world();
    let expired = pem(&["proxy.example"], false, 2025);
    world.files.insert("expired.pem".into(), expired.certificate.into_bytes());
    world.files.insert("expired.key".into(), expired.key.into_bytes());
    let text = "[proxy]\ntls = { cert_file = \"expired.pem\", key_file = \"expired.key\" }\n";
    world.files.insert("gateway.toml".into(), text.into());
    let loaded = load_from(&["gateway.toml".into()], &world).unwrap();
    assert_eq!(
        loaded.warnings,
        ["proxy.tls.cert_file: the certificate in expired.pem has expired"]
    );
}

#[test]
fn ranges_that_lack_the_egress_address_are_warned_of() {
    let text = "[egress]\nip = \"203.0.113.10\"\nranges = \"198.51.100.0/24\"\n";
    let warnings = load_texts(&[("gateway.toml", text)], &[]).unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("203.0.113.10"), "{warnings:?}");
}

/// Both ways to parse a file have to agree in everything: what they find, and where.
#[test]
fn targets_parsed_alone_and_whole_are_alike() {
    let corpus: Vec<String> =
        cases("invalid").into_values().chain(cases("valid").into_values()).collect();
    let made = [
        format!("{}\n[proxy]\nlisten = \"127.0.0.1:1\"\n{}", target("a", ""), target("b", "")),
        format!("{}\n{}\n", target("a", "[targets.labels]\nx = \"y\"\n"), target("b", "")),
        format!("{}# [[targets]]\n{}", target("a", "# [proxy]\n"), target("b", "x = 1\n")),
        target("a", "redirects = [\n  [\"https://a.example\"],\n]\n"),
        target("a", "redirects = [\n  \"https://b.example\",\n]\n"),
        target("a", "redirects = [\n  [1]]\n"),
        target("a", "labels = {\n  a = \"b\"\n}\n"),
        target("a", "").replace("[[targets]]", "  [[targets]] # first"),
        target("a", "").replace("[[targets]]", "[[ targets ]]"),
        format!("{}{}", target("a", ""), target("b", "").replace("[[targets]]", "[[ targets ]]")),
        format!("{}{}", target("a", ""), target("b", "").replace("[[targets]]", "[[\"targets\"]]")),
        format!("{}[ targets . labels ]\na = \"b\"\n", target("a", "")),
        format!("{}[targets.limits]\nmax_in_flight = 1\n[targets.limits]\n", target("a", "")),
        format!("targets = []\n{}", target("a", "")),
        format!("targets.x = 1\n{}", target("a", "")),
        format!("[targets]\nx = 1\n{}", target("a", "")),
        target("a", "").replace('\n', "\r\n"),
        format!("\u{feff}{}", target("a", "x = 1\n")),
        format!("{}[[targets.x]]\ny = 1\n", target("a", "")),
        target("a", "x = \"\n"),
        target("a", "[[targets]]"),
        target("a", "[[targets]"),
        target("a", "[[targets]]]"),
        target("a", "[[targets]] x = 1"),
        "[[targets]]".to_owned(),
    ];
    let (mut seen, mut accepted) = (0, 0);
    for text in corpus.iter().chain(&made).filter(|text| text.contains("targets")) {
        // A comment that could be the end of a multi-line string has the text parsed whole.
        let whole = format!("{text}\n# '''\n");
        let alone = load_texts(&[("gateway.toml", text)], &[]);
        let whole = load_texts(&[("gateway.toml", &whole)], &[]);
        assert_eq!(
            alone.as_ref().map(|loaded| format!("{:?}", loaded.config)),
            whole.as_ref().map(|loaded| format!("{:?}", loaded.config)),
            "{text}"
        );
        seen += 1;
        accepted += usize::from(alone.is_ok());
    }
    assert!(seen > 30 && accepted > 6, "{seen} {accepted}");
}

#[test]
fn a_hundred_levels_of_tables_do_no_harm() {
    let dotted = vec!["a"; 79].join(".");
    let nested = format!("{dotted} = {}1{}", format!("{{ {dotted} = ").repeat(78), "}".repeat(78));
    for text in [nested, "a = ".to_owned() + &"[".repeat(100_000), "[a.".repeat(50_000)] {
        assert!(!check_text(&text).is_empty());
    }
}

#[test]
fn a_text_is_checked_without_a_look_at_anything_else() {
    assert_eq!(check_text("[store]\nkey = { file = \"key.hex\" }\n"), [""; 0]);
    assert_eq!(
        check_text("[store]\nkey = { file = \"/etc/passwd\" }\n[proxy]\nlisten = \"0.0.0.0:1\"\n")
            .len(),
        2
    );
}

/// What is put into texts at random places.
const SNIPPETS: &[&str] = &[
    "\n[[targets]]\n",
    "\n[targets]\n",
    "\n[targets.tls]\n",
    "\n[[targets.x]]\n",
    "\n[ targets . limits ]\n",
    "\n[[\"targets\"]]\n",
    "targets = []\n",
    "targets.id = 1\n",
    "\n[proxy]\n",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    "#",
    "\n",
    "\r",
    ",",
    "=",
    ".",
    "\\",
    "\u{feff}",
    "é",
    "\0",
];

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(2000))]
    #[test]
    fn however_a_text_is_spoilt_both_ways_to_parse_it_agree(
        case in 0_usize..1000,
        edits in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), 0_usize..60, 0_usize..40), 1..5),
    ) {
        static CORPUS: std::sync::LazyLock<Vec<String>> = std::sync::LazyLock::new(|| {
            cases("invalid").into_values().chain(cases("valid").into_values()).collect()
        });
        let mut text = CORPUS[case % CORPUS.len()].clone();
        for (at, snippet, removed) in edits {
            let boundary = |text: &str, at: usize| {
                (at..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap()
            };
            let begins = boundary(&text, at.index(text.len() + 1));
            if let Some(snippet) = SNIPPETS.get(snippet) {
                text.insert_str(begins, snippet);
            } else {
                let ends = boundary(&text, (begins + removed).min(text.len()));
                text.replace_range(begins..ends, "");
            }
        }
        let multi_line = text.contains("\"\"\"") || text.contains("'''");
        // Behind these, the comment that has a text parsed whole would be another text.
        if !multi_line && !text.ends_with('\r') {
            let whole = check_text(&format!("{text}\n# '''\n"));
            let alone = check_text(&text);
            // A syntax error at the end is, with more behind it, elsewhere.
            let is_syntax = |found: &[String]| {
                let column = found.first().and_then(|problem| problem.split(':').nth(2));
                column.is_some_and(|column| column.parse::<u32>().is_ok())
            };
            if is_syntax(&alone) || is_syntax(&whole) {
                proptest::prop_assert!(is_syntax(&alone) && is_syntax(&whole), "{alone:?} {whole:?}");
            } else {
                proptest::prop_assert_eq!(alone, whole);
            }
        }
    }
}
