//! How many handshakes are under way: all together, and of one address.
//!
//! When all places are taken the listener is not looked at; who waits there is held back by the kernel. When the places of one address
//! are taken, a newcomer of it takes that of its longest silent, or if all have said something of its longest waiting: a client shakes
//! hands at once, so silent ones keep out nobody of their own address either, and end nobody's handshake. Whose place was taken
//! still counts among all until its connection is closed.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::slots::lock;

/// Handshakes under way, of all addresses.
pub(super) const HALF_OPEN_MAX: usize = 128;
/// Of one address, or of one /64 of IPv6.
pub(super) const HALF_OPEN_OF_ADDRESS_MAX: usize = 32;

/// The places of an acceptor.
#[derive(Clone, Debug, Default)]
pub(super) struct HandshakePlaces(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// The longest waiting first.
    of_address: HashMap<IpAddr, VecDeque<Arc<Marks>>>,
}

/// What is known of who has a place.
#[derive(Debug, Default)]
struct Marks {
    heard: AtomicBool,
    replaced: AtomicBool,
}

/// A place among the handshakes; given back when dropped.
#[derive(Debug)]
pub(super) struct HandshakePlace {
    of: HandshakePlaces,
    key: IpAddr,
    marks: Arc<Marks>,
}

impl HandshakePlaces {
    /// Whether no place is free.
    pub(super) fn are_taken(&self) -> bool {
        lock(&self.0).all >= HALF_OPEN_MAX
    }

    /// Takes a place for a connection from `address`. None: all are taken.
    pub(super) fn take(&self, address: IpAddr) -> Option<HandshakePlace> {
        let key = key_of(address);
        let mut taken = lock(&self.0);
        if taken.all >= HALF_OPEN_MAX {
            return None;
        }
        taken.all += 1;
        let alike = taken.of_address.entry(key).or_default();
        if alike.len() >= HALF_OPEN_OF_ADDRESS_MAX
            && let silent = alike.iter().position(|it| !it.heard.load(Ordering::Relaxed))
            && let Some(replaced) = alike.remove(silent.unwrap_or(0))
        {
            replaced.replaced.store(true, Ordering::Relaxed);
        }
        let marks = Arc::new(Marks::default());
        alike.push_back(marks.clone());
        Some(HandshakePlace { of: self.clone(), key, marks })
    }
}

impl HandshakePlace {
    /// Whether another connection of its address took it.
    pub(super) fn is_replaced(&self) -> bool {
        self.marks.replaced.load(Ordering::Relaxed)
    }

    /// Notes that its peer has said something.
    pub(super) fn note_heard(&self) {
        self.marks.heard.store(true, Ordering::Relaxed);
    }
}

impl Drop for HandshakePlace {
    fn drop(&mut self) {
        let mut taken = lock(&self.of.0);
        taken.all -= 1;
        if let Some(alike) = taken.of_address.get_mut(&self.key) {
            alike.retain(|other| !Arc::ptr_eq(other, &self.marks));
            if alike.is_empty() {
                taken.of_address.remove(&self.key);
            }
        }
    }
}

/// Returns what counts as one address: an address of IPv4, a /64 of IPv6, of which one host has all.
fn key_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn places_end_at_the_bound_and_come_back() {
        let places = HandshakePlaces::default();
        let mut held: Vec<_> = (0..HALF_OPEN_MAX)
            .map(|number| places.take(address(u8::try_from(number).unwrap())).unwrap())
            .collect();
        assert!(places.are_taken());
        assert!(places.take(address(200)).is_none());
        held.pop();
        assert!(!places.are_taken());
        let again = places.take(address(200)).unwrap();
        assert!(places.are_taken() && !held.iter().any(HandshakePlace::is_replaced));
        drop((held, again));
        let taken = lock(&places.0);
        assert!(taken.all == 0 && taken.of_address.is_empty(), "{taken:?}");
    }

    #[test]
    fn one_address_takes_its_own_places_alone() {
        let places = HandshakePlaces::default();
        let other = places.take(address(1)).unwrap();
        let held: Vec<_> =
            (0..HALF_OPEN_OF_ADDRESS_MAX + 3).map(|_| places.take(address(2)).unwrap()).collect();
        let replaced: Vec<_> = held.iter().map(HandshakePlace::is_replaced).collect();
        assert!(replaced[..3].iter().all(|it| *it), "the longest waiting");
        assert!(!replaced[3..].iter().any(|it| *it) && !other.is_replaced());
        assert_eq!(lock(&places.0).all, held.len() + 1, "replaced ones are there until they end");
    }

    #[test]
    fn silent_ones_are_replaced_before_those_that_shake_hands() {
        let places = HandshakePlaces::default();
        let held: Vec<_> =
            (0..HALF_OPEN_OF_ADDRESS_MAX).map(|_| places.take(address(2)).unwrap()).collect();
        let (shaking, silent) = held.split_at(HALF_OPEN_OF_ADDRESS_MAX - 1);
        shaking.iter().for_each(HandshakePlace::note_heard);
        let newcomer = places.take(address(2)).unwrap();
        assert!(silent[0].is_replaced() && !shaking.iter().any(HandshakePlace::is_replaced));
        newcomer.note_heard();
        let _last = places.take(address(2)).unwrap();
        assert!(shaking[0].is_replaced(), "none is silent: the longest waiting");
        assert!(!shaking[1..].iter().any(HandshakePlace::is_replaced));
        assert!(!newcomer.is_replaced());
    }

    #[test]
    fn a_host_of_ipv6_is_one_address_and_mapped_addresses_are_those_of_ipv4() {
        let of = |text: &str| key_of(text.parse().unwrap());
        assert_eq!(of("2001:db8:0:7::1"), of("2001:db8:0:7:ffff::2"));
        assert_ne!(of("2001:db8:0:7::1"), of("2001:db8:0:8::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
