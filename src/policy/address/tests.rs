//! Tests of the address classes, most of them from `tests/cases/addresses.csv`.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

/// `address,class,block`, with comments.
const CASES: &str = include_str!("../../../tests/cases/addresses.csv");

struct Case {
    text: &'static str,
    address: IpAddr,
    class: &'static str,
    block: &'static str,
}

fn cases() -> Vec<Case> {
    let mut lines = CASES.lines();
    assert_eq!(lines.next(), Some("address,class,block"));
    lines
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let fields: Vec<_> = line.split(',').collect();
            let [text, class, block] = fields[..] else { panic!("not three fields: {line}") };
            let address = text.parse().unwrap_or_else(|_| panic!("not an address: {line}"));
            Case { text, address, class, block }
        })
        .collect()
}

fn mapped(inner: Ipv4Addr) -> IpAddr {
    inner.to_ipv6_mapped().into()
}

fn nat64(inner: Ipv4Addr) -> IpAddr {
    Ipv6Addr::from_bits((0x0064_ff9b_u128 << 96) | u128::from(inner.to_bits())).into()
}

fn class_of(text: &str, allow_loopback: bool) -> Class {
    classify(text.parse().unwrap(), allow_loopback).class
}

/// The addresses at the edges of a block: one below, first, last, one above, where there are such.
fn edges(block: &Block) -> Vec<IpAddr> {
    match block.net {
        IpNet::V4(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            [first.checked_sub(1), Some(first), Some(last), last.checked_add(1)]
                .into_iter()
                .flatten()
                .map(|bits| Ipv4Addr::from_bits(bits).into())
                .collect()
        }
        IpNet::V6(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            [first.checked_sub(1), Some(first), Some(last), last.checked_add(1)]
                .into_iter()
                .flatten()
                .map(|bits| Ipv6Addr::from_bits(bits).into())
                .collect()
        }
    }
}

#[test]
fn every_case_is_of_its_class_and_decided_by_its_block() {
    let cases = cases();
    assert!(cases.len() > 350, "only {} cases", cases.len());
    let wrong: Vec<_> = cases
        .iter()
        .filter_map(|case| {
            let verdict = classify(case.address, false);
            let found = (verdict.class.to_string(), verdict.block.name);
            (found != (case.class.to_owned(), case.block)).then(|| {
                format!("{}: want {} {}, got {found:?}", case.text, case.class, case.block)
            })
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_block_has_its_first_last_and_neighbouring_addresses_among_the_cases() {
    let cases: HashMap<_, _> = cases().into_iter().map(|case| (case.address, case)).collect();
    for block in special_purpose() {
        for edge in edges(block) {
            assert!(cases.contains_key(&edge), "no case for {edge}, an edge of {}", block.net);
        }
        let decides =
            cases.values().any(|case| std::ptr::eq(classify(case.address, false).block, block));
        assert!(decides, "no case is decided by {} {}", block.net, block.name);
    }
}

#[test]
fn an_embedded_address_is_judged_in_place_of_the_one_around_it() {
    let mut seen = 0;
    for case in cases() {
        let IpAddr::V4(inner) = case.address else { continue };
        let plain = classify(case.address, false);
        assert_eq!(plain.judged, case.address);
        assert_eq!(classify(mapped(inner), false), plain, "mapped {inner}");
        assert_eq!(classify(nat64(inner), false), plain, "NAT64 {inner}");
        seen += 1;
    }
    assert!(seen > 150, "only {seen} IPv4 cases");
}

#[test]
fn a_forbidden_embedding_is_judged_whole() {
    for text in ["::8.8.8.8", "::ffff:0:8.8.8.8", "64:ff9b:1::808:808", "2002:808:808::1"] {
        let address = text.parse().unwrap();
        assert_eq!(judged_form(address), address);
    }
}

#[test]
fn loopback_is_private_only_where_it_is_allowed() {
    for text in ["127.0.0.1", "127.255.255.255", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"] {
        assert_eq!(class_of(text, false), Class::Forbidden, "{text}");
        assert_eq!(class_of(text, true), Class::Private, "{text}");
    }
}

#[test]
fn allowing_loopback_lifts_nothing_else() {
    let (mut kept, mut lifted) = (0, 0);
    for case in cases() {
        let (strict, lax) = (classify(case.address, false), classify(case.address, true));
        if case.block == "loopback" {
            assert_eq!(lax.class, Class::Private, "{}", case.text);
            assert_eq!(lax.block.source, "policy.allow_loopback");
            assert_eq!(lax.judged, strict.judged);
            lifted += 1;
        } else {
            assert_eq!(lax, strict, "{}", case.text);
            kept += 1;
        }
    }
    assert!(lifted > 8 && kept > 300, "{lifted} lifted, {kept} kept");
    for text in ["0.0.0.0", "::", "::ffff:0.0.0.0", "64:ff9b::", "0.0.0.1", "::127.0.0.1"] {
        assert_eq!(class_of(text, true), Class::Forbidden, "{text}");
    }
}

#[test]
fn no_row_hides_a_later_one() {
    let rows = special_purpose();
    for (at, later) in rows.iter().enumerate() {
        for earlier in &rows[..at] {
            assert!(
                !earlier.net.contains(&later.net),
                "{} {} stands before {} {}",
                earlier.net,
                earlier.name,
                later.net,
                later.name
            );
        }
    }
}

#[test]
fn every_row_is_whole() {
    for row in special_purpose() {
        assert_eq!(row.net, row.net.trunc(), "{} has host bits", row.net);
        assert!(!row.name.is_empty() && row.name == row.name.to_lowercase(), "{row:?}");
        assert!(!row.source.is_empty(), "{row:?}");
    }
}

#[test]
fn the_registry_date_is_a_date() {
    assert!(REGISTRY_DATE.parse::<jiff::civil::Date>().is_ok());
}

#[test]
fn a_class_is_shown_as_its_name_and_ordered_from_worst_to_best() {
    let mut classes = [Class::Global, Class::Forbidden, Class::Private];
    classes.sort();
    assert_eq!(classes.map(|class| class.to_string()), ["forbidden", "private", "global"]);
    assert_eq!(format!("{:>9}|", Class::Global), "   global|");
}

/// Any address, more often near the edge of a block or behind an embedding than chance would have.
fn any_address() -> impl Strategy<Value = IpAddr> {
    let edge = (0..special_purpose().len(), 0..4_usize).prop_map(|(row, at)| {
        let edges = edges(&special_purpose()[row]);
        edges[at % edges.len()]
    });
    let within =
        (0..special_purpose().len(), any::<u128>(), any::<u32>()).prop_map(|(row, bits, low)| {
            match special_purpose()[row].net {
                IpNet::V4(net) => {
                    let host = net.hostmask().to_bits() & low;
                    Ipv4Addr::from_bits(net.network().to_bits() | host).into()
                }
                IpNet::V6(net) => {
                    let host = bits & net.hostmask().to_bits();
                    Ipv6Addr::from_bits(net.network().to_bits() | host).into()
                }
            }
        });
    prop_oneof![
        any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).into()),
        any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits).into()),
        any::<u32>().prop_map(|bits| mapped(Ipv4Addr::from_bits(bits))),
        any::<u32>().prop_map(|bits| nat64(Ipv4Addr::from_bits(bits))),
        edge,
        within,
    ]
}

