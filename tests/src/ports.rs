//! Ports on loopback that nothing listens on.

use std::net::TcpListener;

/// A port that was free a moment ago. The kernel hands them out in an order that does not repeat soon.
///
/// # Panics
/// When loopback has no port left.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// Waits until something listens.
pub(crate) fn wait_for(port: u16, what: &str) {
    for _ in 0..500 {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("{what} does not listen on port {port}");
}
