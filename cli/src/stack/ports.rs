//! Free loopback ports, chosen by the kernel. Between choice and use another process may take one: callers try again.

use std::net::{Ipv4Addr, TcpListener};

use crate::failure::{Exit, Failure, Outcome};

/// A port that is free now.
pub(super) fn free() -> Outcome<u16> {
    let cannot = |e| Failure::new(Exit::Failed, format!("cannot find a free port: {e}"));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(cannot)?;
    listener
        .local_addr()
        .map(|address| address.port())
        .map_err(cannot)
}

/// Whether a port can be bound now.
pub(super) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