/// What the table means, said the slow way: of all rows that hold the address, the longest prefix.
fn longest_prefix(address: IpAddr) -> Option<&'static Block> {
    special_purpose()
        .iter()
        .filter(|row| row.net.contains(&address))
        .max_by_key(|row| row.net.prefix_len())
}

fn starts_with(address: IpAddr, prefix: &str) -> bool {
    prefix.parse::<IpNet>().unwrap().contains(&address)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn embedding_an_address_never_changes_its_class(bits: u32, allow_loopback: bool) {
        let inner = Ipv4Addr::from_bits(bits);
        let plain = classify(inner.into(), allow_loopback);
        prop_assert_eq!(classify(mapped(inner), allow_loopback), plain);
        prop_assert_eq!(classify(nat64(inner), allow_loopback), plain);
    }

    #[test]
    fn other_ipv6_is_forbidden(address in any_address()) {
        let known = ["2000::/3", "fc00::/7", "::ffff:0:0/96", "64:ff9b::/96"];
        if address.is_ipv6() && !known.iter().any(|prefix| starts_with(address, prefix)) {
            prop_assert_eq!(classify(address, false).class, Class::Forbidden);
        }
    }

    #[test]
    fn only_unique_local_is_private_in_ipv6(address in any_address()) {
        let verdict = classify(address, false);
        if verdict.judged.is_ipv6() && verdict.class == Class::Private {
            prop_assert!(starts_with(address, "fc00::/7"));
        }
        if verdict.judged.is_ipv6() && verdict.class == Class::Global {
            prop_assert!(starts_with(address, "2000::/3"));
        }
    }

    #[test]
    fn allowing_loopback_changes_only_loopback(address in any_address()) {
        let (strict, lax) = (classify(address, false), classify(address, true));
        if strict.judged.is_loopback() {
            prop_assert_eq!((strict.class, lax.class), (Class::Forbidden, Class::Private));
        } else {
            prop_assert_eq!(strict, lax);
        }
    }

    #[test]
    fn the_longest_prefix_decides(address in any_address()) {
        let verdict = classify(address, false);
        prop_assert_eq!(verdict.judged, judged_form(address));
        prop_assert_eq!(verdict.class, verdict.block.class);
        prop_assert!(verdict.block.net.contains(&verdict.judged));
        match (longest_prefix(verdict.judged), verdict.block.name) {
            (_, "isatap") => prop_assert_eq!(verdict.class, Class::Forbidden),
            (Some(row), _) => prop_assert_eq!(verdict.block, row),
            (None, name) => prop_assert!(matches!(name, "global unicast" | "unassigned")),
        }
    }

    #[test]
    fn isatap_is_forbidden_behind_any_prefix(prefix: u64, universal: bool, inner: u32, lax: bool) {
        let tag: u32 = if universal { 0x0200_5efe } else { 0x5efe };
        let interface = u64::from(tag) << 32 | u64::from(inner);
        let address = Ipv6Addr::from_bits(u128::from(prefix) << 64 | u128::from(interface));
        let verdict = classify(address.into(), lax);
        prop_assert_eq!((verdict.class, verdict.block.name), (Class::Forbidden, "isatap"));
    }

    #[test]
    fn the_judged_form_is_final(address in any_address()) {
        let judged = judged_form(address);
        prop_assert_eq!(judged_form(judged), judged);
        prop_assert_eq!(classify(judged, false), classify(address, false));
    }
}
