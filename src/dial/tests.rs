//! Dialling against real sockets; whatever needs a firewall or a route has its own network namespace.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::{Ipv4RecvErr, Ipv6RecvErr};

use super::*;

const LONG: Duration = Duration::from_secs(20);

/// Runs `script` and then `test` in a network namespace of its own, by starting this very test
/// once more in there.
fn in_namespace(name: &str, script: &str, test: impl AsyncFnOnce()) {
    if std::env::var_os("EGRESS_TEST_IN_NAMESPACE").is_some() {
        run(test());
        return;
    }
    let script = format!("ip link set lo up\n{script}\nexec \"$0\" \"$@\"");
    let output = Command::new("unshare")
        .args(["-Urn", "sh", "-ec", &script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("dial::tests::{name}"), "--nocapture"])
        .env("EGRESS_TEST_IN_NAMESPACE", "1")
        .output()
        .expect("unshare (util-linux) is needed for this test");
    let (told, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && told.contains("1 passed"),
        "needs user namespaces (kernel.unprivileged_userns_clone, user.max_user_namespaces), ip \
         and nft:\n{told}\n{errors}"
    );
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn listener(address: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn dial(addresses: &[SocketAddr]) -> Result<Dialled, DialError> {
    Direct::new(EgressAddresses::default(), LONG).connect_unvetted(addresses).await
}

#[test]
fn a_listener_is_reached_and_the_stream_is_ready_for_use() {
    run(async {
        let (_listener, address) = listener("127.0.0.1:0");
        let dialled = dial(&[address]).await.unwrap();
        assert_eq!(dialled.address, address);
        assert_eq!(dialled.stream.peer_addr().unwrap(), address);
        assert!(dialled.stream.nodelay().unwrap());
        assert!(socket2::SockRef::from(&dialled.stream).keepalive().unwrap());
        // a later ICMP error must not end the connection
        assert!(!getsockopt(&dialled.stream, Ipv4RecvErr).unwrap());
    });
}

#[test]
fn the_server_sees_the_egress_address() {
    run(async {
        let (listener, address) = listener("127.0.0.1:0");
        let egress = EgressAddresses { v4: Some(Ipv4Addr::new(127, 0, 0, 2)), v6: None };
        let _dialled = Direct::new(egress, LONG).connect_unvetted(&[address]).await.unwrap();
        let (_stream, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), IpAddr::from([127, 0, 0, 2]));
    });
}

#[test]
fn a_mapped_address_leaves_from_the_ipv4_egress_address() {
    run(async {
        let (listener, address) = listener("127.0.0.1:0");
        let mapped = SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), address.port());
        let v4 = EgressAddresses { v4: Some(Ipv4Addr::new(127, 0, 0, 2)), v6: None };
        let dialled = Direct::new(v4, LONG).connect_unvetted(&[mapped]).await.unwrap();
        assert_eq!(listener.accept().unwrap().1.ip(), IpAddr::from([127, 0, 0, 2]));
        assert_eq!(dialled.address, mapped);
        let v6 = EgressAddresses { v4: None, v6: Some(Ipv6Addr::LOCALHOST) };
        let error = Direct::new(v6, LONG).connect_unvetted(&[mapped]).await.unwrap_err();
        assert!(matches!(error, DialError::FamilyUnavailable), "{error:?}");
    });
}

#[test]
fn a_family_without_egress_address_is_not_used_while_the_other_has_one() {
    run(async {
        let (_listener, v4) = listener("127.0.0.1:0");
        let v6 = at("[2001:db8::1]:443");
        let egress = EgressAddresses { v4: Some(Ipv4Addr::LOCALHOST), v6: None };
        let direct = Direct::new(egress, LONG);
        assert_eq!(direct.connect_unvetted(&[v6, v4]).await.unwrap().address, v4);
        let error = direct.connect_unvetted(&[v6]).await.unwrap_err();
        assert!(matches!(error, DialError::FamilyUnavailable), "{error:?}");
        let error = direct.connect_unvetted(&[]).await.unwrap_err();
        assert!(matches!(error, DialError::FamilyUnavailable), "{error:?}");
    });
}

