//! The addresses set aside for a purpose: IANA's special-purpose registries, and cloud metadata.
//!
//! - IPv4: <https://www.iana.org/assignments/iana-ipv4-special-registry>
//! - IPv6: <https://www.iana.org/assignments/iana-ipv6-special-registry>
//!
//! Every record of both registries has a row, but for the two prefixes of [`EMBEDDING`]. To them
//! are added multicast, deprecated forms of IPv6 that hosts still understand, and the metadata
//! services of clouds, which hand out credentials to whoever asks.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Block;
use super::Class::{self, Forbidden, Global, Private};

/// The day of the IANA special-purpose registries that the table follows (ISO 8601).
pub const REGISTRY_DATE: &str = "2025-10-09";

/// Every block that is not simply unicast of everyone, IPv4 before IPv6.
///
/// Within a family a longer prefix comes before a shorter one: the first row that holds an address
/// is the most specific, and decides. An IPv4 address in no row is global. An IPv6 address is in
/// the last row, `2000::/3`, or forbidden.
///
/// IANA marks some service addresses globally reachable inside a block that is not (192.0.0.9,
/// 192.0.0.10, `2001:1::1`, `2001:20::/28`, …). They are routers' and resolvers' services, never a
/// customer's endpoint, and stay forbidden with the block around them.
pub fn special_purpose() -> &'static [Block] {
    TABLE
}

/// IPv6 prefixes whose last 32 bits are the IPv4 address that is reached, each with its source.
///
/// They have no row: it is the address inside that is judged.
pub const EMBEDDING: [(Ipv6Net, &str); 2] = [
    (net6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96), "RFC 4291 §2.5.5.2, IPv4-mapped"),
    (net6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96), "RFC 6052 §2.1, NAT64 well-known prefix"),
];

/// The name of the rows that `policy.allow_loopback` lifts.
pub(super) const LOOPBACK: &str = "loopback";

/// IPv4 loopback where `policy.allow_loopback` is set.
pub(super) static LIFTED_LOOPBACK_V4: Block =
    v4([127, 0, 0, 0], 8, Private, LOOPBACK, "policy.allow_loopback");

/// IPv6 loopback where `policy.allow_loopback` is set.
pub(super) static LIFTED_LOOPBACK_V6: Block =
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128, Private, LOOPBACK, "policy.allow_loopback");

/// ISATAP interface identifiers, behind whatever prefix.
pub(super) static ISATAP: Block = v6([0; 8], 0, Forbidden, "isatap", "RFC 5214 §6.1");

/// An IPv4 address in no row.
pub(super) static ORDINARY_IPV4: Block = v4([0; 4], 0, Global, "global unicast", "RFC 791 §3.2");

/// An IPv6 address in no row: IANA has set it aside for nothing, or for nothing that we know.
pub(super) static OTHER_IPV6: Block = v6([0; 8], 0, Forbidden, "unassigned", "RFC 4291 §2.4");

