//! Addresses that stand for names inside a sandbox: what a resolver there is told, and what leads nowhere.
//!
//! A tool that knows no proxy resolves a name and connects. If the name did not resolve, nobody would ever learn which port
//! it wanted. So each name gets an address of its own in a block that no sandbox has a route to: the connection fails at
//! once, and whoever sees it try knows host and port. Nothing is resolved, and nothing leaves in a question.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use keyhatch_protocol::{Destination, DestinationHost, DnsName};

/// 198.18.0.0/15 is for benchmarks of closed networks (RFC 2544): nobody is there, and no policy opens it.
const FIRST: u32 = u32::from_be_bytes([198, 18, 0, 1]);
/// Names that get one: a build asks for a handful, an attack for as many as it likes.
const MOST: usize = 4096;
/// Last labels that no resolver of the world answers for: RFC 6761, 6762, 7686.
const NOWHERE: &[&str] = &["arpa", "example", "invalid", "local", "localhost", "onion", "test"];

/// The names of one session.
#[derive(Debug, Default)]
pub(super) struct StandIns {
    numbers: HashMap<DnsName, u32>,
    names: Vec<DnsName>,
}

impl StandIns {
    /// The address that stands for a name; none for a name that no resolver would know, and beyond the cap.
    pub(super) fn of(&mut self, name: &DnsName) -> Option<Ipv4Addr> {
        if let Some(number) = self.numbers.get(name) {
            return Some(Ipv4Addr::from(FIRST + number));
        }
        let mut labels = name.labels().rev();
        let last = labels.next()?;
        if labels.next().is_none() || NOWHERE.contains(&last) || self.names.len() >= MOST {
            return None;
        }
        let number = u32::try_from(self.names.len()).ok()?;
        self.numbers.insert(name.clone(), number);
        self.names.push(name.clone());
        Some(Ipv4Addr::from(FIRST + number))
    }

    /// The name that an address stands for.
    pub(super) fn name(&self, address: IpAddr) -> Option<&DnsName> {
        let IpAddr::V4(address) = address else { return None };
        let number = u32::from(address).checked_sub(FIRST)?;
        self.names.get(usize::try_from(number).ok()?)
    }

    /// What is meant by a destination: the name, where a tool resolved it here and names the address.
    pub(super) fn meant(&self, asked: &Destination) -> Destination {
        let name = match asked.host() {
            DestinationHost::Address(address) => self.name(*address),
            DestinationHost::Name(_) => None,
        };
        let named = name.map(|name| Destination::new(DestinationHost::Name(name.clone()), asked.port()));
        named.and_then(Result::ok).unwrap_or_else(|| asked.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> DnsName {
        DnsName::parse(text).expect(text)
    }

    #[test]
    fn each_name_has_an_address_of_its_own_and_leads_back() {
        let mut stand_ins = StandIns::default();
        let first = stand_ins.of(&name("a.example.org")).expect("an address");
        let second = stand_ins.of(&name("b.example.org")).expect("an address");
        assert_eq!((first, second), (Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(198, 18, 0, 2)));
        assert_eq!(stand_ins.of(&name("A.example.org")), Some(first));
        assert_eq!(stand_ins.name(second.into()), Some(&name("b.example.org")));
        assert!(stand_ins.name("198.18.0.3".parse().expect("an address")).is_none());
        assert!(stand_ins.name("198.18.0.0".parse().expect("an address")).is_none());
        let asked = Destination::parse("198.18.0.2:443").expect("a destination");
        assert_eq!(stand_ins.meant(&asked).to_string(), "b.example.org:443");
        let other = Destination::parse("203.0.113.1:443").expect("a destination");
        assert_eq!(stand_ins.meant(&other), other);
    }

    #[test]
    fn names_that_are_nowhere_have_none_and_neither_has_the_one_too_many() {
        let mut stand_ins = StandIns::default();
        for nowhere in ["db", "sandbox", "printer.local", "x.invalid", "a.test", "1.0.0.10.in-addr.arpa"] {
            assert_eq!(stand_ins.of(&name(nowhere)), None, "{nowhere}");
        }
        for n in 0..MOST {
            assert!(stand_ins.of(&name(&format!("h{n}.example.org"))).is_some(), "{n}");
        }
        assert_eq!(stand_ins.of(&name("more.example.org")), None);
        assert!(stand_ins.of(&name("h7.example.org")).is_some());
    }
}