#[test]
fn an_egress_address_that_is_gone_is_told_from_an_unreachable_target() {
    run(async {
        let (_listener, address) = listener("127.0.0.1:0");
        let egress = EgressAddresses { v4: Some(Ipv4Addr::new(203, 0, 113, 99)), v6: None };
        let error = Direct::new(egress, LONG).connect_unvetted(&[address]).await.unwrap_err();
        assert!(matches!(error, DialError::SourceUnavailable), "{error:?}");
    });
}

#[test]
fn a_peer_other_than_the_one_dialled_is_refused() {
    run(async {
        // Linux takes 0.0.0.0 for the loopback address
        let (_listener, address) = listener("127.0.0.1:0");
        let wanted = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
        let error = dial(&[wanted]).await.unwrap_err();
        assert!(matches!(error, DialError::PeerMismatch), "{error:?}");
    });
}

#[test]
fn a_connection_reset_before_it_was_looked_at_is_told_from_a_refused_one() {
    run(async {
        let (listener, address) = listener("127.0.0.1:0");
        let wanted = [address];
        let reset = async {
            let (stream, _) = listener.accept().unwrap();
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        };
        // polled in this order in one task: the reset comes before the second look
        let (dialled, ()) = tokio::join!(biased; dial(&wanted), reset);
        assert!(matches!(dialled, Err(DialError::ResetAfterConnect)), "{dialled:?}");
    });
}

#[test]
fn missing_egress_addresses_are_found() {
    let present = EgressAddresses { v4: Some(Ipv4Addr::LOCALHOST), v6: None };
    assert_eq!(present.missing().unwrap(), Vec::<IpAddr>::new());
    let absent = EgressAddresses {
        v4: Some(Ipv4Addr::new(203, 0, 113, 99)),
        v6: Some("2001:db8::99".parse().unwrap()),
    };
    let both: Vec<IpAddr> = vec![[203, 0, 113, 99].into(), "2001:db8::99".parse().unwrap()];
    assert_eq!(absent.missing().unwrap(), both);
}

#[test]
fn own_addresses_are_listed() {
    in_namespace(
        "own_addresses_are_listed",
        "ip addr add 203.0.113.7/32 dev lo; ip addr add 2001:db8::7/128 dev lo
         ip link add eth7 type veth; ip addr add 198.51.100.7/24 dev eth7",
        async || {
            let listed = interface_addresses().unwrap();
            for (name, address, loopback) in [
                ("lo", "127.0.0.1", true),
                ("lo", "203.0.113.7", true),
                ("lo", "2001:db8::7", true),
                ("eth7", "198.51.100.7", false),
            ] {
                let address = address.parse().unwrap();
                let expected = Interface { name: name.to_owned(), address, loopback };
                assert!(listed.contains(&expected), "{expected:?} in {listed:?}");
            }
        },
    );
}