#[rustfmt::skip]
static TABLE: &[Block] = &[
    // IPv4
    v4([  0,   0,   0,   0], 32, Forbidden, "unspecified", "RFC 1122 §3.2.1.3"),
    v4([100, 100, 100, 200], 32, Forbidden, METADATA, "Alibaba Cloud ECS user guide"),
    v4([168,  63, 129,  16], 32, Forbidden, METADATA, "Azure, What is IP address 168.63.129.16?"),
    v4([169, 254,  42,  42], 32, Forbidden, METADATA, "cloud-init, Scaleway"),
    v4([169, 254, 169, 254], 32, Forbidden, METADATA, "AWS EC2, Azure, Google Cloud, others"),
    v4([169, 254, 170,   2], 32, Forbidden, METADATA, "AWS ECS task credentials"),
    v4([169, 254, 170,  23], 32, Forbidden, METADATA, "AWS EKS Pod Identity"),
    v4([192,   0,   0,   8], 32, Forbidden, "ipv4 dummy address", "RFC 7600"),
    v4([192,   0,   0,   9], 32, Forbidden, "pcp anycast", "RFC 7723"),
    v4([192,   0,   0,  10], 32, Forbidden, "turn anycast", "RFC 8155"),
    v4([192,   0,   0, 170], 32, Forbidden, "nat64/dns64 discovery", "RFC 8880, RFC 7050 §2.2"),
    v4([192,   0,   0, 171], 32, Forbidden, "nat64/dns64 discovery", "RFC 8880, RFC 7050 §2.2"),
    v4([192,   0,   0, 192], 32, Forbidden, METADATA, "Oracle Cloud at Customer"),
    v4([192,  88,  99,   2], 32, Forbidden, "6a44 relay anycast", "RFC 6751"),
    v4([255, 255, 255, 255], 32, Forbidden, "limited broadcast", "RFC 8190, RFC 919 §7"),
    v4([192,   0,   0,   0], 29, Forbidden, "ipv4 service continuity", "RFC 7335"),
    v4([192,   0,   0,   0], 24, Forbidden, "ietf protocol assignments", "RFC 6890 §2.1"),
    v4([192,   0,   2,   0], 24, Forbidden, "documentation", "RFC 5737, TEST-NET-1"),
    v4([192,  31, 196,   0], 24, Global,    "as112", "RFC 7535"),
    v4([192,  52, 193,   0], 24, Global,    "amt", "RFC 7450"),
    v4([192,  88,  99,   0], 24, Forbidden, "6to4 relay anycast", "RFC 7526"),
    v4([192, 175,  48,   0], 24, Global,    "as112", "RFC 7534"),
    v4([198,  51, 100,   0], 24, Forbidden, "documentation", "RFC 5737, TEST-NET-2"),
    v4([203,   0, 113,   0], 24, Forbidden, "documentation", "RFC 5737, TEST-NET-3"),
    v4([169, 254,   0,   0], 16, Forbidden, "link-local", "RFC 3927"),
    v4([192, 168,   0,   0], 16, Private,   "private use", "RFC 1918"),
    v4([198,  18,   0,   0], 15, Forbidden, "benchmarking", "RFC 2544"),
    v4([172,  16,   0,   0], 12, Private,   "private use", "RFC 1918"),
    v4([100,  64,   0,   0], 10, Private,   "shared address space", "RFC 6598"),
    v4([  0,   0,   0,   0],  8, Forbidden, "this network", "RFC 791 §3.2"),
    v4([ 10,   0,   0,   0],  8, Private,   "private use", "RFC 1918"),
    v4([127,   0,   0,   0],  8, Forbidden, LOOPBACK, "RFC 1122 §3.2.1.3"),
    v4([224,   0,   0,   0],  4, Forbidden, "multicast", "RFC 5771"),
    v4([240,   0,   0,   0],  4, Forbidden, "reserved", "RFC 1112 §4"),

    // IPv6
    v6([0, 0, 0, 0, 0, 0, 0, 0],           128, Forbidden, "unspecified", "RFC 4291 §2.5.2"),
    v6([0, 0, 0, 0, 0, 0, 0, 1],           128, Forbidden, LOOPBACK, "RFC 4291 §2.5.3"),
    v6([0x2001, 1, 0, 0, 0, 0, 0, 1],      128, Forbidden, "pcp anycast", "RFC 7723"),
    v6([0x2001, 1, 0, 0, 0, 0, 0, 2],      128, Forbidden, "turn anycast", "RFC 8155"),
    v6([0x2001, 1, 0, 0, 0, 0, 0, 3],      128, Forbidden, "dns-sd anycast", "RFC 9665"),
    v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128, Forbidden, METADATA, "cloud-init, Scaleway"),
    v6([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128, Forbidden, METADATA, "oci-python-sdk"),
    v6([0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200], 128, Forbidden, METADATA, "cloud-init, Aliyun"),
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23], 128, Forbidden, METADATA, "AWS EKS Pod Identity"),
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128, Forbidden, METADATA, "AWS EC2 user guide"),
    v6([0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1], 128, Forbidden, METADATA, "cloud-init, Akamai"),
    v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, Forbidden, METADATA, "Google Cloud VM metadata"),
    v6([0, 0, 0, 0, 0, 0, 0, 0],            96, Forbidden, "ipv4-compatible", "RFC 4291 §2.5.5.1"),
    v6([0, 0, 0, 0, 0xffff, 0, 0, 0],       96, Forbidden, "ipv4-translated", "RFC 2765 §2.1"),
    v6([0x100, 0, 0, 0, 0, 0, 0, 0],        64, Forbidden, "discard-only", "RFC 6666"),
    v6([0x100, 0, 0, 1, 0, 0, 0, 0],        64, Forbidden, "dummy prefix", "RFC 9780"),
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0],    48, Forbidden, "local-use nat64", "RFC 8215"),
    v6([0x2001, 2, 0, 0, 0, 0, 0, 0],       48, Forbidden, "benchmarking", "RFC 5180"),
    v6([0x2001, 4, 0x112, 0, 0, 0, 0, 0],   48, Forbidden, "as112", "RFC 7535"),
    v6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0],  48, Global,    "as112", "RFC 7534"),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0],       32, Forbidden, "teredo", "RFC 4380, RFC 8190"),
    v6([0x2001, 3, 0, 0, 0, 0, 0, 0],       32, Forbidden, "amt", "RFC 7450"),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0],   32, Forbidden, "documentation", "RFC 3849"),
    v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0],    28, Forbidden, "orchid", "RFC 4843"),
    v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0],    28, Forbidden, "orchidv2", "RFC 7343"),
    v6([0x2001, 0x30, 0, 0, 0, 0, 0, 0],    28, Forbidden, "drone remote id", "RFC 9374"),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0],       23, Forbidden, "ietf protocol assignments", "RFC 2928"),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0],       20, Forbidden, "documentation", "RFC 9637"),
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0],       16, Forbidden, "6to4", "RFC 3056"),
    v6([0x3ffe, 0, 0, 0, 0, 0, 0, 0],       16, Forbidden, "6bone", "RFC 3701"),
    v6([0x5f00, 0, 0, 0, 0, 0, 0, 0],       16, Forbidden, "segment routing sids", "RFC 9602"),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0],       10, Forbidden, "link-local", "RFC 4291 §2.5.6"),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0],       10, Forbidden, "site-local", "RFC 3879"),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0],        8, Forbidden, "multicast", "RFC 4291 §2.7"),
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0],        7, Private,   "unique local", "RFC 4193, RFC 8190"),
    v6([0x2000, 0, 0, 0, 0, 0, 0, 0],        3, Global,    "global unicast", "RFC 4291 §2.5.4"),
];

/// The name of the rows of cloud metadata and other host services of clouds.
const METADATA: &str = "cloud metadata";

const fn v4(
    net: [u8; 4],
    len: u8,
    class: Class,
    name: &'static str,
    source: &'static str,
) -> Block {
    let [a, b, c, d] = net;
    let net = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), len));
    Block { net, class, name, source }
}

const fn v6(
    net: [u16; 8],
    len: u8,
    class: Class,
    name: &'static str,
    source: &'static str,
) -> Block {
    Block { net: IpNet::V6(net6(net, len)), class, name, source }
}

const fn net6(net: [u16; 8], len: u8) -> Ipv6Net {
    let [s0, s1, s2, s3, s4, s5, s6, s7] = net;
    Ipv6Net::new_assert(Ipv6Addr::new(s0, s1, s2, s3, s4, s5, s6, s7), len)
}
