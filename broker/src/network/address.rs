//! Which addresses a session may be connected to, looked at after resolution: a name is whatever its owner says it is.
//!
//! Closed on doubt: what is not ordinary unicast, or could lead back to this machine or its neighbours, is refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// Why an address is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// RFC 1918, RFC 6598, RFC 4193: machines nearby. The policy can name hosts that may have one.
    Private,
    /// Everything else that is not for a session, with its name.
    Always(&'static str),
}

impl Refused {
    /// In words.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Private => "a private address",
            Self::Always(word) => word,
        }
    }
}

/// Judges an address by its number alone.
///
/// Documentation ranges (RFC 5737) are not in the list: nobody is there, so that refusing them defends nobody, and test
/// networks use them.
#[must_use]
pub fn refused(address: IpAddr) -> Option<Refused> {
    match address {
        IpAddr::V4(address) => refused_v4(address),
        IpAddr::V6(address) => refused_v6(address),
    }
}

fn refused_v4(address: Ipv4Addr) -> Option<Refused> {
    use Refused::{Always, Private};
    match address.octets() {
        [0, ..] => Some(Always("an address of this machine")),
        [127, ..] => Some(Always("a loopback address")),
        // 169.254.169.254 and its like hand out the machine's credentials in most clouds.
        [169, 254, ..] => Some(Always("a link-local or metadata address")),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Some(Private),
        // Alibaba's metadata service is in here too, at 100.100.100.200: above, as a private address.
        [192, 0, 0, _] | [198, 18 | 19, ..] => Some(Always("a reserved address")),
        [224..=239, ..] => Some(Always("a multicast address")),
        [240..=255, ..] => Some(Always("a reserved address")),
        _ => None,
    }
}

fn refused_v6(address: Ipv6Addr) -> Option<Refused> {
    use Refused::{Always, Private};
    let s = address.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        refused_v4(Ipv4Addr::new(a, b, c, d))
    };
    match s {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Some(Always("a loopback address")),
        // ::ffff:0:0/96: the kernel connects to the IPv4 address inside.
        [0, 0, 0, 0, 0, 0xffff, high, low] => v4(high, low),
        // NAT64 (RFC 6052): a translator connects to it. 64:ff9b:1::/48 is for local use (RFC 8215).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => v4(high, low).or(Some(Always("a tunnel's address"))),
        // Teredo (RFC 4380), ORCHID (RFC 7343).
        [0x2001, 0, ..] => Some(Always("a tunnel's address")),
        [0x2001, 0x20..=0x2f, ..] => Some(Always("a reserved address")),
        [0xfe80..=0xfebf, ..] => Some(Always("a link-local or metadata address")),
        [0xff00..=0xffff, ..] => Some(Always("a multicast address")),
        [0xfc00..=0xfdff, ..] if s[0..2] == [0xfd00, 0xec2] => {
            Some(Always("a link-local or metadata address"))
        }
        [0xfc00..=0xfdff, ..] => Some(Private),
        // Global unicast; the rest of the space is for nobody yet.
        [0x2000..=0x3fff, ..] => None,
        _ => Some(Always("a reserved address")),
    }
}

/// Whether an address is one of this machine's own: its services may trust whoever connects from here. The kernel is
/// asked by binding to it, which only works for an own address.
#[must_use]
pub fn is_own(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(text: &str) -> Option<Refused> {
        refused(text.parse().expect(text))
    }

    #[test]
    fn ordinary_addresses_pass() {
        for text in
            ["1.1.1.1", "203.0.113.80", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::101:101"]
        {
            assert_eq!(judged(text), None, "{text}");
        }
    }

    #[test]
    fn machines_nearby_are_private() {
        for text in [
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.100.100.200",
            "fd12::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
        ] {
            assert_eq!(judged(text), Some(Refused::Private), "{text}");
        }
    }

    #[test]
    fn what_leads_back_or_nowhere_is_refused_in_every_form() {
        for text in [
            "0.0.0.0",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "192.0.0.192",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::7f00:1",
            "2002:7f00:1::",
            "2002:101:101::",
            "2001::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "fd00:ec2::254",
            "100::1",
            "5f00::1",
        ] {
            assert!(matches!(judged(text), Some(Refused::Always(_))), "{text}: {:?}", judged(text));
        }
    }

    #[test]
    fn this_machines_own_addresses_are_known() {
        assert!(is_own("127.0.0.1".parse().expect("an address")));
        assert!(!is_own("198.51.100.77".parse().expect("an address")));
    }
}