#[test]
fn causes_are_told_apart() {
    in_namespace(
        "causes_are_told_apart",
        "ip addr add 203.0.113.7/32 dev lo; ip addr add 2001:db8::7/128 dev lo nodad
         ip route add prohibit 198.51.100.1; ip route add unreachable 198.51.100.2
         nft -f - <<'END'
table inet t {
  chain i {
    type filter hook input priority 0;
    meta nfproto ipv4 tcp dport 1000 reject with icmp net-prohibited
    meta nfproto ipv4 tcp dport 1001 reject with icmp host-prohibited
    meta nfproto ipv4 tcp dport 1002 reject with icmp admin-prohibited
    meta nfproto ipv4 tcp dport 1003 reject with icmp port-unreachable
    meta nfproto ipv4 tcp dport 1004 reject with icmp host-unreachable
    meta nfproto ipv4 tcp dport 1005 reject with icmp net-unreachable
    tcp dport 1006 reject with tcp reset
    meta nfproto ipv6 tcp dport 1002 reject with icmpv6 admin-prohibited
    meta nfproto ipv6 tcp dport 1003 reject with icmpv6 port-unreachable
    meta nfproto ipv6 tcp dport 1004 reject with icmpv6 addr-unreachable
    meta nfproto ipv6 tcp dport 1005 reject with icmpv6 no-route
    tcp dport 1007 drop
  }
}
END",
        async || {
            let direct = Direct::new(EgressAddresses::default(), Duration::from_millis(300));
            for (address, cause) in [
                ("203.0.113.7:1000", "Prohibited"),
                ("203.0.113.7:1001", "Prohibited"),
                ("203.0.113.7:1002", "Prohibited"),
                ("203.0.113.7:1003", "Prohibited"),
                ("203.0.113.7:1004", "HostUnreachable"),
                ("203.0.113.7:1005", "NetworkUnreachable"),
                ("203.0.113.7:1006", "Refused"),
                ("203.0.113.7:1007", "Timeout"),
                ("203.0.113.7:1008", "Refused"),
                ("[2001:db8::7]:1002", "Prohibited"),
                ("[2001:db8::7]:1003", "Prohibited"),
                ("[2001:db8::7]:1004", "HostUnreachable"),
                ("[2001:db8::7]:1005", "NetworkUnreachable"),
                ("[2001:db8::7]:1006", "Refused"),
                ("[2001:db8::7]:1007", "Timeout"),
                ("198.51.100.1:443", "Prohibited"),
                ("198.51.100.2:443", "HostUnreachable"),
                ("198.51.100.3:443", "NetworkUnreachable"),
                ("[2001:db8:9::1]:443", "NetworkUnreachable"),
            ] {
                let error = direct.connect_unvetted(&[at(address)]).await.unwrap_err();
                assert_eq!(format!("{error:?}"), cause, "{address}");
            }
            // of several, the most telling
            for (addresses, cause) in [
                (["[2001:db8:9::1]:443", "203.0.113.7:1007"], "Timeout"),
                (["[2001:db8::7]:1007", "203.0.113.7:1002"], "Prohibited"),
                (["[2001:db8::7]:1002", "203.0.113.7:1008"], "Refused"),
                (["203.0.113.7:1008", "203.0.113.7:1007"], "Refused"),
            ] {
                let error = direct.connect_unvetted(&addresses.map(at)).await.unwrap_err();
                assert_eq!(format!("{error:?}"), cause, "{addresses:?}");
            }
        },
    );
}

#[test]
fn a_dead_first_address_costs_a_quarter_of_a_second_and_a_refusing_one_nothing() {
    in_namespace(
        "a_dead_first_address_costs_a_quarter_of_a_second_and_a_refusing_one_nothing",
        "ip addr add 203.0.113.7/32 dev lo; ip addr add 2001:db8::7/128 dev lo nodad
         ip addr add 2001:db8::8/128 dev lo nodad
         nft 'table inet t { chain i { type filter hook input priority 0; ip6 daddr 2001:db8::7 tcp dport 443 drop; }; }'",
        async || {
            let (_v4, v4) = listener("203.0.113.7:443");
            let started = tokio::time::Instant::now();
            let dialled = dial(&[v4, at("[2001:db8::7]:443")]).await.unwrap();
            assert_eq!(dialled.address, v4);
            let delay = Duration::from_millis(250);
            assert!(dialled.elapsed >= delay, "IPv6 first: {:?}", dialled.elapsed);
            assert!(dialled.elapsed <= started.elapsed());
            assert!(dialled.elapsed < LONG / 2, "{:?}", dialled.elapsed);

            let dialled = dial(&[v4, at("[2001:db8::8]:443")]).await.unwrap();
            assert_eq!(dialled.address, v4);
            assert!(dialled.elapsed < delay, "at once after a refusal: {:?}", dialled.elapsed);

            let (_v6, v6) = listener("[2001:db8::8]:443");
            let dialled = dial(&[v4, v6]).await.unwrap();
            assert_eq!(dialled.address, v6);
            assert!(!getsockopt(&dialled.stream, Ipv6RecvErr).unwrap());

            let egress = EgressAddresses { v4: None, v6: "2001:db8::7".parse().ok() };
            let dialled = Direct::new(egress, LONG).connect_unvetted(&[v4, v6]).await.unwrap();
            let from = dialled.stream.local_addr().unwrap().ip();
            assert_eq!((dialled.address, from), (v6, at("[2001:db8::7]:0").ip()));
        },
    );
}

