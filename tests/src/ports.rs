//! Free loopback ports below the range from which the kernel takes ports for outgoing connections. A server that is
//! killed and started again must get its port back; from the ephemeral range, a client that reconnects meanwhile could
//! be given that very port, and even connect to itself.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;

const RANGE: std::ops::Range<u64> = 15_000..32_000;

static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port that nothing listens on, and that this process was not given before.
///
/// # Panics
/// When none of many tries finds one.
pub(crate) fn free() -> u16 {
    let mut rng = crate::Rng::new(fresh());
    let mut given = GIVEN.lock().expect("no panic while ports are drawn");
    for _ in 0..1_000 {
        let port = u16::try_from(rng.between(RANGE)).expect("the range is below 65536");
        if !given.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            given.insert(port);
            return port;
        }
    }
    panic!("no free port found");
}

fn fresh() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}
