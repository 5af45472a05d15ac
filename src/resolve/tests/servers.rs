//! Which servers are asked, and in which order.

use super::super::server::servers_in;
use super::*;

fn parsed(text: &str) -> Result<Server, ServerParseError> {
    text.parse()
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn servers_are_read_in_every_form_and_shown_as_they_are_read() {
    let tls = |address, name: &str| Server::Tls { address: socket(address), name: name.to_owned() };
    let https = |address, path: &str, name: &str| Server::Https {
        address: socket(address),
        path: path.to_owned(),
        name: name.to_owned(),
    };
    for (text, server) in [
        ("198.51.100.53", Server::Plain(socket("198.51.100.53:53"))),
        ("198.51.100.53:5353", Server::Plain(socket("198.51.100.53:5353"))),
        ("2001:db8::53", Server::Plain(socket("[2001:db8::53]:53"))),
        ("[2001:db8::53]", Server::Plain(socket("[2001:db8::53]:53"))),
        ("[2001:db8::53]:5353", Server::Plain(socket("[2001:db8::53]:5353"))),
        ("::ffff:198.51.100.53", Server::Plain(socket("198.51.100.53:53"))),
        ("tls://198.51.100.53#dns.example", tls("198.51.100.53:853", "dns.example")),
        ("tls://198.51.100.53:8853#DNS.example", tls("198.51.100.53:8853", "dns.example")),
        ("tls://[2001:db8::53]", tls("[2001:db8::53]:853", "2001:db8::53")),
        ("tls://198.51.100.53", tls("198.51.100.53:853", "198.51.100.53")),
        ("https://198.51.100.53", https("198.51.100.53:443", "/dns-query", "198.51.100.53")),
        (
            "https://[2001:db8::53]:8443/q?x=1#dns.example",
            https("[2001:db8::53]:8443", "/q?x=1", "dns.example"),
        ),
    ] {
        assert_eq!(parsed(text), Ok(server.clone()), "{text}");
        if !text.starts_with("tls://[") {
            assert_eq!(parsed(&server.to_string()), Ok(server), "{text}");
        }
    }
}

#[test]
fn what_is_no_server_is_refused_with_a_reason() {
    use ServerParseError as E;
    let text = str::to_owned;
    for (written, error) in [
        ("dns.example", E::NotAnAddress(text("dns.example"))),
        ("dns.example:53", E::NotAnAddress(text("dns.example:53"))),
        ("tls://dns.example", E::NotAnAddress(text("dns.example"))),
        ("https://dns.example/dns-query", E::NotAnAddress(text("dns.example"))),
        ("https://user@198.51.100.53/", E::NotAnAddress(text("user@198.51.100.53"))),
        ("[198.51.100.53]", E::NotAnAddress(text("[198.51.100.53]"))),
        ("198.51.100.53:", E::NotAnAddress(text("198.51.100.53:"))),
        ("198.51.100.53:65536", E::NotAnAddress(text("198.51.100.53:65536"))),
        ("198.051.100.53", E::NotAnAddress(text("198.051.100.53"))),
        (" 198.51.100.53", E::NotAnAddress(text(" 198.51.100.53"))),
        ("", E::NotAnAddress(String::new())),
        ("198.51.100.53:0", E::Unusable(socket("198.51.100.53:0"))),
        ("0.0.0.0", E::Unusable(socket("0.0.0.0:53"))),
        ("tls://[::]", E::Unusable(socket("[::]:853"))),
        ("224.0.0.251:5353", E::Unusable(socket("224.0.0.251:5353"))),
        ("255.255.255.255", E::Unusable(socket("255.255.255.255:53"))),
        ("udp://198.51.100.53", E::Scheme(text("udp://"))),
        ("198.51.100.53#dns.example", E::Superfluous(text("#dns.example"))),
        ("198.51.100.53/dns-query", E::Superfluous(text("/dns-query"))),
        ("tls://198.51.100.53/dns-query", E::Superfluous(text("/dns-query"))),
        ("tls://198.51.100.53#", E::Name(String::new())),
        ("tls://198.51.100.53#a b", E::Name(text("a b"))),
        ("https://198.51.100.53/#2001:db8::53", E::Name(text("2001:db8::53"))),
        ("https://198.51.100.53/a b", E::Path(text("/a b"))),
        ("https://[2001:db8::53]/dns-query", E::NameNeeded),
    ] {
        assert_eq!(parsed(written), Err(error), "{written}");
    }
    let told = parsed("tls://dns.example").unwrap_err().to_string();
    assert!(told.contains("tls://ADDRESS#NAME"), "{told}");
}

#[test]
fn of_the_system_only_the_name_servers_are_taken() {
    let text = "# made by hand\nsearch corp.example\noptions ndots:5 rotate\ndomain corp.example\n\
                nameserver 198.51.100.53\n\tnameserver\t2001:db8::53 # second\n;nameserver 192.0.2.9\n\
                nameserver fe80::1%eth0\nnameserver\nnameserver dns.example\nnameserver 0.0.0.0\n\
                nameservers 192.0.2.9\n";
    let servers = ["198.51.100.53:53", "[2001:db8::53]:53"].map(|at| Server::Plain(socket(at)));
    assert_eq!(servers_in(text), servers);
    assert_eq!(servers_in("nameserver 192.0.2.9\n".repeat(20).as_str()).len(), SERVERS_MAX);
}

#[test]
fn settings_that_could_never_work_are_refused() {
    let plain = |at| Server::Plain(socket(at));
    let v4 = EgressAddresses { v4: Some(Ipv4Addr::LOCALHOST), v6: None };
    let anywhere = EgressAddresses::default();
    let new = |servers, egress: &EgressAddresses| {
        Resolver::new(Settings::new(servers, LONG, egress.clone())).map(|_| ())
    };
    assert!(matches!(new(vec![], &anywhere), Err(SettingsError::NoServers)));
    let too_many = vec![plain("192.0.2.9:53"); SERVERS_MAX + 1];
    assert!(matches!(new(too_many, &anywhere), Err(SettingsError::TooManyServers(9))));
    let mixed = vec![plain("192.0.2.9:53"), plain("[2001:db8::9]:53")];
    assert!(new(mixed.clone(), &anywhere).is_ok());
    let error = new(mixed, &v4).unwrap_err();
    assert!(
        matches!(error, SettingsError::FamilyUnavailable(at) if at == socket("[2001:db8::9]:53"))
    );
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_fails_and_stays_the_first_to_be_asked() {
    let failing = NameServer::start(|_| Say::None(ResponseCode::ServFail, None)).await;
    let refusing = NameServer::start(|_| Say::None(ResponseCode::Refused, None)).await;
    let gone = closed_port();
    let good = NameServer::start(usual).await;
    let servers = [failing.address, refusing.address, gone, good.address];
    let resolver = resolver_with(&servers, LONG);
    let started = Instant::now();
    assert!(resolver.resolve("one.example").await.unwrap().complete);
    assert!(started.elapsed() < Duration::from_secs(1), "at once: {:?}", started.elapsed());
    assert!(resolver.resolve("two.example").await.unwrap().complete);
    let asked = |server: &NameServer| server.asked().len();
    assert_eq!((asked(&failing), asked(&refusing), asked(&good)), (2, 2, 4));
}

#[tokio::test]
async fn a_silent_server_is_joined_by_the_next() {
    let silent = NameServer::start(|_| Say::Nothing).await;
    let good = NameServer::start(usual).await;
    let resolver = resolver_with(&[silent.address, good.address], LONG);
    let started = Instant::now();
    assert!(resolver.resolve("www.example").await.unwrap().complete);
    assert!(started.elapsed() < LONG / 4, "{:?}", started.elapsed());
    // also when the whole time is short
    let hurried = resolver_with(&[silent.address, good.address], Duration::from_secs(1));
    assert!(hurried.resolve("www.example").await.unwrap().complete);
}

#[tokio::test]
async fn a_server_that_says_no_such_name_is_believed() {
    let first = NameServer::start(|_| Say::None(ResponseCode::NXDomain, Some(60))).await;
    let second = NameServer::start(usual).await;
    let found = resolver_with(&[first.address, second.address], LONG).resolve("www.example").await;
    assert_eq!(found, Err(ResolveError::NxDomain));
    assert!(second.asked().is_empty());
}

#[tokio::test]
async fn when_all_servers_fail_the_most_telling_failure_is_reported() {
    let refusing = NameServer::start(|_| Say::None(ResponseCode::Refused, None)).await;
    let failing = NameServer::start(|_| Say::None(ResponseCode::ServFail, None)).await;
    let gone = closed_port();
    for servers in
        [[gone, failing.address, refusing.address], [refusing.address, failing.address, gone]]
    {
        let found = resolver_with(&servers, LONG).resolve("www.example").await;
        assert_eq!(found, Err(ResolveError::Refused));
    }
    let found = resolver_with(&[gone, failing.address], LONG).resolve("www.example").await;
    assert_eq!(found, Err(ResolveError::ServFail));
}