#[test]
fn one_port_serves_connections_to_many_targets() {
    in_namespace(
        "one_port_serves_connections_to_many_targets",
        "ip addr add 203.0.113.7/32 dev lo; ip addr add 2001:db8::7/128 dev lo nodad
         ip addr add 2001:db8::8/128 dev lo nodad
         echo 40000 40003 > /proc/sys/net/ipv4/ip_local_port_range",
        async || {
            let egress = EgressAddresses {
                v4: Some(Ipv4Addr::new(203, 0, 113, 7)),
                v6: "2001:db8::7".parse().ok(),
            };
            let direct = Direct::new(egress, LONG);
            let (mut open, mut listeners) = (Vec::new(), Vec::new());
            for targets in [
                ["127.0.0.1:443", "127.0.0.2:443", "127.0.0.3:443"],
                ["[2001:db8::7]:443", "[2001:db8::8]:443", "[::1]:443"],
            ] {
                for target in targets {
                    let (listener, target) = listener(target);
                    // the kernel looks for even ports first; all four are to be had
                    for _ in 0..4 {
                        open.push(direct.connect_unvetted(&[target]).await.unwrap().stream);
                    }
                    let error = direct.connect_unvetted(&[target]).await.unwrap_err();
                    assert!(matches!(error, DialError::SourceUnavailable), "{error:?}");
                    listeners.push(listener); // dropped, it would reset them
                }
            }
            assert_eq!(open.len(), 24);
        },
    );
}

#[test]
fn at_most_eight_addresses_are_tried() {
    in_namespace(
        "at_most_eight_addresses_are_tried",
        "ip addr add 2001:db8::7/128 dev lo nodad",
        async || {
            let (_ninth, ninth) = listener("127.0.0.9:443");
            let mut addresses: Vec<_> =
                (1..=8).map(|last| at(&format!("127.0.0.{last}:443"))).collect();
            addresses.push(ninth);
            let error = dial(&addresses).await.unwrap_err();
            assert!(matches!(error, DialError::Refused), "{error:?}");
            assert_eq!(dial(&addresses[1..]).await.unwrap().address, ninth);
            // doubles do not count
            addresses = [vec![addresses[0]; 20], vec![ninth]].concat();
            assert_eq!(dial(&addresses).await.unwrap().address, ninth);
        },
    );
}

#[test]
fn a_lost_attempt_is_closed() {
    in_namespace(
        "a_lost_attempt_is_closed",
        "ip addr add 203.0.113.7/32 dev lo
         nft 'table inet t { chain i { type filter hook input priority 0; ip daddr 203.0.113.7 tcp dport 443 drop; }; }'",
        async || {
            let (_listener, address) = listener("127.0.0.1:443");
            let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
            let before = open();
            let dialled = dial(&[at("203.0.113.7:443"), address]).await.unwrap();
            assert_eq!(dialled.address, address);
            assert_eq!(open(), before + 1);
            drop(dialled);
            // nor is anything left when the time is over
            let direct = Direct::new(EgressAddresses::default(), Duration::from_millis(50));
            let error = direct.connect_unvetted(&[at("203.0.113.7:443")]).await.unwrap_err();
            assert!(matches!(error, DialError::Timeout), "{error:?}");
            assert_eq!(open(), before);
        },
    );
}

#[test]
fn running_out_of_descriptors_is_told() {
    in_namespace("running_out_of_descriptors_is_told", "ulimit -n 64", async || {
        let (_listener, address) = listener("127.0.0.1:0");
        let mut hoard = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            hoard.push(file);
        }
        let error = dial(&[address]).await.unwrap_err();
        assert!(matches!(error, DialError::TooManyFiles), "{error:?}");
    });
}
