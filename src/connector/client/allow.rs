//! The connector's own allowlist: addresses and ports, never names.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    str::FromStr,
};

use ipnet::IpNet;

use crate::policy::address::{Class, classify};

/// What the connector opens. Empty, it opens nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowlist(Vec<Entry>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    net: IpNet,
    ports: RangeInclusive<u16>,
}

/// What is not an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an address or network with a port or ports, such as 10.20.0.0/16:443, \
     10.20.0.53:53, [fd00:20::/48]:8000-8099"
)]
pub struct EntryFault(String);

impl Allowlist {
    /// Reads its entries.
    ///
    /// # Errors
    /// The first that is none.
    pub fn parse<'t>(entries: impl IntoIterator<Item = &'t str>) -> Result<Self, EntryFault> {
        let entries: Result<_, _> = entries.into_iter().map(str::parse).collect();
        entries.map(Self)
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it holds this address and port. Loopback, link-local, cloud metadata and whatever
    /// else is never reached through the gateway (contract, section 6) is held only by an entry
    /// for that one address: a network does not hold it by accident.
    pub fn holds(&self, to: SocketAddr) -> bool {
        let address = to.ip().to_canonical();
        let one_by_one = classify(address, false).class == Class::Forbidden;
        self.0.iter().any(|entry| {
            let whole = entry.net.prefix_len() == entry.net.max_prefix_len();
            entry.net.contains(&address)
                && entry.ports.contains(&to.port())
                && (whole || !one_by_one)
        })
    }
}

impl FromStr for Entry {
    type Err = EntryFault;

    fn from_str(text: &str) -> Result<Self, EntryFault> {
        let fault = || EntryFault(text.to_owned());
        let (net, ports) = text.rsplit_once(':').ok_or_else(fault)?;
        let net = match net.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').filter(|inner| inner.contains(':')),
            None => Some(net).filter(|net| !net.contains(':')),
        };
        let net = net.and_then(read_net).ok_or_else(fault)?;
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let (first, last) = (port(first).ok_or_else(fault)?, port(last).ok_or_else(fault)?);
        if first > last {
            return Err(fault());
        }
        Ok(Self { net, ports: first..=last })
    }
}

/// A network without bits behind its prefix, or one address.
fn read_net(text: &str) -> Option<IpNet> {
    let net = match text.parse::<IpNet>() {
        Ok(net) => net,
        Err(_) => IpNet::from(text.parse::<IpAddr>().ok()?),
    };
    // An address is compared as what it is, so a mapped one would hold nothing.
    let mapped = net.addr().to_canonical() != net.addr();
    (net == net.trunc() && !mapped).then_some(net)
}

fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| *port != 0 && plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holds(entries: &[&str], to: &str) -> bool {
        Allowlist::parse(entries.iter().copied()).unwrap().holds(to.parse().unwrap())
    }

    #[test]
    fn an_entry_holds_its_network_and_ports_and_no_others() {
        let entries = ["10.20.0.0/16:443", "10.20.0.53:53", "[fd00:20::/48]:8000-8099"];
        for to in [
            "10.20.0.1:443",
            "10.20.255.255:443",
            "10.20.0.53:53",
            "[::ffff:10.20.0.1]:443",
            "[fd00:20::1]:8000",
            "[fd00:20::1]:8099",
        ] {
            assert!(holds(&entries, to), "{to}");
        }
        for to in [
            "10.21.0.1:443",
            "10.20.0.1:80",
            "10.20.0.54:53",
            "[fd00:20::1]:8100",
            "[fd00:21::1]:8000",
            "93.184.215.14:443",
        ] {
            assert!(!holds(&entries, to), "{to}");
        }
        assert!(!holds(&[], "10.20.0.1:443"));
    }

    #[test]
    fn special_addresses_are_held_one_by_one_or_not_at_all() {
        let wide = ["0.0.0.0/0:1-65535", "[::/0]:1-65535", "127.0.0.0/8:80", "169.254.0.0/16:80"];
        for to in [
            "127.0.0.1:80",
            "169.254.169.254:80",
            "[::1]:80",
            "[fe80::1]:80",
            "0.0.0.0:80",
            "100.100.100.200:80",
            "[::ffff:127.0.0.1]:80",
            "224.0.0.1:80",
            "[fd00:ec2::254]:80",
            "[64:ff9b::7f00:1]:80",
        ] {
            assert!(!holds(&wide, to), "{to}");
        }
        assert!(holds(&wide, "10.0.0.1:80"));
        assert!(holds(&["127.0.0.1:80"], "127.0.0.1:80"));
        assert!(holds(&["[::1]:80"], "[::1]:80"));
        assert!(!holds(&["127.0.0.1:80"], "127.0.0.1:81"));
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        for wrong in [
            "",
            "10.20.0.0/16",
            "10.20.0.0/16:",
            "10.20.0.0/16:0",
            "10.20.0.0/16:65536",
            "10.20.0.0/16:9-8",
            "10.20.0.0/16:+8",
            "10.20.0.1/16:443",
            "jira.acme.example:443",
            "fd00::1:443",
            "[10.20.0.1]:443",
            "[fd00::1:443",
            "*:443",
            "10.20.0.1:*",
            "[::ffff:10.0.0.1]:443",
        ] {
            assert!(Allowlist::parse([wrong]).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _refused = Allowlist::parse([text.as_str()]);
        }
    }
}
