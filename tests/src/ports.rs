//! Free TCP ports below the kernel's ephemeral range, so that no outgoing connection takes one between choice and use.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Mutex;

/// Below 32,768, where Linux's ephemeral ports begin, and above what services are registered for on a test machine.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

static HANDED_OUT: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port of 127.0.0.1 that nobody listens on and that was not handed out before in this process.
///
/// # Panics
/// When none is left.
pub fn free_port() -> u16 {
    let mut handed_out = HANDED_OUT.lock().expect("no holder panics");
    for _ in 0..10_000 {
        let port = rand::random_range(PORTS);
        if handed_out.insert(port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port in {PORTS:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_port_never_repeats() {
        let ports: BTreeSet<u16> = (0..100).map(|_| free_port()).collect();
        assert_eq!(ports.len(), 100);
    }
}
